//! Which addresses and ports are frontends, and which are left alone.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::net::{IpAddr, SocketAddr};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Cidr, FAMILIES, Family, PATIENCE, Setup, until},
    worker::{Outcome, Proto, UdpStyle},
};

fn web() -> Service {
    Service::new("web", 20)
        .port("tcp", Proto::Tcp, 80, 8080, Some(30080))
        .port("udp", Proto::Udp, 80, 8080, Some(30080))
        .port("only-tcp", Proto::Tcp, 90, 8080, Some(30090))
}

fn start(flags: &[&str]) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![2, 1], ..Setup::default() }, flags)?;
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web(), &endpoints).unwrap();
    Some(cluster)
}

const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// Clients of every kind, with what they are called.
fn clients(cluster: &Cluster) -> [&lb_tests::worker::Worker; 4] {
    let node = &cluster.lab.nodes[0];
    [&node.pods[0].worker, &node.host, &node.unhooked, &cluster.lab.client.worker]
}

#[test]
fn an_unknown_port_of_a_cluster_address_is_refused() {
    let Some(cluster) = start(&[]) else { return };
    for family in FAMILIES {
        let at = web().addresses.at(family, 81);
        for client in clients(&cluster) {
            for proto in BOTH {
                let outcome = client.probe(proto, at).unwrap();
                assert_eq!(outcome, Outcome::Refused, "{} to {at} {proto}", client.name());
            }
        }
        // UDP to a port that is TCP only.
        let udp = web().addresses.at(family, 90);
        for client in clients(&cluster) {
            let outcome = client.probe(Proto::Udp, udp).unwrap();
            assert_eq!(outcome, Outcome::Refused, "{} to {udp} UDP", client.name());
        }
    }
}

