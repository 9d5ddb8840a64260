//! Flows live through the death of the agent and the replacement of its programs.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::time::{Duration, Instant};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Agent, FAMILIES, Lab, Setup},
    worker::{MonitorKind, Proto, Running, UdpStyle, Worker},
};

const EVERY: Duration = Duration::from_millis(5);
const AT_LEAST: Duration = Duration::from_secs(60);

struct Flow<'a> {
    what: String,
    client: &'a Worker,
    running: Running,
}

/// A stream and a ping from every kind of client by every kind of frontend, in both families. Two
/// backends and several of each flow make sure that local and remote backends are among them.
fn flows<'a>(lab: &'a Lab, service: &Service) -> Vec<Flow<'a>> {
    let node = &lab.nodes[0];
    let mut flows = Vec::new();
    for family in FAMILIES {
        let node_port = node.addresses.at(family, 30000);
        let cluster_ip = service.addresses.at(family, 80);
        let clients = [
            (&lab.client.worker, node_port),
            (&node.pods[0].worker, cluster_ip),
            (&node.pods[0].worker, node_port),
            (&node.host, cluster_ip),
            (&node.host, node_port),
            (&node.unhooked, cluster_ip),
            (&node.unhooked, node_port),
        ];
        for (client, at) in clients {
            for kind in [
                MonitorKind::Stream,
                MonitorKind::Stream,
                MonitorKind::Ping(UdpStyle::Connected),
                MonitorKind::Ping(UdpStyle::Unconnected),
            ] {
                flows.push(Flow {
                    what: format!("{} to {at} {kind:?}", client.name()),
                    client,
                    running: client.monitor(kind, at, EVERY).unwrap(),
                });
            }
        }
    }
    flows
}

fn programs(agents: &[Agent]) -> Vec<String> {
    agents
        .iter()
        .map(|agent| agent.status().unwrap()["object"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_minute_of_traffic_loses_nothing_while_agents_die_and_programs_are_replaced() {
    let setup = Setup { pods: vec![2, 1], ..Setup::default() };
    let Some(cluster) = Cluster::start_or_skip(setup, &[]) else { return };
    cluster.lab.serve(8080).unwrap();
    let service = Service::new("vote", 10).port("http", Proto::Tcp, 80, 8080, Some(30000)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30000),
    );
    let endpoints = [
        Endpoint::pod(&cluster.lab.nodes[0].pods[1]),
        Endpoint::pod(&cluster.lab.nodes[1].pods[0]),
    ];
    cluster.put(&service, &endpoints).unwrap();

    let begin = Instant::now();
    let Cluster { lab, directory: _, mut agents } = cluster;
    let flows = flows(&lab, &service);
    let mut rounds = 0;
    while rounds < 10 || begin.elapsed() < AT_LEAST {
        rounds += 1;
        for agent in &mut agents {
            // Dead without warning, then back with the same programs, newly loaded.
            agent.kill();
            agent.restart().unwrap();
            // And programs of another object in their place, by an orderly hand-over.
            let before = agent.status().unwrap()["object"].clone();
            agent.set_flags(if rounds % 2 == 1 { &["--trace"] } else { &[] });
            agent.stop().unwrap();
            agent.restart().unwrap();
            assert_ne!(agent.status().unwrap()["object"], before, "the programs are the same");
        }
    }
    println!("{rounds} rounds in {:?}, programs {:?}", begin.elapsed(), programs(&agents));

    let mut wrong = String::new();
    let (mut packets, mut count) = (0, 0);
    let mut backends = std::collections::BTreeSet::new();
    for flow in &flows {
        let seen = flow.client.end(flow.running).unwrap();
        packets += seen.answered;
        count += 1;
        backends.extend(seen.by.keys().cloned());
        let quiet = seen.lost == 0
            && seen.refused == 0
            && seen.broken.is_empty()
            && seen.retransmitted == 0
            && seen.by.len() == 1
            && seen.answered > 0;
        if !quiet {
            wrong += &format!("{}: {seen:?}\n", flow.what);
        }
    }
    println!("{count} flows, {packets} requests answered by {backends:?}, none lost, none reset");
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(backends.len(), 2, "one backend had no flow: {backends:?}");
}
