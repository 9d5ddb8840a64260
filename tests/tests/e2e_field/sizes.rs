//! Packets that do not fit on the way to the backend: they arrive in pieces, or their sender learns what fits, and
//! learns it of the address that it knows.

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use lb_tests::{
    cluster::{Cluster, Service},
    lab::{
        Cidr, Datagrams, FAMILIES, Family, Netns, Network, Setup, load_balancer_address,
        netlink::End,
    },
    worker::{Proto, Worker},
};

use super::{By, NODE_PORT, put, start, web};

/// Where a backend waits whose answers are short whatever it is sent.
const SIZED: u16 = 8090;
const SIZED_PORT: u16 = 81;
const SIZED_NODE_PORT: u16 = 30081;

/// `web` with a port for datagrams of any size.
fn sized() -> Service {
    web().port("sized", Proto::Udp, SIZED_PORT, SIZED, Some(SIZED_NODE_PORT))
}

/// What the narrow place is.
#[derive(Clone, Copy, Debug)]
enum Narrow {
    /// A wire between the nodes.
    Wire,
    /// A route, over a wire that would carry more.
    Route,
}

impl Narrow {
    const MTU: u16 = 1400;

    /// Makes the way between the nodes' pods narrow, in both directions.
    fn make(self, cluster: &Cluster) {
        let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
        match self {
            Self::Wire => {
                let here = End { name: "wire0", mac: [2, 0x1b, 99, 0, 0, 1] };
                let there = End { name: "wire0", mac: [2, 0x1b, 99, 0, 0, 2] };
                one.netns.netlink().veth(&here, &there, two.netns.as_fd()).unwrap();
                for (node, number) in [(one, 1), (two, 2)] {
                    let netlink = node.netns.netlink();
                    netlink.set_mtu("wire0", Self::MTU.into()).unwrap();
                    netlink.up("wire0").unwrap();
                    let v6 = [0xfd02, 0, 0, 0, 0, 0, 0, number].into();
                    netlink.add_address("wire0", Cidr(v6, 64)).unwrap();
                    let number = u8::try_from(number).unwrap();
                    netlink.add_address("wire0", Cidr([10, 2, 0, number].into(), 24)).unwrap();
                }
                for (node, other, number) in [(one, two, 2), (two, one, 1)] {
                    let vias = [
                        [10, 2, 0, number].into(),
                        [0xfd02, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
                    ];
                    for (to, via) in other.pod_networks().into_iter().zip(vias) {
                        node.netns.netlink().add_route(to, Some(via), "wire0").unwrap();
                    }
                }
            }
            Self::Route => {
                for (node, other) in [(one, two), (two, one)] {
                    let vias = other.addresses.both();
                    for (Cidr(to, length), via) in other.pod_networks().into_iter().zip(vias) {
                        let words = format!(
                            "route replace {to}/{length} via {via} dev eth0 mtu {}",
                            Self::MTU
                        );
                        node.netns.ip(&words).unwrap();
                    }
                }
            }
        }
    }
}

/// A client, and the addresses of the Service that it asks.
fn clients(cluster: &Cluster) -> [(&'static str, &Worker, &Netns); 2] {
    let lab = &cluster.lab;
    let pod = &lab.nodes[0].pods[0];
    [("outside", &lab.client.worker, &lab.client.netns), ("pod", &pod.worker, &pod.netns)]
}

/// The addresses, with the ports for bulk and for datagrams.
fn targets(cluster: &Cluster, client: &str, family: Family) -> Vec<(SocketAddr, SocketAddr)> {
    let node = cluster.lab.nodes[0].addresses;
    let vip = sized().addresses;
    let outside = load_balancer_address(20);
    let mut targets = vec![(node.at(family, NODE_PORT), node.at(family, SIZED_NODE_PORT))];
    for addresses in if client == "pod" { vec![vip, outside] } else { vec![outside] } {
        targets.push((addresses.at(family, 80), addresses.at(family, SIZED_PORT)));
    }
    targets
}

fn over(narrow: Narrow) {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        narrow.make(&cluster);
        put(&cluster, &sized(), &cluster.lab.nodes[1].pods[0]);
        let mut wrong = String::new();
        for family in FAMILIES {
            for (who, worker, netns) in clients(&cluster) {
                for (bulk, datagrams) in targets(&cluster, who, family) {
                    // Before anything larger has told the client of the narrow place.
                    for may in [true, false] {
                        let said = fits_or_is_told(&cluster, netns, datagrams, may);
                        if let Err(why) = said {
                            let cut = if may { "may be cut" } else { "must not be cut" };
                            wrong += &format!("{who} to {datagrams}, {cut}: {why}\n");
                        }
                        // Each asks as one who knows nothing.
                        netns.ip("route flush cache").unwrap();
                        netns.ip("-6 route flush cache").unwrap();
                    }
                    let begin = Instant::now();
                    let moved = worker.bulk(bulk, 1_000_000);
                    let whole = moved
                        .as_ref()
                        .is_ok_and(|bulk| (bulk.received, bulk.sent) == (1_000_000, 1_000_000));
                    if !whole || begin.elapsed() > Duration::from_secs(3) {
                        let took = begin.elapsed();
                        wrong +=
                            &format!("{who}, 1 MB each way with {bulk}: {moved:?}, {took:?}\n");
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{narrow:?}, {by:?}:\n{wrong}");
    }
}

/// A datagram as large as the client's own wire carries arrives, or the client learns what does; and what fits
/// is answered.
fn fits_or_is_told(
    cluster: &Cluster,
    netns: &Netns,
    to: SocketAddr,
    may_be_cut: bool,
) -> Result<(), String> {
    let pod = &cluster.lab.nodes[1].pods[0];
    let (headers, any) = if to.is_ipv4() { (28, "0.0.0.0:0") } else { (48, "[::]:0") };
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let server = pod.netns.datagrams(pod.addresses.at(family, SIZED)).unwrap();
    let client = netns.datagrams(any.parse().unwrap()).unwrap();
    client.cut(may_be_cut).unwrap();
    client.connect(to).unwrap();
    let large = vec![b'x'; 1500 - headers];
    client.send(&large).map_err(|error| format!("sending it: {error}"))?;
    let arrived = answered(&server, &client, to, large.len());
    if arrived != Ok(()) {
        if may_be_cut && to.is_ipv4() {
            return arrived;
        }
        // The news come back at once, but the kernel tells them after a datagram that was on its way.
        let begin = Instant::now();
        while client.path_mtu().unwrap() != u32::from(Narrow::MTU) {
            if begin.elapsed() > Duration::from_secs(1) {
                return Err(format!("lost, and the path MTU is {:?}", client.path_mtu()));
            }
            std::thread::yield_now();
        }
    }
    let small = vec![b'x'; usize::from(Narrow::MTU) - headers];
    // The socket tells the news of the large one once, by an error of whatever comes next.
    let sent = client.send(&small).or_else(|_news| client.send(&small));
    sent.map_err(|error| format!("sending what fits: {error}"))?;
    answered(&server, &client, to, small.len())
}

/// Whether the server receives a datagram of this length, and the client its answer.
fn answered(
    server: &Datagrams,
    client: &Datagrams,
    to: SocketAddr,
    length: usize,
) -> Result<(), String> {
    let half = Duration::from_millis(500);
    let Some((bytes, from)) = server.receive(half).unwrap() else {
        return Err(format!("{length} octets did not arrive"));
    };
    if bytes.len() != length {
        return Err(format!("{} of {length} octets arrived", bytes.len()));
    }
    server.send_to(b"short", from).unwrap();
    match client.receive(half).unwrap() {
        Some((_, peer)) if peer == to => Ok(()),
        Some((_, peer)) => Err(format!("answered by {peer}")),
        None => Err("the answer did not arrive".to_owned()),
    }
}

#[test]
fn what_does_not_fit_on_the_wire_between_nodes_arrives_or_is_told() {
    over(Narrow::Wire);
}

#[test]
fn what_does_not_fit_on_the_route_between_nodes_arrives_or_is_told() {
    over(Narrow::Route);
}

/// A tunnel that carries less than the pods send: a flow that begins with a large datagram is one flow, and all of
/// its answers come from the node port.
#[test]
fn a_flow_to_a_tunnel_may_begin_with_what_does_not_fit() {
    for by in By::ALL {
        let setup = Setup { network: Network::Vxlan, pod_mtu: Some(1500), ..Setup::default() };
        let Some(cluster) = start(setup, by) else { return };
        let lab = &cluster.lab;
        let pod = &lab.nodes[1].pods[0];
        put(&cluster, &sized(), pod);
        for family in FAMILIES {
            let to = lab.nodes[0].addresses.at(family, SIZED_NODE_PORT);
            let server = pod.netns.datagrams(pod.addresses.at(family, SIZED)).unwrap();
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = lab.client.netns.datagrams(any.parse().unwrap()).unwrap();
            client.cut(true).unwrap();
            client.connect(to).unwrap();
            let large = vec![b'x'; if to.is_ipv4() { 1472 } else { 1452 }];
            client.send(&large).unwrap();
            let first = answered(&server, &client, to, large.len());
            // No router cuts a packet of IPv6.
            if family == Family::V4 {
                assert_eq!(first, Ok(()), "{by:?} {to}");
            }
            for _ in 0..10 {
                client.send(b"x").unwrap();
                assert_eq!(answered(&server, &client, to, 1), Ok(()), "{by:?} {to}");
            }
        }
    }
}
