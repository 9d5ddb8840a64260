//! A flow that changes its way while it is being used: what is lost of it is what a flow that no proxy touches loses
//! on the same way at the same time.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lb_tests::{
    cluster::Cluster,
    lab::{Cidr, Datagrams, FAMILIES, Family, Node, PATIENCE, Setup, until},
    worker::Proto,
};

use super::{By, put, start, web};

/// Datagrams of each flow.
const COUNT: u32 = 100_000;
/// What a flow may lose more than the other, to the queues of a busy machine.
const SLACK: u32 = 50;
/// Where the counting sockets are.
const COUNTED: u16 = 8090;

/// What happens to the way from node 1 to node 2's pods.
#[derive(Clone, Copy, Debug)]
enum Event {
    ByTunnel,
    ByWire,
    ForgetNeighbour,
    AddPolicy,
    RemovePolicy,
}

const EVENTS: [Event; 9] = [
    Event::ByTunnel,
    Event::ByWire,
    Event::ForgetNeighbour,
    Event::AddPolicy,
    Event::RemovePolicy,
    Event::ByTunnel,
    Event::ForgetNeighbour,
    Event::ByWire,
    Event::ForgetNeighbour,
];

#[test]
fn a_flow_that_changes_its_way_loses_no_more_than_a_plain_one() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
        tunnel(one, two);
        tunnel(two, one);
        let service = web().port("counted", Proto::Udp, 81, COUNTED, Some(30_081));
        put(&cluster, &service, &two.pods[0]);
        for family in FAMILIES {
            let [by_service, plain] = run(&cluster, family);
            println!("{by:?} {family}: of {COUNT} the Service lost {by_service}, routing {plain}");
            assert!(
                by_service <= plain + SLACK,
                "{by:?} {family}: of {COUNT} the Service lost {by_service}, routing {plain}"
            );
        }
    }
}

/// A policy of xfrm that blocks, blocks: what was sent past the stack before is not any more, and is again when the
/// policy is gone.
#[test]
fn a_policy_of_xfrm_stops_a_flow_under_way() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
        let pod = &two.pods[0];
        let service = web().port("counted", Proto::Udp, 81, COUNTED, Some(30_081));
        put(&cluster, &service, pod);
        for (family, network) in FAMILIES.into_iter().zip(two.pod_networks()) {
            let server = pod.netns.datagrams(pod.addresses.at(family, COUNTED)).unwrap();
            let to = one.addresses.at(family, 30_081);
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = cluster.lab.client.netns.datagrams(any.parse().unwrap()).unwrap();
            client.connect(to).unwrap();
            let arrives = |number: u32| {
                // A refused datagram is news for the next one.
                let bytes = number.to_be_bytes();
                client.send(&bytes).or_else(|_news| client.send(&bytes)).unwrap();
                let received = server.receive(Duration::from_millis(100)).unwrap();
                if let Some((bytes, from)) = &received {
                    server.send_to(bytes, *from).unwrap();
                    drop(client.receive(Duration::from_millis(500)).unwrap());
                }
                received.is_some()
            };
            let (Cidr(ip, length), what) = (network, format!("{by:?} {family}"));
            let option = if to.is_ipv4() { "-4" } else { "-6" };
            let policy = |verb: &str, action: &str| {
                let words =
                    format!("{option} xfrm policy {verb} dst {ip}/{length} dir out {action}");
                one.netns.ip(&words).unwrap();
            };
            assert!((0..10).all(arrives), "{what}: before the policy");
            policy("add", "action block");
            // The agent hears of it a moment later than the stack.
            let stopped = until("the flow to stop", PATIENCE, || Ok((!arrives(10)).then_some(())));
            stopped.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            assert_eq!((11..20).filter(|number| arrives(*number)).count(), 0, "{what}: blocked");
            policy("delete", "");
            assert!((20..30).all(arrives), "{what}: after the policy");
        }
    }
}

