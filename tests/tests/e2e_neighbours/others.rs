//! What is left to others: who answers on the wire, whether an endpoint lives, what other nodes choose.

use std::time::Duration;

use lb_tests::{
    cluster::Endpoint,
    lab::{Cidr, FAMILIES, Family, Node, Setup, service_networks},
    worker::{Outcome, Proto, UdpStyle},
};

use crate::{ask, start, web};

/// CIP-6: a cluster IP is on no device: nobody answers for it on the wire, and no process can bind it.
#[test]
fn nobody_answers_for_a_cluster_address_on_the_wire() {
    let Some(cluster) = start(Setup::default()) else { return };
    cluster.put(&web(), &[Endpoint::pod(&cluster.lab.nodes[0].pods[0])]).unwrap();
    let client = &cluster.lab.client;
    for (family, network) in FAMILIES.into_iter().zip(service_networks()) {
        let at = web().addresses.at(family, 80);
        let outcome = ask(&client.worker, Proto::Tcp, at, 3000);
        assert!(outcome.by().is_some(), "by the route to a node: {outcome}");
        // As if the network were on the client's own link: then it asks for the address there.
        let gateway = cluster.lab.nodes[0].addresses.ip(family);
        client.netns.netlink().delete_route(network, Some(gateway), "eth0").unwrap();
        client.netns.netlink().add_route(network, None, "eth0").unwrap();
        let outcome = ask(&client.worker, Proto::Tcp, at, 10_000);
        assert_eq!(outcome, Outcome::Unreachable, "{at}");
        let host = &cluster.lab.nodes[0].host;
        let bound = host.serve(Proto::Tcp, at).map_err(|error| format!("{error:#}"));
        assert!(bound.is_err_and(|error| error.contains("assign")), "{at} could be bound");
    }
}

/// BAL-3: whether an endpoint answers is not asked: a dead one keeps its share.
#[test]
fn a_dead_endpoint_keeps_its_share() {
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let (alive, dead) = (&one.pods[1], &two.pods[0]);
    for at in FAMILIES.map(|family| dead.addresses.at(family, 8080)) {
        dead.worker.stop(Proto::Tcp, at).unwrap();
    }
    cluster.put(&web(), &[alive, dead].map(Endpoint::pod)).unwrap();
    for family in FAMILIES {
        let at = web().addresses.at(family, 80);
        let share = one.pods[0].worker.many(Proto::Tcp, at, 400).unwrap();
        // Half of 400, give or take five standard deviations.
        let answered = share.by.get(alive.name()).copied().unwrap_or(0);
        assert!((150..=250).contains(&answered), "{at}: {share:?}");
    }
}

/// BAL-4, AFF-3: each node chooses by itself, so that one client may get another backend from each.
#[test]
fn nodes_choose_by_themselves() {
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    cluster.put(&web().affinity(600), &[&one.pods[0], &two.pods[0]].map(Endpoint::pod)).unwrap();
    // A client's choice by each node; 40 clients that all got the same from both would be a wonder.
    let client = &cluster.lab.client;
    let mut differ = 0;
    for number in 0..40_u8 {
        let own = std::net::IpAddr::from([10, 0, 0, 150 + number]);
        client.netns.netlink().add_address("eth0", Cidr(own, 32)).unwrap();
        let from = Some(std::net::SocketAddr::new(own, 0));
        let choice = |node: &Node| {
            let at = node.addresses.at(Family::V4, 30080);
            let patience = Duration::from_secs(3);
            let outcome = client
                .worker
                .probe_with(Proto::Tcp, UdpStyle::Connected, at, from, patience)
                .unwrap();
            outcome.by().map(ToOwned::to_owned).unwrap_or_else(|| panic!("{at}: {outcome}"))
        };
        differ += u32::from(choice(one) != choice(two));
    }
    assert!(differ > 0, "both nodes chose the same 40 times");
}
