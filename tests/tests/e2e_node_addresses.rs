//! At which addresses of a node its node ports are served: what is asked for by flag, address by
//! address.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::net::{IpAddr, SocketAddr};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Cidr, FAMILIES, Family, Network, PATIENCE, Setup, until},
    worker::{Outcome, Proto, Worker},
};

const NODE_PORT: u16 = 30080;
const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// A kind of address that a node has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// The node's own.
    Primary,
    /// A further one on the same device.
    Secondary,
    /// On the bridge of the pods.
    Bridge,
    /// On the loopback device, and no loopback address: as load balancers without a router have it.
    OnLoopback,
    /// 127.0.0.1 and ::1.
    Loopback,
    /// Another loopback address; IPv6 has only one.
    OtherLoopback,
}

use Kind::{Bridge, Loopback, OnLoopback, OtherLoopback, Primary, Secondary};

const KINDS: [Kind; 6] = [Primary, Secondary, Bridge, OnLoopback, Loopback, OtherLoopback];
/// Those that clients outside can ask for.
const OUTSIDE: [Kind; 4] = [Primary, Secondary, Bridge, OnLoopback];

fn address(kind: Kind, family: Family) -> Option<IpAddr> {
    let text = match (kind, family) {
        (Primary, Family::V4) => "10.0.0.1",
        (Primary, Family::V6) => "fd00::1",
        (Secondary, Family::V4) => "10.0.0.77",
        (Secondary, Family::V6) => "fd00::77",
        (Bridge, Family::V4) => "10.244.1.1",
        (Bridge, Family::V6) => "fd44:0:0:1::1",
        (OnLoopback, Family::V4) => "192.0.2.5",
        (OnLoopback, Family::V6) => "2001:db8::5",
        (Loopback, Family::V4) => "127.0.0.1",
        (Loopback, Family::V6) => "::1",
        (OtherLoopback, Family::V4) => "127.9.8.7",
        (OtherLoopback, Family::V6) => return None,
    };
    Some(text.parse().unwrap())
}

fn cidr(ip: IpAddr, kind: Kind) -> Cidr {
    match (kind, ip) {
        (OnLoopback, _) => Cidr::host(ip),
        (_, IpAddr::V4(_)) => Cidr(ip, 24),
        (_, IpAddr::V6(_)) => Cidr(ip, 64),
    }
}

fn web() -> Service {
    Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(NODE_PORT)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(NODE_PORT),
    )
}

/// A node with an address of each kind, and a pod.
fn start(flags: &[&str]) -> Option<Cluster> {
    let setup = Setup { pods: vec![1], network: Network::Bridged, ..Setup::default() };
    let cluster = Cluster::start_or_skip(setup, flags)?;
    cluster.lab.serve(8080).unwrap();
    let node = &cluster.lab.nodes[0];
    for family in FAMILIES {
        assert_eq!(Some(node.addresses.ip(family)), address(Primary, family));
        assert_eq!(Some(node.bridge_addresses().ip(family)), address(Bridge, family));
        for (kind, device) in [(Secondary, "eth0"), (OnLoopback, "lo")] {
            let ip = address(kind, family).unwrap();
            node.netns.netlink().add_address(device, cidr(ip, kind)).unwrap();
        }
        let ip = address(OnLoopback, family).unwrap();
        let by = Some(node.addresses.ip(family));
        cluster.lab.client.netns.netlink().add_route(Cidr::host(ip), by, "eth0").unwrap();
    }
    cluster.put(&web(), &[Endpoint::pod(&node.pods[0])]).unwrap();
    Some(cluster)
}

/// Who asks for an address: somebody outside, but for loopback addresses.
fn asker(cluster: &Cluster, kind: Kind) -> &Worker {
    if OUTSIDE.contains(&kind) { &cluster.lab.client.worker } else { &cluster.lab.nodes[0].host }
}

/// Waits until an address serves node ports, or refuses them, over both protocols.
fn becomes(cluster: &Cluster, kind: Kind, ip: IpAddr, serves: bool, what: &str) {
    let at = SocketAddr::new(ip, NODE_PORT);
    for proto in BOTH {
        let mut last = None;
        let is = until(&format!("{what}: {at} {proto} to serve: {serves}"), PATIENCE, || {
            let outcome = asker(cluster, kind).probe(proto, at)?;
            let right =
                if serves { outcome.by() == Some("pod1-1") } else { outcome == Outcome::Refused };
            last = Some(outcome);
            Ok(right.then_some(()))
        });
        is.unwrap_or_else(|error| panic!("{error}: {last:?}"));
    }
}

