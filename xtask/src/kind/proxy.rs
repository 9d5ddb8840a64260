//! kube-proxy, switched off and on again: its DaemonSet asks for nodes that there are none of.

use anyhow::Result;

use super::Cluster;
use super::screen::Screen;
use super::wait::until;

/// No node has this label, and nothing else of the DaemonSet is touched.
const SELECTOR: &str = "lb.example/kube-proxy-is-switched-off";

/// Sends kube-proxy's pods away, and removes the rules that they leave.
pub(super) fn switch_off(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.step("kube-proxy is switched off");
    if !exists(cluster)? {
        screen.line("  this cluster has no DaemonSet kube-proxy");
        return Ok(());
    }
    patch(cluster, "\"true\"", screen)?;
    until("kube-proxy's pods to go", || Ok((pods(cluster)? == 0).then_some(())))?;
    screen.check("no pod of kube-proxy is left", true);
    let Cluster { engine, nodes, .. } = cluster;
    for node in nodes {
        let said = engine.exec(node, &["lb", "cleanup", "--kube-proxy"])?;
        screen.command(&node.name, "lb cleanup --kube-proxy", &said);
    }
    Ok(())
}

/// Lets kube-proxy's pods come back, if it was switched off here, and waits for them.
pub(super) fn switch_on(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.step("kube-proxy is switched on");
    if !exists(cluster)? {
        screen.line("  this cluster has no DaemonSet kube-proxy");
        return Ok(());
    }
    patch(cluster, "null", screen)?;
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    until("kube-proxy's pods to come", || Ok((pods(cluster)? >= nodes.len()).then_some(())))?;
    let wait = ["-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=180s"];
    let _ = kubectl.run(engine, &wait)?;
    screen.check("kube-proxy runs on every node", true);
    Ok(())
}

fn exists(cluster: &Cluster) -> Result<bool> {
    let words =
        ["-n", "kube-system", "get", "daemonset", "kube-proxy", "--ignore-not-found", "-o", "name"];
    Ok(!cluster.kubectl.run(&cluster.engine, &words)?.is_empty())
}

fn patch(cluster: &Cluster, value: &str, screen: &Screen) -> Result<()> {
    let patch = format!(
        "{{\"spec\":{{\"template\":{{\"spec\":{{\"nodeSelector\":{{\"{SELECTOR}\":{value}}}}}}}}}}}"
    );
    let words = ["-n", "kube-system", "patch", "daemonset", "kube-proxy", "-p", &patch];
    let said = cluster.kubectl.run(&cluster.engine, &words)?;
    screen.command("kubectl", &words.join(" "), &said);
    Ok(())
}

/// How many pods of kube-proxy there are, going ones included.
fn pods(cluster: &Cluster) -> Result<usize> {
    let words = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-proxy", "-o", "name"];
    Ok(cluster.kubectl.run(&cluster.engine, &words)?.lines().count())
}
