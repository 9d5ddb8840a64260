//! What others set up on a node, and what the agent makes of it: routing rules, IPsec policies,
//! programs nearer to the wire. With the few privileges that a running agent has kept.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{os::fd::AsFd as _, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Setup, until},
    worker::Proto,
};
use lb_userspace::maps::bpf::{self, Order};
use serde_json::{Value, json};

fn start(flags: &[&str]) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![1, 1], ..Setup::default() }, flags)?;
    cluster.lab.serve(8080).unwrap();
    let web = Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080));
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web, &endpoints).unwrap();
    Some(cluster)
}

/// Every frontend of node 1 is answered from outside.
fn is_served(cluster: &Cluster) {
    for family in FAMILIES {
        let at = cluster.lab.nodes[0].addresses.at(family, 30080);
        let share = cluster.lab.client.worker.many(Proto::Tcp, at, 20).unwrap();
        assert_eq!(share.failures, [], "{at}");
    }
}

#[test]
fn a_running_agent_tells_what_forbids_to_redirect() {
    let Some(cluster) = start(&[]) else { return };
    let (node, agent) = (&cluster.lab.nodes[0], &cluster.agents[0]);
    let ip = |words: &str| {
        let done = node.place.command("ip").unwrap().args(words.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let becomes = |obstacles: Value, source_rules: bool| {
        let redirect = obstacles.as_array().is_some_and(Vec::is_empty);
        let wanted =
            json!({"redirect": redirect, "obstacles": obstacles, "source_rules": source_rules});
        let _ = agent
            .wait_status(&format!("{wanted}"), |status| status["forwarding"] == wanted)
            .unwrap();
    };
    becomes(json!([]), false);
    ip("rule add fwmark 7 table 7");
    becomes(json!(["routing rules by mark"]), false);
    ip("xfrm policy add src 203.0.113.0/24 dst 198.51.100.0/24 dir fwd");
    becomes(json!(["xfrm policies", "routing rules by mark"]), false);
    ip("-6 rule add from 2001:db8:7::/48 table 7");
    becomes(json!(["xfrm policies", "routing rules by mark"]), true);
    let shown = agent.commands.lb(&["status"]).unwrap().output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = "Forwarding:   through the stack: xfrm policies, routing rules by mark\n";
    assert!(shown.contains(line), "{shown}");
    is_served(&cluster);
    ip("rule del fwmark 7 table 7");
    ip("xfrm policy deleteall");
    ip("-6 rule del from 2001:db8:7::/48 table 7");
    becomes(json!([]), false);
    is_served(&cluster);
}

#[test]
fn the_operator_may_keep_everything_in_the_stack() {
    let Some(cluster) = start(&["--forward=stack"]) else { return };
    let told = |status: &Value| status["forwarding"]["obstacles"] == json!(["--forward=stack"]);
    for agent in &cluster.agents {
        let _ = agent.wait_status("the flag to be told", told).unwrap();
    }
    is_served(&cluster);
}

#[test]
fn a_running_agent_overtakes_a_program_that_came_nearer_to_the_wire() {
    const INGRESS: u32 = 46;
    const SCHED_CLS: u32 = 3;
    /// The agent looks each 10 s.
    const LONG: Duration = Duration::from_secs(60);
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let node = &cluster.lab.nodes[0];
    // r0 = TCX_NEXT; exit.
    let other = bpf::prog_load(SCHED_CLS, &[0xffff_ffff_0000_00b7, 0x95]).unwrap();
    let (ifindex, link) = node
        .netns
        .run(|| {
            let ifindex = nix::net::if_::if_nametoindex("eth0")?;
            let link = bpf::link_create(other.as_fd(), ifindex, INGRESS, Order::First, 0)?;
            Ok((ifindex, link))
        })
        .unwrap();
    let id = bpf::link_info(link.as_fd()).unwrap().id;
    let order = || {
        node.netns.run(|| {
            let order = bpf::query(ifindex, INGRESS)?;
            Ok(order.iter().map(|attached| attached.link).collect::<Vec<_>>())
        })
    };
    assert_eq!(order().unwrap().first(), Some(&id));
    until("the other program to be inside", LONG, || {
        let order = order()?;
        assert!(order.contains(&id), "it is still there: {order:?}");
        Ok((order.len() == 2 && order[1] == id).then_some(()))
    })
    .unwrap();
    is_served(&cluster);
    until("the agent to say so", LONG, || {
        Ok(cluster.agents[0].log().contains("moved to the outer edge").then_some(()))
    })
    .unwrap();
    let well = |status: &Value| status["well"] == true;
    let _ = cluster.agents[0].wait_status("health", well).unwrap();
}
