//! New connections spread evenly over the backends, and one flow stays where it is.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Setup},
    worker::{MonitorKind, Proto, Share, UdpStyle},
};

/// χ² with four degrees of freedom that chance exceeds once in a thousand times.
const BOUND: f64 = 18.467;
const CONNECTIONS: u32 = 3000;

fn vote() -> Service {
    Service::new("vote", 10).port("http", Proto::Tcp, 80, 8080, Some(30000)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30000),
    )
}

fn start() -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![3, 2], ..Setup::default() }, &[])?;
    cluster.lab.serve(8080).unwrap();
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&vote(), &endpoints).unwrap();
    Some(cluster)
}

fn chi_squared(share: &Share) -> f64 {
    let expected = f64::from(CONNECTIONS) / 5.0;
    let sum: f64 =
        share.by.values().map(|got| (f64::from(*got) - expected).powi(2) / expected).sum();
    sum + expected * (5.0 - f64::from(u32::try_from(share.by.len()).unwrap()))
}

#[test]
fn three_thousand_connections_from_outside_are_all_answered_in_even_shares() {
    let Some(cluster) = start() else { return };
    for node in &cluster.lab.nodes {
        for family in FAMILIES {
            let at = node.addresses.at(family, 30000);
            let mut figures = Vec::new();
            // Chance alone fails one try in a thousand; twice in a row, one in a million.
            for _ in 0..2 {
                let share = cluster.lab.client.worker.many(Proto::Tcp, at, CONNECTIONS).unwrap();
                assert_eq!(share.failures, [], "{at}");
                assert_eq!(share.by.values().sum::<u32>(), CONNECTIONS, "{at}");
                figures.push(chi_squared(&share));
                println!("{at}: χ² {:.2}, {:?}", figures[figures.len() - 1], share.by);
                if figures.last().is_some_and(|figure| *figure < BOUND) {
                    break;
                }
            }
            assert!(figures.iter().any(|figure| *figure < BOUND), "{at}: χ² {figures:?}");
        }
    }
}

#[test]
fn requests_of_one_udp_socket_stay_with_one_backend_and_sockets_spread() {
    let Some(cluster) = start() else { return };
    let lab = &cluster.lab;
    for family in FAMILIES {
        let node_port = lab.nodes[0].addresses.at(family, 30000);
        let cluster_ip = vote().addresses.at(family, 80);
        let clients = [
            (&lab.client.worker, node_port),
            (&lab.nodes[0].pods[0].worker, cluster_ip),
            (&lab.nodes[0].host, cluster_ip),
        ];
        for (client, at) in clients {
            let every = std::time::Duration::from_millis(1);
            let ping = MonitorKind::Ping(UdpStyle::Connected);
            let monitor = client.monitor(ping, at, every).unwrap();
            while client.peek(monitor).unwrap().answered < 100 {}
            let seen = client.end(monitor).unwrap();
            assert_eq!((seen.by.len(), seen.lost), (1, 0), "{} to {at}: {seen:?}", client.name());
            let share = client.many(Proto::Udp, at, 100).unwrap();
            assert_eq!(share.failures, [], "{} to {at}", client.name());
            assert_eq!(share.by.len(), 5, "{} to {at}: {:?}", client.name(), share.by);
        }
    }
}

#[test]
fn a_source_port_that_is_used_again_starts_a_new_connection() {
    let Some(cluster) = start() else { return };
    let lab = &cluster.lab;
    for family in FAMILIES {
        let mut backends = std::collections::BTreeSet::new();
        let at = lab.nodes[0].addresses.at(family, 30000);
        for _ in 0..40 {
            let from = Some(lab.client.addresses.at(family, 5555));
            let patience = std::time::Duration::from_millis(900);
            let client = &lab.client.worker;
            let outcome =
                client.probe_with(Proto::Tcp, UdpStyle::Connected, at, from, patience).unwrap();
            let _ = backends.insert(outcome.by().unwrap_or_else(|| panic!("{outcome}")).to_owned());
        }
        assert!(backends.len() > 1, "one backend got all: the choice was never made again");
    }
}
