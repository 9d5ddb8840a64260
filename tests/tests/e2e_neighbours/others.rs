//! What is left to others, or to nobody: who answers on the wire, whether an endpoint lives, what other nodes
//! choose, who listens, who tracks connections.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::{
    cluster::Endpoint,
    lab::{Cidr, FAMILIES, Family, Node, Setup, service_networks},
    worker::{Outcome, Proto, UdpStyle},
};

use crate::{BOTH, ask, start, web};

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
        let own = IpAddr::from([10, 0, 0, 150 + number]);
        client.netns.netlink().add_address("eth0", Cidr(own, 32)).unwrap();
        let from = Some(SocketAddr::new(own, 0));
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

/// What a file of a node's own `/proc` says; nothing where there is none.
fn read(node: &Node, path: &str) -> String {
    let output = node.place.command("cat").unwrap().arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// NP-7: processes of the node reach node ports at loopback addresses by every protocol, and nobody
/// listens there to make that so.
#[test]
fn no_process_listens_where_loopback_serves_node_ports() {
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    cluster.put(&web(), &[Endpoint::pod(&two.pods[0])]).unwrap();
    let loopback = [IpAddr::from([127, 0, 0, 1]), [0, 0, 0, 0, 0, 0, 0, 1].into()];
    for at in loopback.map(|ip| SocketAddr::new(ip, 30080)) {
        for proto in BOTH {
            let outcome = ask(&one.host, proto, at, 3000);
            assert_eq!(outcome.by(), Some(two.pods[0].name()), "{at} {proto}: {outcome}");
        }
    }
    let bound = |port: u16| {
        let tables = ["tcp", "tcp6", "udp", "udp6"].map(|of| read(one, &format!("/proc/net/{of}")));
        let end = format!(":{port:04X}");
        let local =
            |line: &str| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&end));
        tables.iter().flat_map(|table| table.lines()).filter(|line| local(line)).count()
    };
    assert_eq!(bound(30080), 0);
    for at in loopback.map(|ip| SocketAddr::new(ip, 30079)) {
        BOTH.iter().for_each(|proto| one.host.serve(*proto, at).unwrap());
    }
    assert_eq!(bound(30079), 4, "those who listen are seen");
}

/// CT-9: the kernel's connection tracking has no part in it, on either node and by whatever way.
#[test]
fn the_kernel_tracks_no_connection_for_a_service() {
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    cluster.put(&web(), &[&one.pods[1], &two.pods[0]].map(Endpoint::pod)).unwrap();
    let clients = [&one.pods[0].worker, &one.host, &one.unhooked, &cluster.lab.client.worker];
    for family in FAMILIES {
        for at in [web().addresses.at(family, 80), one.addresses.at(family, 30080)] {
            for client in clients {
                for proto in BOTH {
                    let outcome = ask(client, proto, at, 3000);
                    assert!(outcome.by().is_some(), "{} to {at}: {outcome}", client.name());
                }
            }
        }
    }
    for node in [one, two] {
        // Where the kernel does not even know how, there is no such file.
        let count = read(node, "/proc/sys/net/netfilter/nf_conntrack_count");
        assert!(["", "0"].contains(&count.trim()), "{}: {count}", node.name());
    }
}
