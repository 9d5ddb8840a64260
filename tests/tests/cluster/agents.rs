//! The agent's own pods end and are replaced while flows go on.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    lab::{FAMILIES, until},
    worker::{MonitorKind, Proto, UdpStyle},
};

use crate::{
    flows::{Flows, sum},
    manifests,
    stage::{PATIENCE, Stage, until_answered},
    vote::caller,
};

const NODE_PORT: u16 = 30_004;
const EVERY: Duration = Duration::from_millis(10);

/// What the pods of [`serve`] answer.
pub(crate) const SERVE: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// A Service of TCP and UDP port 80 for the pod `name`, which serves both at port 7000.
pub(crate) fn serve(name: &str, node_port: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {{app: {name}}}
  ports:
  - {{name: tcp, protocol: TCP, port: 80, targetPort: 7000, nodePort: {node_port}}}
  - {{name: udp, protocol: UDP, port: 80, targetPort: 7000, nodePort: {node_port}}}
---"
    )
}

/// SYNC-7, CT-17: agents deleted, then upgraded to an image of another name.
pub(crate) fn lose_nothing(stage: &Stage) -> Result<()> {
    let space = stage.namespace("agents")?;
    // A server on each node, so that there are local and remote backends.
    let mut objects = manifests::pod("caller", "node1");
    for node in ["node1", "node2"] {
        objects += &manifests::pod(&format!("server-{node}"), node)
            .replace(&format!("labels: {{app: server-{node}}}"), "labels: {app: server}");
    }
    space.apply(&(objects + &serve("server", NODE_PORT)))?;
    let caller = caller(&space)?;
    let mut servers = Vec::new();
    for pod in ["server-node1", "server-node2"] {
        let ready = ["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=180s"];
        let _ = space.kubectl(&ready)?;
        let server = space.in_pod(pod)?;
        for ip in space.pod_ips(pod)? {
            SERVE.iter().try_for_each(|proto| server.serve(*proto, SocketAddr::new(ip, 7000)))?;
        }
        servers.push(server);
    }
    let mut clients = Vec::new();
    for family in FAMILIES {
        for node in 0..stage.cluster.nodes().len() {
            clients.push((&stage.client, stage.node_port(node, family, NODE_PORT)?));
        }
    }
    for ip in space.cluster_ips("server")? {
        clients.push((&caller, SocketAddr::new(ip, 80)));
        clients.push((&stage.hosts[0], SocketAddr::new(ip, 80)));
    }
    let mut flows = Flows::default();
    for (from, to) in clients {
        until_answered(from, to)?;
        for kind in [
            MonitorKind::Stream,
            MonitorKind::Stream,
            MonitorKind::Ping(UdpStyle::Connected),
            MonitorKind::Ping(UdpStyle::Unconnected),
        ] {
            flows.add(from, kind, to, EVERY)?;
        }
    }
    flows.progress(10)?;

    let first = agents(stage)?;
    ensure!(first.len() == stage.cluster.nodes().len(), "agents: {first:?}");
    let system = ["-n", "kube-system"];
    let delete = ["delete", "pod", "-l", "k8s-app=lb", "--wait=false"];
    let _ = stage.cluster.kubectl(&[&system[..], &delete].concat())?;
    let second = replaced(stage, &first)?;
    flows.progress(50)?;

    let daemon_set = stage.cluster.json(&["get", "daemonset/lb", "-n", "kube-system"])?;
    let containers = &daemon_set["spec"]["template"]["spec"]["containers"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let container = text(&containers[0]["name"]).context("the agent's container has a name")?;
    let image = text(&containers[0]["image"]).context("the agent's container has an image")?;
    let upgrade = format!("{}:upgrade", image.split(':').next().unwrap_or(&image));
    tag(stage, &image, &upgrade)?;
    let set = ["set", "image", "daemonset/lb", &format!("{container}={upgrade}")];
    let _ = stage.cluster.kubectl(&[&system[..], &set].concat())?;
    let third = replaced(stage, &second)?;
    ensure!(third.iter().all(|(_, runs)| *runs == upgrade), "not upgraded: {third:?}");
    flows.progress(50)?;
    let reports = flows.end()?;
    println!("agents replaced twice: {}", sum(&reports));
    Ok(())
}

/// Pods of the agent, by unique number and image, that are ready.
fn agents(stage: &Stage) -> Result<Vec<(String, String)>> {
    let words = ["get", "pods", "-n", "kube-system", "-l", "k8s-app=lb"];
    let pods = stage.cluster.json(&words)?;
    let mut found = Vec::new();
    for pod in pods["items"].as_array().context("pods")? {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|one| one["type"] == "Ready");
        if ready.any(|one| one["status"] == "True") {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let image = &pod["spec"]["containers"][0]["image"];
            found.push((text(&pod["metadata"]["uid"]), text(image)));
        }
    }
    Ok(found)
}

/// Waits until every node has a ready agent that is none of `old`.
fn replaced(stage: &Stage, old: &[(String, String)]) -> Result<Vec<(String, String)>> {
    until("new agents", PATIENCE, || {
        let now = agents(stage)?;
        let new = now.iter().all(|(uid, _)| old.iter().all(|(known, _)| known != uid));
        Ok((new && now.len() == old.len()).then_some(now))
    })
}

/// Gives the agent's image a second name on every node, as if it had been pulled by that.
fn tag(stage: &Stage, image: &str, name: &str) -> Result<()> {
    let full = |name: &str| {
        let registry = name.split('/').next().is_some_and(|first| first.contains('.'));
        if registry {
            name.to_owned()
        } else if name.contains('/') {
            format!("docker.io/{name}")
        } else {
            format!("docker.io/library/{name}")
        }
    };
    let ctr = stage.cluster.options().bin.join("ctr");
    for node in stage.cluster.nodes() {
        let output = node
            .place
            .command(&ctr)?
            .args(["--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io"])
            .args(["images", "tag", "--force", &full(image), &full(name)])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr images tag on {}: {said}", node.name);
    }
    Ok(())
}