#[test]
fn a_service_without_endpoints_is_refused_everywhere() {
    let Some(cluster) = start(&[]) else { return };
    cluster.put(&web(), &[]).unwrap();
    let loopback: [IpAddr; 2] = [[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()];
    for (family, loopback) in FAMILIES.into_iter().zip(loopback) {
        let node = cluster.lab.nodes[0].addresses.at(family, 30080);
        for client in clients(&cluster) {
            for at in [web().addresses.at(family, 80), node] {
                for proto in BOTH {
                    let outcome = client.probe(proto, at).unwrap();
                    assert_eq!(outcome, Outcome::Refused, "{} to {at} {proto}", client.name());
                }
            }
        }
        let node = &cluster.lab.nodes[0];
        for host in [&node.host, &node.unhooked] {
            let at = SocketAddr::new(loopback, 30080);
            for proto in BOTH {
                let outcome = host.probe(proto, at).unwrap();
                assert_eq!(outcome, Outcome::Refused, "{} to {at} {proto}", host.name());
            }
        }
    }
}

#[test]
fn ports_that_are_no_node_ports_are_the_hosts() {
    let Some(cluster) = start(&[]) else { return };
    let client = &cluster.lab.client.worker;
    let node = &cluster.lab.nodes[0];
    for family in FAMILIES {
        for proto in BOTH {
            // Neither a free port, nor the Service's own port number.
            for port in [30079, 80] {
                let at = node.addresses.at(family, port);
                assert_eq!(client.probe(proto, at).unwrap(), Outcome::Refused, "{at} {proto}");
                node.host.serve(proto, at).unwrap();
                let by = client.probe(proto, at).unwrap();
                assert_eq!(by.by(), Some("node1"), "{at} {proto}: {by}");
            }
        }
        // UDP of a port that is a node port for TCP only.
        let at = node.addresses.at(family, 30090);
        assert_eq!(client.probe(Proto::Udp, at).unwrap(), Outcome::Refused);
        node.host.serve(Proto::Udp, at).unwrap();
        assert_eq!(client.probe(Proto::Udp, at).unwrap().by(), Some("node1"));
        assert!(client.probe(Proto::Tcp, at).unwrap().by().unwrap().starts_with("pod"));
    }
}

#[test]
fn a_node_port_shadows_a_process_that_listens_there_and_takes_nobody_elses_replies() {
    let Some(cluster) = start(&[]) else { return };
    let client = &cluster.lab.client;
    let node = &cluster.lab.nodes[0];
    for family in FAMILIES {
        for proto in BOTH {
            let at = node.addresses.at(family, 30080);
            node.host.serve(proto, at).unwrap();
            let by = client.worker.probe(proto, at).unwrap();
            assert!(by.by().is_some_and(|by| by.starts_with("pod")), "{at} {proto}: {by}");
            node.host.stop(proto, at).unwrap();
            // A host process that talks to the outside from the very port of the node port.
            client.worker.serve(proto, client.addresses.at(family, 7000)).unwrap();
            for _ in 0..2 {
                let outcome = node
                    .host
                    .probe_with(
                        proto,
                        UdpStyle::Connected,
                        client.addresses.at(family, 7000),
                        Some(at),
                        std::time::Duration::from_secs(1),
                    )
                    .unwrap();
                assert_eq!(outcome.by(), Some("client"), "from {at} {proto}: {outcome}");
            }
        }
    }
}

#[test]
fn any_number_can_be_a_node_port() {
    let Some(cluster) = start(&[]) else { return };
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    for number in [1, 80, 65535] {
        let service = Service::new("odd", 21).port("", Proto::Tcp, 80, 8080, Some(number));
        cluster.put(&service, &endpoints).unwrap();
        for family in FAMILIES {
            let at = cluster.lab.nodes[0].addresses.at(family, number);
            let outcome = cluster.lab.client.worker.probe(Proto::Tcp, at).unwrap();
            assert!(outcome.by().is_some(), "{at}: {outcome}");
        }
    }
}

#[test]
fn broadcast_and_multicast_reach_no_backend() {
    let Some(cluster) = start(&[]) else { return };
    let client = &cluster.lab.client.worker;
    let before = received(&cluster);
    client.send(([10, 0, 0, 255], 30080).into(), "broadcast").unwrap();
    client.send(([255, 255, 255, 255], 30080).into(), "broadcast").unwrap();
    client.send(([224, 0, 0, 1], 30080).into(), "multicast").unwrap();
    client.send("[ff02::1]:30080".parse().unwrap(), "multicast").unwrap();
    // What came before the answer to a later request has been dealt with.
    let at = cluster.lab.nodes[0].addresses.at(Family::V4, 30080);
    assert!(client.probe(Proto::Udp, at).unwrap().by().is_some());
    assert_eq!(received(&cluster), before + 1);
}

/// Flows that chose a backend of the UDP port, over all nodes.
fn received(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for agent in &cluster.agents {
        let rows = agent.commands.json(&["backends", "--service", "default/web"]).unwrap();
        let rows = rows.as_array().unwrap().clone();
        let udp = rows.iter().filter(|row| row["protocol"] == "UDP");
        sum += udp.map(|row| row["flows"].as_u64().unwrap()).sum::<u64>();
    }
    sum
}

#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    let Some(cluster) = start(&[]) else { return };
    let client = &cluster.lab.client.worker;
    let netlink = cluster.lab.nodes[0].netns.netlink();
    for ip in [IpAddr::from([10, 0, 0, 77]), "fd00::77".parse().unwrap()] {
        let at = SocketAddr::new(ip, 30080);
        let new = Cidr(ip, if ip.is_ipv4() { 24 } else { 64 });
        assert_eq!(client.probe(Proto::Tcp, at).unwrap().by(), None, "{at} before");
        netlink.add_address("eth0", new).unwrap();
        until(&format!("{at} to be answered"), PATIENCE, || {
            Ok(client.probe(Proto::Tcp, at)?.by().map(drop))
        })
        .unwrap();
        for proto in BOTH {
            let outcome = client.probe(proto, at).unwrap();
            assert!(outcome.by().is_some(), "{at} {proto}: {outcome}");
        }
        netlink.delete_address("eth0", new).unwrap();
        until(&format!("{at} to be answered no more"), PATIENCE, || {
            Ok(client.probe(Proto::Tcp, at)?.by().is_none().then_some(()))
        })
        .unwrap();
    }
}

