//! SCTP through real agents: every kind of frontend, refusals, and associations that outlive an agent
//! or their backend. Who sees which address is in the table of `e2e_table.rs`, for SCTP too.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{fs, net::SocketAddr, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{
        Addresses, FAMILIES, Family, Lab, PATIENCE, Setup, external_address, load_balancer_address,
        until,
    },
    worker::{MonitorKind, Outcome, Proto, UdpStyle, Worker},
};

const NODE_PORT: u16 = 30000;

/// A Service with one port number for each protocol, at all kinds of addresses.
fn service() -> Service {
    let service = Service::new("calls", 10).exposed(10);
    Proto::ALL.into_iter().fold(service, |service, proto| {
        service.port(&proto.name().to_lowercase(), proto, 80, 8080, Some(NODE_PORT))
    })
}

fn clients(lab: &Lab) -> [(&Worker, Addresses); 4] {
    let node = &lab.nodes[0];
    [
        (&node.pods[0].worker, node.pods[0].addresses),
        (&node.host, node.addresses),
        (&node.unhooked, node.addresses),
        (&lab.client.worker, lab.client.addresses),
    ]
}

fn targets(lab: &Lab, service: &Service, family: Family) -> [SocketAddr; 5] {
    [
        service.addresses.at(family, 80),
        lab.nodes[0].addresses.at(family, NODE_PORT),
        lab.nodes[1].addresses.at(family, NODE_PORT),
        external_address(10).at(family, 80),
        load_balancer_address(10).at(family, 80),
    ]
}

/// Whether the kernel has loaded any module of SCTP.
fn modules() -> Vec<String> {
    let all = fs::read_to_string("/proc/modules").unwrap_or_default();
    all.lines().filter(|line| line.contains("sctp")).map(str::to_owned).collect()
}

