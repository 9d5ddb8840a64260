//! The agent as a program in each node: copied in, started apart from any terminal, and stopped again.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::engine::{Engine, Node};
use super::screen::Screen;
use super::wait::until;
use super::{Cluster, mounts};

const PROGRAM: &str = "/usr/local/bin/lb";
const KUBECONFIG: &str = "/etc/kubernetes/lb-node-agent.conf";
const PID: &str = "/run/lb-node-agent.pid";
const LOG: &str = "/var/log/lb-node-agent.log";

/// Who the agents are to the API server: kube-proxy's own role, and a token that lasts until it is deleted.
const IDENTITY: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: lb-node-agent, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: lb-node-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:node-proxier'}
subjects: [{kind: ServiceAccount, name: lb-node-agent, namespace: kube-system}]
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: lb-node-agent
  namespace: kube-system
  annotations: {kubernetes.io/service-account.name: lb-node-agent}
";

/// Puts the program into a node. It is of use there also when the agent is a pod: to look, and to clean up.
pub(super) fn copy(engine: &Engine, node: &Node, lb: &Path) -> Result<()> {
    // A program that runs cannot be written to, so it is renamed into place.
    let line =
        format!("cat > {PROGRAM}.new && chmod 755 {PROGRAM}.new && mv {PROGRAM}.new {PROGRAM}");
    engine.feed_file(node, &["sh", "-ec", &line], lb).map(drop)
}

/// Starts the agent in every node and waits until each is healthy.
pub(super) fn start(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.step("The agent, a program in each node");
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    let _ = kubectl.objects(engine, &["apply"], IDENTITY)?;
    let token = until("a token for the agents", || {
        let path = "jsonpath={.data.token}";
        let words = ["-n", "kube-system", "get", "secret", "lb-node-agent", "-o", path];
        Ok(Some(kubectl.run(engine, &words)?).filter(|token| !token.is_empty()))
    })?;
    for node in nodes {
        let kubeconfig = kubeconfig(engine, node, &token)?;
        let line = format!("umask 077; cat > {KUBECONFIG}");
        let _ = engine.feed_text(node, &["sh", "-ec", &line], &kubeconfig)?;
        halt(engine, node)?;
        let cgroup = mounts::cgroup_root(engine, node)?;
        // The shell becomes the agent, so that the recorded number is the agent's.
        let line = format!(
            "echo $$ > {PID}; exec {PROGRAM} run --kubeconfig {KUBECONFIG} --node-name {} \
             --cgroup-root {cgroup} >> {LOG} 2>&1",
            node.name
        );
        engine.detach(node, &["sh", "-ec", &line])?;
        screen.line(&format!("  {}: started, log in {LOG}", node.name));
    }
    for node in nodes {
        let waited = until("the agent to be healthy", || {
            Ok(engine.attempt(node, &[PROGRAM, "status"])?.status.success().then_some(()))
        });
        if let Err(error) = waited {
            let log = engine.exec(node, &["tail", "-n", "20", LOG]).unwrap_or_default();
            bail!("{}: {error}; the end of its log:\n{log}", node.name);
        }
        let status = engine.exec(node, &[PROGRAM, "status"])?;
        screen.command(&node.name, "lb status", &status);
        screen.check("the agent is healthy", true);
    }
    Ok(())
}

/// Stops the agent in every node and removes what it and we made there.
pub(super) fn stop(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.step("The agent goes");
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    for node in nodes {
        if !engine.attempt(node, &["test", "-x", PROGRAM])?.status.success() {
            screen.line(&format!("  {}: has none", node.name));
            continue;
        }
        halt(engine, node)?;
        let said = engine.exec(node, &[PROGRAM, "cleanup"])?;
        screen.command(&node.name, "lb cleanup", &said);
        let _ = engine.exec(node, &["rm", "-f", PROGRAM, KUBECONFIG, PID, LOG])?;
    }
    let _ = kubectl.objects(engine, &["delete", "--ignore-not-found"], IDENTITY)?;
    Ok(())
}

/// Stops an agent of ours that runs, if one does.
fn halt(engine: &Engine, node: &Node) -> Result<()> {
    // The number may by now be another program's.
    let is_ours = format!("[ -s {PID} ] && readlink /proc/$(cat {PID})/exe | grep -q '^{PROGRAM}'");
    let runs = |engine: &Engine| -> Result<bool> {
        Ok(engine.attempt(node, &["sh", "-c", &is_ours])?.status.success())
    };
    if !runs(engine)? {
        return Ok(());
    }
    let _ = engine.exec(node, &["sh", "-ec", &format!("kill $(cat {PID})")])?;
    until("the agent to stop", || Ok((!runs(engine)?).then_some(())))
}

/// A kubeconfig that needs no name server: the API server by its address, its certificate by its name.
fn kubeconfig(engine: &Engine, node: &Node, token: &str) -> Result<String> {
    let kubelet = engine.exec(node, &["cat", "/etc/kubernetes/kubelet.conf"])?;
    let server = kubelet.lines().find_map(|line| line.trim().strip_prefix("server: https://"));
    let server =
        server.with_context(|| format!("kubelet.conf of {} names no server", node.name))?;
    let (host, port) = server.trim_matches('/').rsplit_once(':').unwrap_or((server, "443"));
    let found = engine.exec(node, &["getent", "ahostsv4", host.trim_matches(['[', ']'])]);
    let found = match found {
        Ok(found) => found,
        Err(_) => engine.exec(node, &["getent", "ahosts", host.trim_matches(['[', ']'])])?,
    };
    let address = found.split_whitespace().next();
    let address = address.with_context(|| format!("{} does not resolve {host}", node.name))?;
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let name = if address == host { String::new() } else { format!(", tls-server-name: '{host}'") };
    let ca = engine.exec(node, &["base64", "-w0", "/etc/kubernetes/pki/ca.crt"])?;
    let token = engine.feed_text(node, &["base64", "-d"], token)?;
    Ok(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lb\n\
         clusters: [{{name: lb, cluster: {{server: 'https://{address}:{port}', \
         certificate-authority-data: {ca}{name}}}}}]\n\
         users: [{{name: lb, user: {{token: {token}}}}}]\n\
         contexts: [{{name: lb, context: {{cluster: lb, user: lb}}}}]\n"
    ))
}
