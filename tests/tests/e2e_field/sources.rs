//! Senders that lie about who they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_ebpf::host::craft::{Craft, Transport};
use lb_tests::{
    cluster::Cluster,
    lab::{Addresses, FAMILIES, Family, Setup, service_networks},
    worker::{Proto, UdpStyle},
};

use super::{By, NODE_PORT, SYN, ask, flows_of_first, packet, put, start, web};

/// Port of the forged packets, and of the honest ones that come after.
const PORT: u16 = 41_000;

/// A machine outside that claims to be `from`; the frames are addressed to node 1.
fn forge(cluster: &Cluster, from: SocketAddr, to: SocketAddr) {
    let lab = &cluster.lab;
    let client = lab.client.netns.netlink().mac("eth0").unwrap();
    let node = lab.nodes[0].netns.netlink().mac("eth0").unwrap();
    let wire = lab.client.netns.wire("eth0").unwrap();
    for transport in [Transport::Udp, SYN] {
        wire.send(&Craft { eth: [node, client], ..packet(from, to, &transport) }.frame()).unwrap();
    }
}

/// Somebody outside sends in the name of a pod of node 1. When that pod then asks for the same Service from the
/// same port it is served, and nothing for a cluster address leaves the node.
#[test]
fn a_forged_packet_does_not_take_a_pods_flow() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let lab = &cluster.lab;
        let pod = &lab.nodes[0].pods[0];
        let service = web();
        put(&cluster, &service, &lab.nodes[1].pods[0]);
        let capture = lab.underlay.worker.capture("node1").unwrap();
        for (number, family) in (0..).zip(FAMILIES) {
            for (shift, at) in [
                (0, service.addresses.at(family, 80)),
                (1, lab.nodes[0].addresses.at(family, NODE_PORT)),
            ] {
                let from = pod.addresses.at(family, PORT + 2 * number + shift);
                forge(&cluster, from, at);
                // An honest datagram behind the forged ones: they have been looked at when it is answered.
                let node_port = lab.nodes[0].addresses.at(family, NODE_PORT);
                let honest = ask(&lab.client.worker, Proto::Udp, node_port);
                assert_eq!(honest.by(), Some("pod2-1"), "{by:?}");
                for proto in [Proto::Udp, Proto::Tcp] {
                    let style = UdpStyle::Connected;
                    let wait = std::time::Duration::from_secs(3);
                    let got = pod.worker.probe_with(proto, style, at, Some(from), wait).unwrap();
                    assert_eq!(
                        got.by(),
                        Some("pod2-1"),
                        "{by:?}: {proto} from {from} to {at}: {got}"
                    );
                }
            }
        }
        let seen = lab.underlay.worker.end_capture(capture).unwrap();
        let vip = |ip| service_networks().into_iter().any(|network| network.contains(ip));
        let leaked = seen.frames.iter().find(|frame| !frame.out && vip(frame.to.ip()));
        assert_eq!(leaked, None, "{by:?}: it left node 1");
        assert!(!seen.frames.is_empty(), "a capture that sees nothing proves nothing");
    }
}

/// No honest sender has a loopback or multicast address, no address at all, or the node's own.
#[test]
fn what_no_honest_sender_can_be_makes_no_flow() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let lab = &cluster.lab;
        let service = web();
        put(&cluster, &service, &lab.nodes[1].pods[0]);
        for family in FAMILIES {
            for from in dishonest(family, lab.nodes[0].addresses) {
                for at in
                    [service.addresses.at(family, 80), lab.nodes[0].addresses.at(family, NODE_PORT)]
                {
                    forge(&cluster, SocketAddr::new(from, PORT), at);
                }
            }
            // What was sent before is looked at before.
            let at = lab.nodes[0].addresses.at(family, NODE_PORT);
            assert_eq!(ask(&lab.client.worker, Proto::Udp, at).by(), Some("pod2-1"), "{by:?}");
        }
        let made = flows_of_first(&cluster);
        assert!(by == By::Rules || !made.is_empty(), "the honest ones have flows");
        let forged: Vec<_> = made.iter().filter(|row| row.contains(&format!(":{PORT}"))).collect();
        assert_eq!(forged.len(), 0, "{by:?}: {forged:?}");
    }
}

fn dishonest(family: Family, node: Addresses) -> Vec<IpAddr> {
    match family {
        Family::V4 => vec![
            Ipv4Addr::new(127, 0, 0, 1).into(),
            Ipv4Addr::new(224, 0, 0, 1).into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv4Addr::UNSPECIFIED.into(),
            node.v4,
        ],
        Family::V6 => vec![
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::UNSPECIFIED.into(),
            node.v6,
        ],
    }
}