/// The table of frontends with these flags.
fn every_frontend(setup: Setup, flags: &[&str]) {
    let before = modules();
    let Some(cluster) = Cluster::start_or_skip(setup, flags) else { return };
    let lab = &cluster.lab;
    let service = service();
    // One number, and a server of its own for each protocol.
    for pod in [&lab.nodes[0].pods[1], &lab.nodes[1].pods[0]] {
        for (family, proto) in FAMILIES.into_iter().flat_map(|f| Proto::ALL.map(|p| (f, p))) {
            let name = format!("{} {proto}", pod.name());
            pod.worker.serve_as(proto, pod.addresses.at(family, 8080), &name).unwrap();
        }
    }
    let endpoints = [Endpoint::pod(&lab.nodes[0].pods[1]), Endpoint::pod(&lab.nodes[1].pods[0])];
    lab.route_services_by(0).unwrap();
    cluster.put(&service, &endpoints).unwrap();
    let listed = cluster.agents[0].commands.lb(&["services"]).unwrap().output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("SCTP"), "{listed}");

    let mut wrong = String::new();
    let mut lost = 0;
    for (client, _) in clients(lab) {
        for family in FAMILIES {
            for at in targets(lab, &service, family) {
                for proto in Proto::ALL {
                    // Of 24 choices between two none falls on one of them once in eight million.
                    let share = client.many(proto, at, 24).unwrap();
                    let all = [format!("pod1-2 {proto}"), format!("pod2-1 {proto}")];
                    let failed: u32 = share.failures.iter().map(|failure| failure.count).sum();
                    let silent = share.failures.iter().all(|it| it.outcome == Outcome::Timeout);
                    let excused = proto == Proto::Udp && silent && failed == 1;
                    if excused {
                        // A process that gets the port of an earlier one, which reached the same pod
                        // by another node, can miss an answer (docs/packet-path.md).
                        println!("{} to {at} {proto}: one answer was lost", client.name());
                        lost += 1;
                    }
                    if (failed > 0 && !excused) || !share.by.keys().eq(all.iter()) {
                        wrong += &format!("{} to {at} {proto}: {share:?}\n", client.name());
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty() && lost <= 1, "{lost} lost\n{wrong}");
    assert_eq!(modules(), before, "a module was loaded");
}

/// FAM-1, FAM-2.
#[test]
fn one_number_serves_each_protocol_by_itself_at_every_kind_of_address() {
    let setup = Setup { pods: vec![2, 1], ..Setup::default() };
    every_frontend(setup, &["--xdp=off"]);
}

/// FAM-1.
#[test]
fn one_number_serves_each_protocol_by_itself_with_xdp() {
    let setup = Setup { pods: vec![2, 1], xdp: true, ..Setup::default() };
    every_frontend(setup, &["--xdp=native"]);
}

/// NE-1, NE-2, NE-3, NE-4.
#[test]
fn sctp_is_refused_where_nobody_serves() {
    let setup = Setup { pods: vec![1, 0], ..Setup::default() };
    let Some(cluster) = Cluster::start_or_skip(setup, &["--xdp=off"]) else { return };
    let lab = &cluster.lab;
    let service = service();
    lab.route_services_by(0).unwrap();
    cluster.put(&service, &[]).unwrap();
    let mut wrong = String::new();
    for (client, _) in clients(lab) {
        for family in FAMILIES {
            let unknown = service.addresses.at(family, 99);
            for at in targets(lab, &service, family).into_iter().chain([unknown]) {
                let outcome = client.probe(Proto::Sctp, at).unwrap();
                if outcome != Outcome::Refused {
                    wrong += &format!("{} to {at}: {outcome}\n", client.name());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// CT-8. The client's packets reach nobody any more, least of all an endpoint that knows nothing of its
/// association; and the port that it used opens the next one at once.
#[test]
fn an_association_whose_endpoint_left_is_over_and_the_next_begins_elsewhere() {
    let setup = Setup { pods: vec![2, 1], ..Setup::default() };
    let Some(cluster) = Cluster::start_or_skip(setup, &["--xdp=off"]) else { return };
    let lab = &cluster.lab;
    lab.serve(8080).unwrap();
    let service = service();
    let [leaves, stays] =
        [&lab.nodes[0].pods[1], &lab.nodes[1].pods[0]].map(|pod| [Endpoint::pod(pod)]);
    let (client, own) = (&lab.nodes[0].pods[0].worker, lab.nodes[0].pods[0].addresses);
    for family in FAMILIES {
        cluster.put(&service, &leaves).unwrap();
        let at = service.addresses.at(family, 80);
        let from = Some(own.at(family, 45_000));
        let every = Duration::from_millis(20);
        let running = client.monitor_from(MonitorKind::Association, at, from, every).unwrap();
        until("the association to be used", PATIENCE, || {
            let seen = client.peek(running)?;
            Ok((seen.answered > 3 || !seen.broken.is_empty()).then_some(()))
        })
        .unwrap();
        cluster.put(&service, &stays).unwrap();
        let seen = until("the association to end", PATIENCE, || {
            let seen = client.peek(running)?;
            Ok((!seen.broken.is_empty()).then_some(seen))
        })
        .unwrap();
        assert!(seen.by.keys().eq(["pod1-2"]) && seen.answered > 3, "{seen:?}");
        // Told by an ABORT, not found out by waiting.
        assert!(seen.broken[0].contains("reset"), "{seen:?}");
        let timeout = Duration::from_secs(10);
        let next = client.probe_with(Proto::Sctp, UdpStyle::Connected, at, from, timeout).unwrap();
        assert_eq!(next.by(), Some("pod2-1"), "{next}");
        assert_eq!(next.source(), Some(own.ip(family)));
        let _ended = client.end(running).unwrap();
    }
}

#[test]
fn associations_outlive_agents_and_programs() {
    let setup = Setup { pods: vec![2, 1], ..Setup::default() };
    let Some(mut cluster) = Cluster::start_or_skip(setup, &[]) else { return };
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    let service = service();
    let endpoints =
        [&cluster.lab.nodes[0].pods[1], &cluster.lab.nodes[1].pods[0]].map(Endpoint::pod);
    cluster.put(&service, &endpoints).unwrap();
    let every = Duration::from_millis(10);
    let mut flows = Vec::new();
    for (number, (client, _)) in clients(&cluster.lab).into_iter().enumerate() {
        for at in FAMILIES.into_iter().flat_map(|family| targets(&cluster.lab, &service, family)) {
            let running = client.monitor(MonitorKind::Association, at, every).unwrap();
            flows.push((number, at, running));
        }
    }
    for flags in [&["--trace"][..], &[]] {
        for agent in &mut cluster.agents {
            agent.kill();
            agent.restart().unwrap();
            agent.set_flags(flags);
            agent.stop().unwrap();
            agent.restart().unwrap();
        }
    }
    let clients = clients(&cluster.lab);
    for (number, at, running) in flows {
        let client = clients[number].0;
        let before = client.peek(running).unwrap().answered;
        let what = format!("{} to {at}", client.name());
        // Each still gets answers after all that.
        let alive = until(&what, PATIENCE, || {
            let seen = client.peek(running)?;
            Ok((seen.answered > before || !seen.broken.is_empty()).then_some(()))
        });
        let seen = client.end(running).unwrap();
        assert!(alive.is_ok() && seen.broken.is_empty() && seen.by.len() == 1, "{what}: {seen:?}");
    }
}
