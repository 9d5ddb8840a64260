//! Who may use a load balancer's address, and who gets the same backend again.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_tests::{
    cluster::{Cluster, Condition, Endpoint, Policy, Service},
    lab::{
        Addresses, Cidr, FAMILIES, Family, PATIENCE, Setup, external_address,
        load_balancer_address, until,
    },
    worker::{MonitorKind, Outcome, Proto, UdpStyle, Worker},
};

const NUMBER: u8 = 30;
const PROTOS: [Proto; 2] = [Proto::Tcp, Proto::Udp];

fn service() -> Service {
    Service::new("web", NUMBER).exposed(NUMBER).port("tcp", Proto::Tcp, 80, 8080, Some(30030)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30030),
    )
}

fn start(pods: Vec<u8>) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods, ..Setup::default() }, &[])?;
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    Some(cluster)
}

/// Everybody who can ask node 1, with the addresses that it comes with.
fn clients(cluster: &Cluster) -> [(&Worker, Addresses); 4] {
    let node = &cluster.lab.nodes[0];
    [
        (&node.pods[0].worker, node.pods[0].addresses),
        (&node.host, node.addresses),
        (&node.unhooked, node.addresses),
        (&cluster.lab.client.worker, cluster.lab.client.addresses),
    ]
}

/// One range of each family that has these addresses and no others.
fn only(addresses: Addresses) -> [String; 2] {
    [format!("{}/32", addresses.v4), format!("{}/128", addresses.v6)]
}

/// What a client is to find.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Answered,
    Refused,
    Silence,
}

fn fate(client: &Worker, proto: Proto, at: SocketAddr, wanted: Fate) -> Option<Fate> {
    // Silence is waited for not as long as an answer, and an answer is asked for again.
    let wait = if wanted == Fate::Silence { 300 } else { 1500 };
    let wait = Duration::from_millis(wait);
    match client.probe_with(proto, UdpStyle::Connected, at, None, wait).unwrap() {
        Outcome::Answered(_) => Some(Fate::Answered),
        Outcome::Refused => Some(Fate::Refused),
        Outcome::Timeout => Some(Fate::Silence),
        Outcome::Unreachable | Outcome::Reset | Outcome::Failed(_) => None,
    }
}

/// Waits until a client finds what it is to find at this address, in both families and protocols.
fn settles(client: &Worker, to: Addresses, port: u16, wanted: Fate) {
    for family in FAMILIES {
        for proto in PROTOS {
            let at = to.at(family, port);
            let mut last = None;
            until("the fate", PATIENCE, || {
                last = fate(client, proto, at, wanted);
                Ok((last == Some(wanted)).then_some(()))
            })
            .unwrap_or_else(|_| {
                panic!("{} to {at} {proto}: {last:?}, not {wanted:?}", client.name())
            });
        }
    }
}

fn address() -> Addresses {
    load_balancer_address(NUMBER)
}

