//! A rolling update under clients that open connection after connection.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    lab::{FAMILIES, until},
    worker::MonitorKind,
};

use crate::{
    flows::{Flows, sum},
    manifests,
    stage::{PATIENCE, Stage, until_served_by},
    vote::caller,
};

const NODE_PORT: u16 = 30_001;
const EVERY: Duration = Duration::from_millis(15);

/// EP-10, SVC-1, SVC-2: from outside, from a pod and from a host process, twice.
pub(crate) fn loses_nothing(stage: &Stage) -> Result<()> {
    let space = stage.namespace("rollout")?;
    space.apply(&format!(
        "{}{}{}",
        manifests::deployment("vote", 3),
        manifests::service("vote", "{app: vote}", NODE_PORT),
        manifests::pod("caller", "node2"),
    ))?;
    space.rolled_out("deployment/vote")?;
    let caller = caller(&space)?;
    let mut clients = Vec::new();
    for (node, family) in FAMILIES.into_iter().enumerate() {
        clients.push((&stage.client, stage.node_port(node, family, NODE_PORT)?));
    }
    for ip in space.cluster_ips("vote")? {
        clients.push((&caller, SocketAddr::new(ip, 80)));
        clients.push((&stage.hosts[0], SocketAddr::new(ip, 80)));
    }
    let before = space.ready_pods("app=vote")?;
    for (from, to) in &clients {
        until_served_by(from, *to, &before)?;
    }
    let mut flows = Flows::default();
    for (from, to) in clients {
        flows.add(from, MonitorKind::Connections, to, EVERY)?;
    }
    flows.progress(20)?;
    let changes: [&[&str]; 2] = [
        &["rollout", "restart", "deployment/vote"],
        &["set", "env", "deployment/vote", "UPDATE=2"],
    ];
    for change in changes {
        let _ = space.kubectl(change)?;
        space.rolled_out("deployment/vote")?;
    }
    until("the old pods to go", PATIENCE, || {
        let left = space.kubectl(&["get", "pods", "-l", "app=vote", "-o", "name"])?;
        Ok((left.lines().count() == 3).then_some(()))
    })?;
    let after = space.ready_pods("app=vote")?;
    flows.progress(60)?;
    let reports = flows.end()?;
    for report in &reports {
        let seen = |pods: &[String]| pods.iter().any(|pod| report.by.contains_key(pod));
        ensure!(seen(&before) && seen(&after), "not updated: {:?}", report.by);
    }
    println!("rolling updates: {}", sum(&reports));
    Ok(())
}
