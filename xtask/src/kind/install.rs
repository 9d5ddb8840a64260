//! The agent as its DaemonSet: the image into every node, the manifests of `deploy/` into the cluster.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::screen::Screen;
use super::{Artifacts, Cluster};
use crate::workspace;

/// In the order in which one needs the other.
const RIGHTS_AND_SETTINGS: [&str; 3] = ["serviceaccount.yaml", "rbac.yaml", "configmap.yaml"];
const AGENTS: [&str; 1] = ["daemonset.yaml"];

/// Loads the image and applies the manifests.
pub(super) fn apply(cluster: &Cluster, artifacts: &Artifacts, screen: &mut Screen) -> Result<()> {
    screen.step("The agent, a DaemonSet");
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    let archive = artifacts.images.join("lb.tar");
    for node in nodes {
        let import = ["ctr", "-n", "k8s.io", "images", "import", "-"];
        let _ = engine.feed_file(node, &import, &archive)?;
    }
    let said = kubectl.objects(engine, &["apply"], &manifests(&RIGHTS_AND_SETTINGS)?)?;
    screen.command(
        "kubectl",
        "apply -f deploy/serviceaccount.yaml,rbac.yaml,configmap.yaml",
        &said,
    );
    // The agent must not need what it is about to serve.
    let path = "jsonpath={.subsets[0].addresses[0].ip} {.subsets[0].ports[0].port}";
    let real = kubectl.run(engine, &["get", "endpoints", "kubernetes", "-o", path])?;
    let Some((host, port)) = real.split_once(' ') else {
        bail!("the endpoints of Service kubernetes are {real:?}")
    };
    let patch = format!(
        "{{\"data\":{{\"KUBERNETES_SERVICE_HOST\":\"{host}\",\"KUBERNETES_SERVICE_PORT\":\"{port}\"}}}}"
    );
    let words = ["-n", "kube-system", "patch", "configmap", "lb", "-p", &patch];
    let said = kubectl.run(engine, &words)?;
    screen.command("kubectl", &words.join(" "), &said);
    let said = kubectl.objects(engine, &["apply"], &manifests(&AGENTS)?)?;
    screen.command("kubectl", "apply -f deploy/daemonset.yaml", &said);
    let wait = ["-n", "kube-system", "rollout", "status", "daemonset/lb", "--timeout=180s"];
    let done = kubectl.attempt(engine, &wait)?;
    if !done.status.success() {
        let of_agents = ["-n", "kube-system", "-l", "k8s-app=lb"];
        let log = kubectl.run(engine, &[&["logs", "--tail=20"], &of_agents[..]].concat());
        let pods = kubectl.run(engine, &[&["describe", "pods"], &of_agents[..]].concat());
        bail!(
            "the agents do not become ready; their log:\n{}\nand their pods:\n{}",
            log.unwrap_or_default(),
            pods.unwrap_or_default()
        );
    }
    screen.check("the agent is ready on every node", true);
    Ok(())
}

/// Deletes what the manifests made, and with the agent's own program what the agents made.
pub(super) fn delete(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.step("The DaemonSet goes");
    let Cluster { engine, kubectl, .. } = cluster;
    let exists =
        ["-n", "kube-system", "get", "daemonset", "lb", "--ignore-not-found", "-o", "name"];
    if kubectl.run(engine, &exists)?.is_empty() {
        screen.line("  there is none");
        return Ok(());
    }
    let said = kubectl.objects(engine, &["delete", "--ignore-not-found", "--wait"], &all()?)?;
    screen.command("kubectl", "delete -k deploy", &said);
    let _ = kubectl.attempt(
        engine,
        &["-n", "kube-system", "wait", "--for=delete", "pod", "-l", "k8s-app=lb", "--timeout=60s"],
    )?;
    Ok(())
}

fn all() -> Result<String> {
    Ok(manifests(&RIGHTS_AND_SETTINGS)? + &manifests(&AGENTS)?)
}

fn manifests(names: &[&str]) -> Result<String> {
    let mut all = String::new();
    for name in names {
        let path = workspace::root().join("deploy").join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        all += &format!("---\n{text}\n");
    }
    Ok(all)
}
