//! The API server goes away for a while: nothing happens, and then everything at once.

use std::{
    env, fs,
    net::SocketAddr,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    lab::FAMILIES,
    worker::{MonitorKind, UdpStyle},
};

use crate::{
    agents::{SERVE, serve},
    flows::{Flows, sum},
    manifests,
    stage::{Stage, until_answered},
    vote::caller,
};

const NODE_PORT: u16 = 30_002;
const LATE_PORT: u16 = 30_003;
const EVERY: Duration = Duration::from_millis(20);

/// SYNC-7, ES-18, HZ-10: no flow and no request notices; what is changed as soon as the API server is
/// back is programmed within two seconds.
pub(crate) fn loses_nothing(stage: &Stage) -> Result<()> {
    let space = stage.namespace("outage")?;
    space.apply(&format!(
        "{}{}{}",
        manifests::pod("caller", "node1"),
        manifests::pod("server", "node2"),
        serve("server", NODE_PORT)
    ))?;
    let caller = caller(&space)?;
    let _ = space.kubectl(&["wait", "--for=condition=Ready", "pod/server", "--timeout=180s"])?;
    let server = space.in_pod("server")?;
    let server_ips = space.pod_ips("server")?;
    SERVE.iter().try_for_each(|proto| {
        server_ips.iter().try_for_each(|ip| server.serve(*proto, SocketAddr::new(*ip, 7000)))
    })?;
    let mut clients = Vec::new();
    for (node, family) in FAMILIES.into_iter().enumerate() {
        clients.push((&stage.client, stage.node_port(node, family, NODE_PORT)?));
    }
    for ip in space.cluster_ips("server")? {
        clients.push((&caller, SocketAddr::new(ip, 80)));
        clients.push((&stage.hosts[0], SocketAddr::new(ip, 80)));
    }
    let mut flows = Flows::default();
    for (from, to) in clients {
        until_answered(from, to)?;
        for kind in
            [MonitorKind::Connections, MonitorKind::Stream, MonitorKind::Ping(UdpStyle::Connected)]
        {
            flows.add(from, kind, to, EVERY)?;
        }
    }
    flows.progress(10)?;
    stage.cluster.stop_api_server()?;
    let outage = flows.go_on(length());
    let healthy = FAMILIES.map(|family| {
        let at = stage.node_port(0, family, 10_256)?;
        stage.curl(stage.cluster.client(), &format!("http://{at}/healthz"))
    });
    // Whatever was seen, the cases after this one need it.
    stage.cluster.start_api_server()?;
    let back = Instant::now();
    outage?;
    for healthy in healthy {
        ensure!(healthy?.0 == 200, "a node without API server calls itself unhealthy");
    }
    let ip = server_ips.iter().find(|ip| ip.is_ipv4()).context("an IPv4 address of the pod")?;
    space.apply(&late(&ip.to_string()))?;
    let changed = Instant::now();
    for node in 0..stage.cluster.nodes().len() {
        until_answered(&stage.client, stage.node_port(node, FAMILIES[0], LATE_PORT)?)?;
    }
    let took = changed.elapsed();
    println!(
        "API server back after {} s; a change {} ms later was programmed on all nodes {} ms after that",
        length().as_secs(),
        (changed - back).as_millis(),
        took.as_millis()
    );
    ensure!(took <= promise(), "programmed only {took:?} after the change");
    let reports = flows.end()?;
    println!("outage: {}", sum(&reports));
    Ok(())
}

/// How long the API server stays away.
fn length() -> Duration {
    let nightly = env::var_os("LB_TEST_NIGHTLY").is_some();
    Duration::from_secs(if nightly { 120 } else { 20 })
}

/// Two seconds, on a machine that is not asked for more than it has: two processes that want to run
/// for each processor, and not more.
fn promise() -> Duration {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default();
    let cores = available_parallelism().map_or(1, usize::from);
    let overloaded = load > 2.0 * f64::from(u32::try_from(cores).unwrap_or(u32::MAX));
    Duration::from_secs(if overloaded { 15 } else { 2 })
}

/// A Service without selector and its slice: no controller stands between them and the agent.
fn late(ip: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: late}}
spec: {{type: NodePort, ports: [{{name: http, port: 80, nodePort: {LATE_PORT}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: late-1, labels: {{kubernetes.io/service-name: late}}}}
addressType: IPv4
ports: [{{name: http, port: 7000, protocol: TCP}}]
endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}}}]
"
    )
}
