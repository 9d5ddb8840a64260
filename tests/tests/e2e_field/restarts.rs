//! Agents that start again with the other `--forward`: flows under way change between the shortcut and the road, and
//! neither of their ends notices.

use std::time::Duration;

use lb_tests::{
    cluster::Cluster,
    lab::{FAMILIES, PATIENCE, Setup, until},
    worker::{MonitorKind, Running, UdpStyle},
};

use super::{By, NODE_PORT, put, start, web};

/// How often a flow sends.
const EVERY: Duration = Duration::from_millis(5);
/// How often each of the two flags gets its turn.
const TURNS: usize = 5;
/// Flows of each family and protocol.
const FLOWS: usize = 4;
/// Answers of every flow in every turn.
const ANSWERS: u64 = 50;

#[test]
fn a_flow_goes_on_when_its_agent_starts_with_the_other_way_to_forward() {
    for (by, xdp) in [(By::Tc, "--xdp=off"), (By::Xdp, "--xdp=native")] {
        let Some(mut cluster) = start(Setup::default(), by) else { return };
        put(&cluster, &web(), &cluster.lab.nodes[1].pods[0]);
        let flows = flows(&cluster);
        for turn in 0..2 * TURNS {
            let redirect = turn % 2 == 1;
            let forward = if redirect { "--forward=redirect" } else { "--forward=stack" };
            // The flows come to the first node, which decides about their way.
            let agent = &mut cluster.agents[0];
            agent.set_flags(&[xdp, forward]);
            agent.restart().unwrap();
            let status = agent.status().unwrap();
            assert_eq!(status["forwarding"]["redirect"], redirect, "{by:?}: {status}");
            advance(&cluster, &flows);
        }
        let mut answered = 0;
        for (what, running) in flows {
            let seen = cluster.lab.client.worker.end(running).unwrap();
            let quiet = seen.lost == 0
                && seen.refused == 0
                && seen.broken.is_empty()
                && seen.by.len() == 1
                && seen.sources.len() == 1;
            assert!(quiet, "{by:?}: {what}: {seen:?}");
            answered += seen.answered;
        }
        println!("{by:?}: {answered} requests in {} turns, none lost, none reset", 2 * TURNS);
    }
}

/// Connections and datagrams from outside to the node port of node 1, whose backend is on node 2.
fn flows(cluster: &Cluster) -> Vec<(String, Running)> {
    let mut flows = Vec::new();
    for family in FAMILIES {
        let to = cluster.lab.nodes[0].addresses.at(family, NODE_PORT);
        for kind in [MonitorKind::Stream, MonitorKind::Ping(UdpStyle::Connected)] {
            for _ in 0..FLOWS {
                let running = cluster.lab.client.worker.monitor(kind, to, EVERY).unwrap();
                flows.push((format!("{kind:?} to {to}"), running));
            }
        }
    }
    flows
}

/// Waits until every flow had some more answers.
fn advance(cluster: &Cluster, flows: &[(String, Running)]) {
    let client = &cluster.lab.client.worker;
    for (what, running) in flows {
        let before = client.peek(*running).unwrap().answered;
        until(&format!("answers of {what}"), PATIENCE, || {
            let seen = client.peek(*running)?;
            let enough = seen.answered >= before + ANSWERS || !seen.broken.is_empty();
            Ok(enough.then_some(()))
        })
        .unwrap();
    }
}