/// NP-1, NP-2, NP-3, NP-4, NP-5, NP-6, NP-20: every kind of address with every form of the flag.
#[test]
fn each_form_of_the_flag_serves_its_addresses_and_no_others() {
    let Some(mut cluster) = start(&[]) else { return };
    let all = &KINDS[..];
    let loopback = &[Loopback, OtherLoopback][..];
    let none = &[][..];
    let rows: [(&[&str], &[Kind], &[Kind]); 14] = [
        (&[], all, all),
        (&["--nodeport-addresses=all"], all, all),
        (&["--nodeport-addresses=primary"], &[Primary], &[Primary]),
        (&["--nodeport-addresses=localhost"], loopback, loopback),
        (
            &["--nodeport-addresses=primary,localhost"],
            &[Primary, Loopback, OtherLoopback],
            &[Primary, Loopback],
        ),
        (&["--nodeport-addresses=10.0.0.0/24"], &[Primary, Secondary], none),
        (&["--nodeport-addresses=fd00::/64"], none, &[Primary, Secondary]),
        (&["--nodeport-addresses=10.0.0.77/32,primary"], &[Primary, Secondary], &[Primary]),
        (&["--nodeport-addresses=127.0.0.0/8,2001:db8::/32"], loopback, &[OnLoopback]),
        (&["--nodeport-addresses=0.0.0.0/0"], all, none),
        (&["--nodeport-addresses=::/0,10.244.1.1/32"], &[Bridge], all),
        (&["--nodeport-addresses=203.0.113.0/24"], none, none),
        (&["--iptables-localhost-nodeports=false"], &OUTSIDE, &OUTSIDE),
        (
            &["--nodeport-addresses=primary,localhost", "--iptables-localhost-nodeports=false"],
            &[Primary],
            &[Primary],
        ),
    ];
    for (flags, v4, v6) in rows {
        cluster.agents[0].set_flags(flags);
        cluster.agents[0].restart().unwrap();
        for (family, serving) in FAMILIES.into_iter().zip([v4, v6]) {
            for kind in KINDS {
                let Some(ip) = address(kind, family) else { continue };
                becomes(&cluster, kind, ip, serving.contains(&kind), &format!("{flags:?}"));
            }
        }
    }
}

/// NP-3: networks are compared with the addresses that the node has at the moment, in each family by
/// itself.
#[test]
fn addresses_that_come_and_go_are_followed_where_a_network_has_them() {
    let Some(cluster) = start(&["--nodeport-addresses=10.0.0.0/24,127.0.0.0/8"]) else { return };
    let netlink = cluster.lab.nodes[0].netns.netlink();
    for (text, served) in [("10.0.0.99", true), ("192.0.2.99", false), ("fd00::99", false)] {
        let ip: IpAddr = text.parse().unwrap();
        let new = cidr(ip, Secondary);
        netlink.add_address("eth0", new).unwrap();
        if text.starts_with("192") {
            let by = Some(address(Primary, Family::V4).unwrap());
            cluster.lab.client.netns.netlink().add_route(Cidr::host(ip), by, "eth0").unwrap();
        }
        becomes(&cluster, Secondary, ip, served, text);
        becomes(&cluster, Primary, address(Primary, Family::V4).unwrap(), true, text);
        becomes(&cluster, Primary, address(Primary, Family::V6).unwrap(), false, text);
        netlink.delete_address("eth0", new).unwrap();
        let at = SocketAddr::new(ip, NODE_PORT);
        until(&format!("{ip} to be answered no more"), PATIENCE, || {
            let outcome = cluster.lab.client.worker.probe(Proto::Tcp, at)?;
            Ok(outcome.by().is_none().then_some(()))
        })
        .unwrap();
    }
}

/// NP-20, NODE-3: a family that loses its primary address serves nowhere, rather than everywhere, and
/// serves again with the next one; the other family is not concerned.
#[test]
fn a_family_without_a_primary_address_serves_nowhere() {
    let Some(cluster) = start(&["--nodeport-addresses=primary"]) else { return };
    let netlink = cluster.lab.nodes[0].netns.netlink();
    let primary = |family| address(Primary, family).unwrap();
    for family in FAMILIES {
        becomes(&cluster, Primary, primary(family), true, "at first");
    }
    for kind in [Primary, Secondary] {
        let ip = address(kind, Family::V6).unwrap();
        netlink.delete_address("eth0", cidr(ip, kind)).unwrap();
    }
    let agent = &cluster.agents[0];
    let _status = agent
        .wait_status("one family to serve", |status| {
            status["node"]["nodeport_addresses"] == serde_json::json!(["10.0.0.1"])
        })
        .unwrap();
    becomes(&cluster, Primary, primary(Family::V4), true, "without");
    // Nobody outside finds the way to the others any more, but the node itself does.
    for kind in [Bridge, OnLoopback, Loopback] {
        let at = SocketAddr::new(address(kind, Family::V6).unwrap(), NODE_PORT);
        for proto in BOTH {
            let outcome = cluster.lab.nodes[0].host.probe(proto, at).unwrap();
            assert_eq!(outcome, Outcome::Refused, "{at} {proto}");
        }
    }
    netlink.add_address("eth0", cidr(primary(Family::V6), Primary)).unwrap();
    for family in FAMILIES {
        becomes(&cluster, Primary, primary(family), true, "again");
    }
}