#[test]
fn node_port_addresses_can_be_chosen() {
    let secondary: IpAddr = [10, 0, 0, 77].into();
    for (flag, primary_serves, secondary_serves, loopback_serves) in [
        ("primary", true, false, false),
        ("10.0.0.77/32", false, true, false),
        ("localhost", false, false, true),
        ("primary,localhost", true, false, true),
    ] {
        let setup = Setup { pods: vec![1], ..Setup::default() };
        let flag = format!("--nodeport-addresses={flag}");
        let Some(cluster) = Cluster::start_or_skip(setup, &[&flag]) else { return };
        cluster.lab.serve(8080).unwrap();
        let node = &cluster.lab.nodes[0];
        node.netns.netlink().add_address("eth0", Cidr(secondary, 24)).unwrap();
        cluster.put(&web(), &[Endpoint::pod(&node.pods[0])]).unwrap();
        let client = &cluster.lab.client.worker;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 30080));
        let primary = node.addresses.at(Family::V4, 30080);
        let expected = [
            (client, primary, primary_serves),
            (client, SocketAddr::new(secondary, 30080), secondary_serves),
            (&node.host, loopback, loopback_serves),
        ];
        for (client, at, serves) in expected {
            until(&format!("{flag}: {at} to serve: {serves}"), PATIENCE, || {
                let outcome = client.probe(Proto::Tcp, at)?;
                let right =
                    if serves { outcome.by().is_some() } else { outcome == Outcome::Refused };
                Ok(right.then_some(()))
            })
            .unwrap();
        }
    }
}

#[test]
fn a_host_process_needs_no_route_to_a_cluster_address() {
    let Some(cluster) = start(&[]) else { return };
    let node = &cluster.lab.nodes[0];
    // A pod of node 2: on node 1 even the pods' gateway depends on the default route (proxy ARP).
    cluster.put(&web(), &[Endpoint::pod(&cluster.lab.nodes[1].pods[0])]).unwrap();
    for gateway in cluster.lab.underlay.addresses.both() {
        node.netns.netlink().delete_route(Cidr::any(gateway), Some(gateway), "eth0").unwrap();
    }
    for family in FAMILIES {
        for proto in BOTH {
            let at = web().addresses.at(family, 80);
            let outcome = node.host.probe(proto, at).unwrap();
            assert!(outcome.by().is_some(), "{at} {proto}: {outcome}");
        }
    }
}

#[test]
fn cluster_addresses_may_lie_anywhere() {
    let Some(cluster) = start(&[]) else { return };
    let mut service = Service::new("elsewhere", 21).port("", Proto::Tcp, 443, 8080, None);
    service.addresses.v4 = [172, 30, 5, 6].into();
    service.addresses.v6 = "2001:db8::5:6".parse().unwrap();
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&service, &endpoints).unwrap();
    let node = &cluster.lab.nodes[0];
    for family in FAMILIES {
        for client in [&node.pods[0].worker, &node.host, &node.unhooked] {
            let outcome = client.probe(Proto::Tcp, service.addresses.at(family, 443)).unwrap();
            assert!(outcome.by().is_some(), "{} {family}: {outcome}", client.name());
        }
    }
}

#[test]
fn large_transfers_are_translated_octet_for_octet() {
    use lb_tests::lab::Offloads;
    for tx in [false, true] {
        let offloads = Offloads { tx, gro: tx };
        let setup =
            Setup { pods: vec![2, 1], wires: offloads, pod_links: offloads, ..Setup::default() };
        let Some(cluster) = Cluster::start_or_skip(setup, &[]) else { return };
        cluster.lab.serve(8080).unwrap();
        let node = &cluster.lab.nodes[0];
        for pod in [&node.pods[1], &cluster.lab.nodes[1].pods[0]] {
            cluster.put(&web(), &[Endpoint::pod(pod)]).unwrap();
            for family in FAMILIES {
                let targets = [
                    (&cluster.lab.client.worker, node.addresses.at(family, 30080)),
                    (&node.pods[0].worker, web().addresses.at(family, 80)),
                    (&node.unhooked, web().addresses.at(family, 80)),
                ];
                for (client, at) in targets {
                    let bulk = client.bulk(at, 3_000_000).unwrap();
                    let got = (bulk.received, bulk.sent);
                    assert_eq!(got, (3_000_000, 3_000_000), "{} to {at} tx {tx}", client.name());
                }
            }
        }
    }
}
