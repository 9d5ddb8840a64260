//! What runs on the cluster from the start: CoreDNS and the agent.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{cluster::Cluster, node::Node, options::AgentMode, plan::DNS};

/// CoreDNS as clusters have it, without a way to names outside.
const COREDNS: &str = include_str!("../../kubernetes/manifests/coredns.yaml");

/// Applies CoreDNS and starts the agents.
pub(super) fn apply(cluster: &Cluster) -> Result<()> {
    cluster.apply(&COREDNS.replace("CLUSTER_DNS", DNS))?;
    match cluster.options().agent {
        AgentMode::Pod => super::deploy::apply(cluster),
        AgentMode::Host => cluster.nodes().iter().try_for_each(|node| start_agent(cluster, node)),
        AgentMode::None => Ok(()),
    }
}

/// Waits until every node has a ready agent.
pub(super) fn wait_agent(cluster: &Cluster, patience: Duration) -> Result<()> {
    if cluster.options().agent == AgentMode::Pod {
        return super::deploy::wait(cluster, patience);
    }
    cluster.nodes().iter().try_for_each(|node| {
        let name = agent(node);
        cluster.until(&format!("the agent of {}", node.name), patience, &[&name], || {
            let status = node.place.command(&cluster.options().lb)?.arg("status").output()?;
            Ok(status.status.success())
        })
    })
}

/// Waits until CoreDNS serves, for which it has reached the API server through a Service.
pub(super) fn wait_dns(cluster: &Cluster, patience: Duration) -> Result<()> {
    let waiting = ["rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=3s"];
    let done = cluster.until("CoreDNS", patience, &["kube-controller-manager"], || {
        check_images(cluster, "kube-dns")?;
        Ok(cluster.kubectl(&waiting).is_ok())
    });
    done.map_err(|error| error.context(pods(cluster, "kube-dns")).context("CoreDNS is not ready"))
}

/// What kubectl knows of the pods of an application in kube-system, and what they said.
pub(super) fn pods(cluster: &Cluster, app: &str) -> String {
    let label = format!("k8s-app={app}");
    let selection = ["-n", "kube-system", "-l", &label];
    let log = ["logs", "--tail=20", "--prefix", "--ignore-errors"];
    let asked = [
        [&["get", "pods", "-o", "wide"], &selection[..]].concat(),
        vec!["get", "events", "-n", "kube-system", "--field-selector=type=Warning"],
        [&log[..], &selection[..]].concat(),
    ];
    let said = asked.map(|words| {
        let said = cluster.kubectl(&words).unwrap_or_else(|why| format!("{why:#}"));
        format!("--- kubectl {}\n{}", words.join(" "), said.trim_end())
    });
    said.join("\n")
}

/// Fails when a pod of an application in kube-system has no image: waiting will not help.
pub(super) fn check_images(cluster: &Cluster, app: &str) -> Result<()> {
    let label = format!("k8s-app={app}");
    let reason = "{.items[*].status.containerStatuses[*].state.waiting.reason}";
    let output = format!("jsonpath={reason}");
    let words = ["get", "pods", "-n", "kube-system", "-l", &label, "-o", &output];
    // An API server that does not answer now is asked again.
    let said = cluster.kubectl(&words).unwrap_or_default();
    ensure!(
        !said.contains("ImagePull") && !said.contains("ErrImage"),
        "the nodes have no image for the pods of {app}: {} holds those that they get",
        cluster.options().images.display()
    );
    Ok(())
}

/// Name of a node's agent among the processes, where it is one.
pub(super) fn agent(node: &Node) -> String {
    format!("{}-agent", node.name)
}

/// Starts the agent as a process of a node.
fn start_agent(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut command = node.place.command(&cluster.options().lb)?;
    let _ = command
        .arg("run")
        .arg("--kubeconfig")
        .arg(cluster.plan().pki().join("kube-proxy.conf"))
        .args(["--node-name", &node.name]);
    cluster.start(&agent(node), &mut command)
}
