//! How many clients are remembered, and by whom.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Cidr, FAMILIES, Family, PATIENCE, Setup, until},
    worker::{Proto, UdpStyle},
};

/// As many as a list of iptables' remembers, five times.
const CLIENTS: u16 = 500;

fn address(family: Family, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::V4 => [10, 9, high, low].into(),
        Family::V6 => [0xfd09, 0, 0, 0, 0, 0, 0, number].into(),
    }
}

/// A cluster with a Service that knows its clients again, and a client with many addresses.
fn start() -> Option<Cluster> {
    let setup = Setup { pods: vec![3, 3], ..Setup::default() };
    let cluster = Cluster::start_or_skip(setup, &[])?;
    cluster.lab.serve(8080).unwrap();
    let web =
        Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080)).affinity(10_800);
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web, &endpoints).unwrap();
    let client = &cluster.lab.client;
    for family in FAMILIES {
        for number in 1..=CLIENTS {
            let ip = Cidr::host(address(family, number));
            client.netns.netlink().add_address("eth0", ip).unwrap();
        }
        let network = Cidr(address(family, 0), if family == Family::V4 { 16 } else { 64 });
        for node in &cluster.lab.nodes {
            let by = Some(client.addresses.ip(family));
            node.netns.netlink().add_route(network, by, "eth0").unwrap();
        }
    }
    Some(cluster)
}

/// Who answers each of the first clients at a node.
fn answers(cluster: &Cluster, node: usize, family: Family, clients: u16) -> BTreeMap<u16, String> {
    let at = cluster.lab.nodes[node].addresses.at(family, 30080);
    let ask = |number: u16| {
        let from = Some(SocketAddr::new(address(family, number), 0));
        let patience = Duration::from_secs(10);
        let client = &cluster.lab.client.worker;
        let outcome =
            client.probe_with(Proto::Tcp, UdpStyle::Connected, at, from, patience).unwrap();
        let by = outcome.by().unwrap_or_else(|| panic!("{from:?} at {at}: {outcome}"));
        (number, by.to_owned())
    };
    (1..=clients).map(ask).collect()
}

/// AFF-9: five times as many clients as iptables remembers keep their backends, and the number that is
/// remembered is told beside what there is room for.
#[test]
fn hundreds_of_clients_keep_their_backends_and_are_counted() {
    let Some(cluster) = start() else { return };
    for family in FAMILIES {
        let first = answers(&cluster, 0, family, CLIENTS);
        let backends: BTreeSet<&String> = first.values().collect();
        assert_eq!(backends.len(), 6, "all backends have clients: {backends:?}");
        assert_eq!(answers(&cluster, 0, family, CLIENTS), first, "{family}");
        let map = if family == Family::V4 { "LB4_AFFINITY" } else { "LB6_AFFINITY" };
        until(&format!("{map} to hold the clients"), PATIENCE, || {
            let status = cluster.agents[0].status()?;
            let maps = status["maps"].as_array().cloned().unwrap_or_default();
            let map = maps.into_iter().find(|one| one["map"] == map);
            let held = map.is_some_and(|map| {
                let number = |field: &str| map[field].as_u64().unwrap_or(0);
                let used = number("used");
                used >= u64::from(CLIENTS) && used < number("capacity")
            });
            Ok(held.then_some(()))
        })
        .unwrap();
    }
}

/// AFF-3: a client that comes by another node is a stranger there.
#[test]
fn each_node_remembers_its_own_clients() {
    let Some(cluster) = start() else { return };
    for family in FAMILIES {
        let by_node: Vec<_> = (0..2).map(|node| answers(&cluster, node, family, 40)).collect();
        assert_ne!(by_node[0], by_node[1], "{family}: forty choices among six, twice the same");
        for (node, first) in by_node.iter().enumerate() {
            assert_eq!(answers(&cluster, node, family, 40), *first, "{family} at node {node}");
        }
    }
}