/// SR-1, SR-2, SR-3, LB-1, EIP-1, EIP-3, NP-15: each client in turn is the only one within the ranges.
#[test]
fn source_ranges_judge_pods_the_node_and_clients_outside() {
    let Some(cluster) = start(vec![2, 1]) else { return };
    let backends = [Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    let node = &cluster.lab.nodes[0];
    for (_, allowed) in [0, 1, 3].map(|at| clients(&cluster)[at]) {
        cluster.put(&service().from_ranges(only(allowed)), &backends).unwrap();
        for (client, addresses) in clients(&cluster) {
            let wanted = if addresses == allowed { Fate::Answered } else { Fate::Silence };
            settles(client, address(), 80, wanted);
            // No other address of the Service has ranges.
            for (to, port) in
                [(service().addresses, 80), (external_address(NUMBER), 80), (node.addresses, 30030)]
            {
                settles(client, to, port, Fate::Answered);
            }
        }
    }
}

/// SR-2: what the backend sees of a process of the node is the node, whether or not hooks see the call.
#[test]
fn a_process_of_the_node_within_the_ranges_is_translated_at_the_device() {
    let Some(cluster) = start(vec![1, 1]) else { return };
    let node = &cluster.lab.nodes[0];
    let backends = [Endpoint::pod(&node.pods[0]), Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    for backend in backends {
        cluster.put(&service().from_ranges(only(node.addresses)), &[backend]).unwrap();
        for host in [&node.host, &node.unhooked] {
            settles(host, address(), 80, Fate::Answered);
            for family in FAMILIES {
                for proto in PROTOS {
                    for style in [UdpStyle::Connected, UdpStyle::Unconnected] {
                        let at = address().at(family, 80);
                        let wait = Duration::from_secs(3);
                        let got = host.probe_with(proto, style, at, None, wait).unwrap();
                        let seen = got.source();
                        assert_eq!(seen, Some(node.addresses.ip(family)), "{at} {proto}: {got}");
                    }
                }
            }
        }
    }
}

/// SR-3, NE-9.
#[test]
fn a_connection_outlives_the_range_that_let_it_in() {
    let Some(cluster) = start(vec![1, 1]) else { return };
    let backends = [Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    let client = &cluster.lab.client;
    cluster.put(&service().from_ranges(only(client.addresses)), &backends).unwrap();
    settles(&client.worker, address(), 80, Fate::Answered);
    let streams = FAMILIES.map(|family| {
        let at = address().at(family, 80);
        client.worker.monitor(MonitorKind::Stream, at, Duration::from_millis(20)).unwrap()
    });
    for stream in streams {
        let begun = || Ok((client.worker.peek(stream)?.answered > 0).then_some(()));
        until("the stream", PATIENCE, begun).unwrap();
    }
    let other = only(cluster.lab.nodes[0].addresses);
    cluster.put(&service().from_ranges(other), &backends).unwrap();
    settles(&client.worker, address(), 80, Fate::Silence);
    for stream in streams {
        let before = client.worker.peek(stream).unwrap().answered;
        let more = || Ok((client.worker.peek(stream)?.answered > before + 5).then_some(()));
        until("more of the stream", PATIENCE, more).unwrap();
        let report = client.worker.end(stream).unwrap();
        assert!(report.broken.is_empty(), "{:?}", report.broken);
    }
}

/// SR-4, SR-5, SR-10: what is said of ranges that restrict nobody, one family, or cannot be read.
#[test]
fn ranges_that_are_none_restrict_nobody_and_ranges_that_are_wrong_everybody() {
    let Some(cluster) = start(vec![1, 1]) else { return };
    let backends = [Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    let (client, _) = clients(&cluster)[3];
    let one = only(cluster.lab.nodes[0].addresses);
    let cases: [(Vec<&str>, [Fate; 2]); 4] = [
        (vec!["0.0.0.0/0", &one[0], &one[1], "::/0"], [Fate::Answered; 2]),
        (vec![&one[0]], [Fate::Silence, Fate::Answered]),
        (vec![&one[1]], [Fate::Answered, Fate::Silence]),
        (vec!["nonsense"], [Fate::Silence; 2]),
    ];
    for (ranges, fates) in cases {
        cluster.put(&service().from_ranges(ranges.clone()), &backends).unwrap();
        for (family, wanted) in FAMILIES.into_iter().zip(fates) {
            let at = address().at(family, 80);
            let mut last = None;
            until("the fate", PATIENCE, || {
                last = fate(client, Proto::Tcp, at, wanted);
                Ok((last == Some(wanted)).then_some(()))
            })
            .unwrap_or_else(|_| panic!("{ranges:?}, {at}: {last:?}, not {wanted:?}"));
        }
    }
}

/// SR-7, D6: who is outside does not learn that nobody serves; who is inside is refused, NE-4, NE-5.
#[test]
fn ranges_come_before_endpoints() {
    let Some(cluster) = start(vec![1, 1]) else { return };
    for (_, allowed) in [0, 1, 3].map(|at| clients(&cluster)[at]) {
        cluster.put(&service().from_ranges(only(allowed)), &[]).unwrap();
        for (client, addresses) in clients(&cluster) {
            let wanted = if addresses == allowed { Fate::Refused } else { Fate::Silence };
            settles(client, address(), 80, wanted);
            settles(client, external_address(NUMBER), 80, Fate::Refused);
        }
    }
    // SR-8: with policy Local the same silence for everybody outside.
    let elsewhere = [Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    let (client, outside) = clients(&cluster)[3];
    for ranges in [only(outside), only(cluster.lab.nodes[0].addresses)] {
        let local = service().policies(Policy::Cluster, Policy::Local).from_ranges(ranges);
        cluster.put(&local, &elsewhere).unwrap();
        settles(client, address(), 80, Fate::Silence);
    }
}

/// SR-6, LB-7, B18: where the address is on a device of the node, the node's own packets come from it.
#[test]
fn an_address_on_the_node_itself_is_within_the_ranges_that_have_the_node() {
    let Some(cluster) = start(vec![1, 1]) else { return };
    let node = &cluster.lab.nodes[0];
    for ip in address().both() {
        node.netns.netlink().add_address("lo", Cidr::host(ip)).unwrap();
    }
    let backends = [Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    for (ranges, wanted) in [
        (only(node.addresses), Fate::Answered),
        (only(cluster.lab.client.addresses), Fate::Silence),
    ] {
        cluster.put(&service().from_ranges(ranges), &backends).unwrap();
        for host in [&node.host, &node.unhooked] {
            settles(host, address(), 80, wanted);
        }
    }
    settles(&cluster.lab.client.worker, address(), 80, Fate::Answered);
}

/// Names of those who answer a client, at each address, in turn.
fn answering(client: &Worker, at: &[SocketAddr], proto: Proto) -> BTreeSet<String> {
    (0..6)
        .flat_map(|_| at)
        .map(|at| {
            let wait = Duration::from_secs(3);
            let got = client.probe_with(proto, UdpStyle::Connected, *at, None, wait).unwrap();
            got.by().unwrap_or_else(|| panic!("{} to {at}: {got}", client.name())).to_owned()
        })
        .collect()
}

/// All that a client can ask for the Service.
fn everywhere(cluster: &Cluster, family: Family) -> [SocketAddr; 4] {
    [
        service().addresses.at(family, 80),
        cluster.lab.nodes[0].addresses.at(family, 30030),
        external_address(NUMBER).at(family, 80),
        address().at(family, 80),
    ]
}

/// AFF-1, AFF-8, AFF-10, AFF-11: one backend for a client, by whatever address it comes; the processes
/// of the node are one client; and the memory is the kernel's, not the agent's.
#[test]
fn a_client_keeps_its_backend_at_every_address_and_over_a_restart() {
    let Some(mut cluster) = start(vec![3, 3]) else { return };
    let backends: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&service().affinity(10_800), &backends).unwrap();
    let mut had = Vec::new();
    for round in 0..2 {
        let mut have = Vec::new();
        for family in FAMILIES {
            let at = everywhere(&cluster, family);
            for proto in PROTOS {
                // Programs first, then agents: an address that is not programmed yet is not asked.
                for (client, _) in clients(&cluster) {
                    let by = answering(client, &at, proto);
                    assert_eq!(by.len(), 1, "{} {family} {proto}: {by:?}", client.name());
                    have.push(by);
                }
                // The node's processes, hooked or not, one after the other.
                assert_eq!(have[have.len() - 3], have[have.len() - 2], "{family} {proto}");
            }
        }
        if round == 0 {
            had = have;
            cluster.agents.iter_mut().for_each(|agent| agent.restart().unwrap());
        } else {
            assert_eq!(have, had, "after the restart");
        }
    }
    // Without affinity, somebody else answers soon.
    cluster.put(&service(), &backends).unwrap();
    for family in FAMILIES {
        let at = everywhere(&cluster, family);
        for (client, _) in clients(&cluster) {
            until("another backend", PATIENCE, || {
                Ok((answering(client, &at, Proto::Tcp).len() > 1).then_some(()))
            })
            .unwrap();
        }
    }
}

/// AFF-4, AFF-7: an endpoint that leaves, or drains while others are ready, loses its clients; who
/// comes back has none.
#[test]
fn a_client_of_a_backend_that_leaves_gets_another_and_keeps_that() {
    let Some(cluster) = start(vec![2, 2]) else { return };
    let all: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    let sticky = service().affinity(10_800);
    cluster.put(&sticky, &all).unwrap();
    let at = [service().addresses.at(Family::V4, 80), service().addresses.at(Family::V6, 80)];
    for (client, _) in clients(&cluster) {
        for at in at {
            let first = answering(client, &[at], Proto::Tcp);
            let mut drained = all.clone();
            let leaving = drained.iter_mut().find(|one| first.contains(&one.name)).unwrap();
            leaving.condition = Condition::Draining;
            cluster.put(&sticky, &drained).unwrap();
            let second = answering(client, &[at], Proto::Tcp);
            assert_eq!(second.len(), 1, "{}: {second:?}", client.name());
            assert_ne!(second, first, "{}", client.name());
            cluster.put(&sticky, &all).unwrap();
            assert_eq!(answering(client, &[at], Proto::Tcp), second, "{}", client.name());
        }
    }
}