/// Sends to the Service and, past it, to the other pod of the same node, and returns what each lost.
fn run(cluster: &Cluster, family: Family) -> [u32; 2] {
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let [served, beside] = &two.pods[..] else { panic!("two pods") };
    let (client, plain) = (&cluster.lab.client.netns, beside.addresses.ip(family));
    client.netlink().add_route(Cidr::host(plain), Some(one.addresses.ip(family)), "eth0").unwrap();
    let receivers = [served, beside].map(|pod| {
        let socket = pod.netns.datagrams(pod.addresses.at(family, COUNTED)).unwrap();
        socket.room(16 << 20).unwrap();
        socket
    });
    let senders = [one.addresses.at(family, 30_081), SocketAddr::new(plain, COUNTED)].map(|to| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = client.datagrams(any.parse().unwrap()).unwrap();
        socket.connect(to).unwrap();
        socket
    });
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let counting =
            receivers.each_ref().map(|receiver| threads.spawn(|| count(receiver, &done)));
        let mut events = EVENTS.iter();
        for number in 0..COUNT {
            for sender in &senders {
                // News of an earlier loss; the next one is sent all the same.
                let bytes = number.to_be_bytes();
                let _sent = sender.send(&bytes).or_else(|_news| sender.send(&bytes));
            }
            if number % (COUNT / 10) == COUNT / 10 - 1
                && let Some(event) = events.next()
            {
                happen(*event, one, two, family);
            }
        }
        done.store(true, Ordering::Relaxed);
        counting.map(|counting| COUNT - counting.join().unwrap())
    })
}

/// How many different datagrams arrive until the sender is done and nothing comes any more. Every 64th is
/// answered, as a flow without answers is none.
fn count(socket: &Datagrams, done: &AtomicBool) -> u32 {
    let mut seen = vec![false; COUNT as usize];
    let mut count = 0;
    loop {
        let ending = done.load(Ordering::Relaxed);
        let Some((bytes, from)) = socket.receive(Duration::from_millis(500)).unwrap() else {
            if ending {
                return count;
            }
            continue;
        };
        let number = u32::from_be_bytes(bytes.try_into().unwrap());
        let seen = &mut seen[number as usize];
        count += u32::from(!std::mem::replace(seen, true));
        if number % 64 == 0 {
            socket.send_to(b"seen", from).unwrap();
        }
    }
}

/// A tunnel from one node to the other's pods, without the route.
fn tunnel(node: &Node, other: &Node) {
    let (number, remote) = (node.number, other.number);
    let (local, outer) = (node.addresses.v4, other.addresses.v4);
    node.netns
        .ip(&format!(
            "link add vx0 address 02:1b:0e:00:00:{number:02x} mtu 1450 type vxlan id 1 local {local} \
             remote {outer} dstport 8472 dev eth0"
        ))
        .unwrap();
    node.netns.netlink().up("vx0").unwrap();
    for (ip, theirs, length) in [
        (format!("10.3.0.{number}"), format!("10.3.0.{remote}"), 24),
        (format!("fd03::{number}"), format!("fd03::{remote}"), 64),
    ] {
        node.netns.netlink().add_address("vx0", Cidr(ip.parse().unwrap(), length)).unwrap();
        let mac = [2, 0x1b, 0x0e, 0, 0, remote];
        node.netns.netlink().add_neighbour("vx0", theirs.parse().unwrap(), mac).unwrap();
    }
}

fn happen(event: Event, one: &Node, two: &Node, family: Family) {
    let [v4, v6] = two.pod_networks();
    let v6_family = family == Family::V6;
    let network = if v6_family { v6 } else { v4 };
    let (Cidr(to, length), via) = (network, two.addresses.ip(family));
    let option = if v6_family { "-6" } else { "-4" };
    let inner = if v6_family { "fd03::2" } else { "10.3.0.2" };
    match event {
        Event::ByTunnel => {
            one.netns.netlink().add_route(network, Some(inner.parse().unwrap()), "vx0").unwrap();
        }
        Event::ByWire => one.netns.netlink().add_route(network, Some(via), "eth0").unwrap(),
        Event::ForgetNeighbour => {
            // It may be in no table at this moment, which is as well.
            drop(one.netns.ip(&format!("{option} neigh del {via} dev eth0")));
        }
        Event::AddPolicy | Event::RemovePolicy => {
            let verb = if matches!(event, Event::AddPolicy) { "add" } else { "delete" };
            for direction in ["out", "fwd"] {
                let words =
                    format!("{option} xfrm policy {verb} dst {to}/{length} dir {direction}");
                one.netns.ip(&words).unwrap();
            }
        }
    }
}
