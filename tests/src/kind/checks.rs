//! What must be true of the agent in a kind cluster: with it Services work, from outside and from pods;
//! taken back, they do not; and kube-proxy goes and comes as told.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{
    Options,
    cluster::Cluster,
    shell::{attempt, words},
};
use crate::lab::until;

const PATIENCE: Duration = Duration::from_secs(120);
const NODE_PORT: u16 = 30_001;

/// Outcomes, printed as they come, and the tally.
pub(super) struct Checks {
    begun: Instant,
    done: u32,
    wrong: Vec<String>,
}

impl Checks {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), done: 0, wrong: Vec::new() }
    }

    /// Says what comes now.
    pub(super) fn step(&self, what: &str) {
        println!("--- {what} (after {:.0} s)", self.begun.elapsed().as_secs_f32());
    }

    /// Remembers whether an outcome is right.
    pub(super) fn check(&mut self, what: &str, right: bool) {
        self.done += 1;
        println!("    {} {what}", if right { "ok" } else { "WRONG:" });
        if !right {
            self.wrong.push(what.to_owned());
        }
    }

    /// Fails when any outcome was wrong.
    pub(super) fn verdict(&self) -> Result<()> {
        let wrong = self.wrong.len();
        println!("{} passed, {wrong} failed", self.done as usize - wrong);
        ensure!(wrong == 0, "wrong in the kind cluster: {}", self.wrong.join("; "));
        Ok(())
    }
}

/// Everything, in the order in which an operator would do it.
pub(super) fn all(cluster: &Cluster<'_>, options: &Options, checks: &mut Checks) -> Result<()> {
    proxy_in_name(cluster)?;
    checks.step("the command: agents as programs in the nodes, kube-proxy off, the vote lab");
    run(cluster, options, &[])?;
    checks.check("the command succeeds", true);
    ballot(cluster)?;
    checks.check("no pod of kube-proxy runs", proxies(cluster)? == 0);
    let dns = ["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s"];
    // CoreDNS is ready when it has reached the API server by its ClusterIP.
    checks.check("pods reach the API server by its ClusterIP", cluster.kubectl(&dns).is_ok());
    serves(cluster, checks)?;
    undo(cluster, options, checks)?;

    checks.step("the command again: agents as the DaemonSet of deploy/");
    run(cluster, options, &["--install", "--no-lab"])?;
    checks.check("the command succeeds", true);
    serves(cluster, checks)?;
    undo(cluster, options, checks)
}

fn undo(cluster: &Cluster<'_>, options: &Options, checks: &mut Checks) -> Result<()> {
    checks.step("taking it back");
    run(cluster, options, &["--undo"])?;
    checks.check("the command succeeds", true);
    checks.check("kube-proxy's pods run again", proxies(cluster)? == cluster.nodes.len());
    for node in &cluster.nodes {
        let look = "grep -q ' /sys/fs/bpf bpf ' /proc/self/mounts || ls /usr/local/bin/lb /sys/fs/bpf/lb 2>/dev/null";
        let left = attempt(&mut cluster.on(&node.name, &["sh", "-c", look]))?.status.success();
        checks.check(&format!("nothing is left on {}", node.name), !left);
    }
    refuses(cluster, checks)
}

/// A DaemonSet in kube-proxy's place. What it runs is of no interest: it must go, and come back.
fn proxy_in_name(cluster: &Cluster<'_>) -> Result<()> {
    let labels = json!({ "k8s-app": "kube-proxy" });
    cluster.apply(&json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "kube-proxy", "namespace": "kube-system", "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 1,
                    "nodeSelector": { "kubernetes.io/os": "linux" },
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{
                        "name": "kube-proxy",
                        "image": "registry.k8s.io/pause:3.10.2",
                        "imagePullPolicy": "Never",
                    }],
                },
            },
        },
    }))?;
    until("the DaemonSet in kube-proxy's place", PATIENCE, || {
        Ok((proxies(cluster)? == cluster.nodes.len()).then_some(()))
    })
}

fn proxies(cluster: &Cluster<'_>) -> Result<usize> {
    let find = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-proxy", "-o", "name"];
    Ok(cluster.kubectl(&find)?.lines().count())
}

