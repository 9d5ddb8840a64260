//! Frames that a switch sends to everybody, because it does not know their receiver or because they say so.

use lb_ebpf::host::craft::{Craft, Transport};
use lb_tests::{
    cluster::Cluster,
    lab::{FAMILIES, Family, Setup, load_balancer_address},
    worker::{Capture, Proto},
};
use serde_json::Value;

use super::{By, SYN, TARGET, ask, flows, packet, put, start, web};

/// The switch forgets node 1 and floods what is for it: the other nodes hear everything, and nothing of it is
/// theirs. With `learning` the first answer tells the switch again, without it every frame is flooded.
#[test]
fn a_flooded_frame_is_served_by_its_receiver_alone() {
    for by in By::ALL {
        for learning in ["on", "off"] {
            let setup = Setup { pods: vec![1, 1, 1], ..Setup::default() };
            let Some(cluster) = start(setup, by) else { return };
            put(&cluster, &web(), &cluster.lab.nodes[0].pods[0]);
            forget_node_1(&cluster, learning);
            for family in FAMILIES {
                served_once(&cluster, family, &format!("{by:?}, learning {learning}, {family}"));
            }
        }
    }
}

fn served_once(cluster: &Cluster, family: Family, what: &str) {
    let lab = &cluster.lab;
    let (client, pod) = (&lab.client.worker, &lab.nodes[0].pods[0]);
    let vip = load_balancer_address(20).at(family, 80);
    let inside = pod.worker.capture("eth0").unwrap();
    let outside = client.capture("eth0").unwrap();
    // The way to the pod itself is flooded too, and nobody minds.
    let itself = ask(client, Proto::Tcp, pod.addresses.at(family, TARGET));
    assert_eq!(itself.by(), Some(pod.name()), "{what}");
    assert_eq!(ask(client, Proto::Udp, vip).by(), Some(pod.name()), "{what}");
    // What another node would add takes the same wires, and has passed them when a connection has.
    assert_eq!(ask(client, Proto::Tcp, vip).by(), Some(pod.name()), "{what}");
    let at = pod.addresses.at(family, TARGET);
    let datagrams = |capture: &Capture, from_or_to| {
        let udp = capture.frames.iter().filter(|frame| frame.proto == 17 && !frame.out);
        udp.filter(|frame| frame.to == from_or_to || frame.from == from_or_to).count()
    };
    let inside = pod.worker.end_capture(inside).unwrap();
    let outside = client.end_capture(outside).unwrap();
    assert_eq!(datagrams(&inside, at), 1, "{what}: datagrams at the pod: {inside:?}");
    assert_eq!(datagrams(&outside, vip), 1, "{what}: answers: {outside:?}");
    let share = client.many(Proto::Tcp, vip, 100).unwrap();
    assert_eq!(share.by.get(pod.name()), Some(&100), "{what}: {share:?}");
    for (mac, port) in table(cluster) {
        let [number] = mac.split(':').skip(3).take(1).collect::<Vec<_>>()[..] else { continue };
        let own = match u8::from_str_radix(number, 16).unwrap() {
            100 => "client".to_owned(),
            number => format!("node{number}"),
        };
        assert_eq!(port, own, "{what}: the switch believes {mac} to be elsewhere");
    }
    for agent in cluster.agents.iter().skip(1) {
        assert_eq!(flows(agent).len(), 0, "{what}: {}: {:?}", agent.node(), flows(agent));
    }
}

/// Takes node 1 out of the switch's table.
fn forget_node_1(cluster: &Cluster, learning: &str) {
    let underlay = &cluster.lab.underlay.netns;
    // The client never has to ask for node 1, so that nothing tells the switch but what node 1 sends.
    let mac = cluster.lab.nodes[0].netns.netlink().mac("eth0").unwrap();
    for ip in cluster.lab.nodes[0].addresses.both() {
        cluster.lab.client.netns.netlink().add_neighbour("eth0", ip, mac).unwrap();
    }
    underlay.ip(&format!("link set node1 type bridge_slave learning {learning}")).unwrap();
    let [a, b, c, d, e, f] = mac;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    if table(cluster).iter().any(|(known, _)| *known == mac) {
        let _said =
            underlay.tool("bridge", &format!("fdb del {mac} dev node1 master"), "").unwrap();
    }
}

/// What the switch has learned: Ethernet address and port.
fn table(cluster: &Cluster) -> Vec<(String, String)> {
    let said = cluster.lab.underlay.netns.tool("bridge", "-j fdb show br br0 dynamic", "").unwrap();
    let rows: Vec<Value> = serde_json::from_str(&said).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (text(&row["mac"]), text(&row["ifname"]))).collect()
}

/// A frame to everybody is for no node in particular, whatever the packet in it says.
#[test]
fn nobody_serves_a_frame_that_is_sent_to_many() {
    for by in By::ALL {
        let setup = Setup { pods: vec![1, 1, 1], ..Setup::default() };
        let Some(cluster) = start(setup, by) else { return };
        let pod = &cluster.lab.nodes[0].pods[0];
        put(&cluster, &web(), pod);
        let client = &cluster.lab.client;
        let wire = client.netns.wire("eth0").unwrap();
        let own = client.netns.netlink().mac("eth0").unwrap();
        let inside = pod.worker.capture("eth0").unwrap();
        for many in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            for transport in [Transport::Udp, SYN] {
                for family in FAMILIES {
                    let from = client.addresses.at(family, 33_333);
                    let frame = packet(from, load_balancer_address(20).at(family, 80), &transport);
                    wire.send(&Craft { eth: [many, own], ..frame }.frame()).unwrap();
                }
            }
        }
        for family in FAMILIES {
            let vip = load_balancer_address(20).at(family, 80);
            assert_eq!(ask(&client.worker, Proto::Udp, vip).by(), Some(pod.name()), "{by:?}");
        }
        let inside = pod.worker.end_capture(inside).unwrap();
        let crafted = inside.frames.iter().filter(|frame| frame.from.port() == 33_333);
        assert_eq!(crafted.count(), 0, "{by:?}: {inside:?}");
        assert!(!inside.frames.is_empty(), "a capture that sees nothing proves nothing");
        for agent in &cluster.agents {
            let rows = flows(agent);
            let crafted = rows.iter().filter(|row| row.contains(":33333"));
            assert_eq!(crafted.count(), 0, "{by:?}: {}: {rows:?}", agent.node());
        }
    }
}