/// A pod on each node and a dual-stack Service in front of them, which no command of ours takes away.
fn ballot(cluster: &Cluster<'_>) -> Result<()> {
    let labels = json!({ "app": "ballot" });
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": { "name": "ballot" },
                "spec": {
                    "selector": { "matchLabels": labels },
                    "template": {
                        "metadata": { "labels": labels },
                        "spec": {
                            "tolerations": [{ "operator": "Exists" }],
                            "containers": [{
                                "name": "ballot",
                                "image": "schoolofdevops/vote:v1",
                                "imagePullPolicy": "Never",
                            }],
                        },
                    },
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": "ballot" },
                "spec": {
                    "type": "NodePort",
                    "ipFamilyPolicy": "RequireDualStack",
                    "selector": labels,
                    "ports": [{ "port": 80, "nodePort": NODE_PORT }],
                },
            },
        ],
    }))?;
    let _ = cluster.kubectl(&["rollout", "status", "daemonset/ballot", "--timeout=180s"])?;
    Ok(())
}

/// `cargo xtask run --kind`, where a user of this engine would run it.
fn run(cluster: &Cluster<'_>, options: &Options, more: &[&str]) -> Result<()> {
    let mut command = cluster.outside(&options.xtask);
    let _ = command
        .args(["run", "--kind", cluster.name()])
        .args(more)
        .env("LB_BIN", &options.lb)
        .env("LB_KUBERNETES_IMAGES", &options.images);
    let status = command.status().with_context(|| format!("starting `{}`", words(&command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", words(&command));
    }
    Ok(())
}

/// All ways to the Service lead to both pods.
fn serves(cluster: &Cluster<'_>, checks: &mut Checks) -> Result<()> {
    for node in &cluster.nodes {
        for address in &node.addresses {
            let at = format!("{}:{NODE_PORT}", bracketed(address));
            let both = until("both pods to answer", PATIENCE, || {
                let seen = ask(&mut cluster.outside(Path::new("curl")), &at, 20)?;
                Ok((seen.len() == 2).then_some(()))
            });
            checks.check(&format!("from outside, {at} leads to both pods"), both.is_ok());
        }
        for vip in vips(cluster)? {
            let at = bracketed(&vip);
            let done = from_pod(cluster, &node.name, &at)?;
            let what = format!("from a pod on {}, {at} leads to a pod", node.name);
            checks.check(&what, done.is_some_and(|answer| answer.starts_with("ballot-")));
        }
    }
    Ok(())
}

/// No way to the Service leads anywhere, and the node port is refused at once: the negative control.
fn refuses(cluster: &Cluster<'_>, checks: &mut Checks) -> Result<()> {
    for node in &cluster.nodes {
        for address in &node.addresses {
            let url = format!("http://{}:{NODE_PORT}/", bracketed(address));
            let mut curl = cluster.outside(Path::new("curl"));
            let done = attempt(curl.args(["-s", "--max-time", "5", &url]))?;
            // 7: no connection; a time-out would be 28.
            let what = format!("without the agent, {url} is refused");
            checks.check(&what, done.status.code() == Some(7));
        }
    }
    let node = &cluster.nodes[0].name;
    for vip in vips(cluster)? {
        let answer = from_pod(cluster, node, &bracketed(&vip))?;
        checks
            .check(&format!("without the agent, {vip} leads nowhere from a pod"), answer.is_none());
    }
    Ok(())
}

fn vips(cluster: &Cluster<'_>) -> Result<Vec<String>> {
    let path = "jsonpath={.spec.clusterIPs[*]}";
    let vips = cluster.kubectl(&["get", "service", "ballot", "-o", path])?;
    Ok(vips.split(' ').map(str::to_owned).collect())
}

/// What a pod on this node gets when it asks, with its own client.
fn from_pod(cluster: &Cluster<'_>, node: &str, at: &str) -> Result<Option<String>> {
    let field = format!("spec.nodeName={node}");
    let find = ["get", "pods", "-l", "app=ballot", "--field-selector", &field, "-o", "name"];
    let pod = cluster.kubectl(&find)?;
    let url = format!("http://{at}/");
    Ok(cluster.kubectl(&["exec", &pod, "--", "/vote", "get", &url]).ok())
}

/// The names of those who answer so many requests.
fn ask(curl: &mut Command, at: &str, times: usize) -> Result<std::collections::BTreeSet<String>> {
    let url = format!("http://{at}/?[1-{times}]");
    // Without a connection kept open, each request is a new choice.
    let done = attempt(curl.args([
        "-s",
        "--no-keepalive",
        "--max-time",
        "20",
        "-H",
        "Connection: close",
        &url,
    ]))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect())
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
