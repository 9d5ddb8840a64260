//! The cluster that all cases share, and who asks in it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::{
    kubernetes::{self, Cluster, Node, Options},
    lab::{Family, Place, until},
    worker::{Outcome, Proto, Worker},
};

/// How long anything may take that a cluster does by itself: pods, roll-outs. A machine that builds
/// something meanwhile takes that long; nothing here waits longer than for its condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// How long a change may take until traffic follows it, on such a machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The cluster and its clients.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// Outside.
    pub(crate) client: Worker,
    /// One process on each node, beside the pods.
    pub(crate) hosts: Vec<Worker>,
}

impl Stage {
    /// Why no cluster can be had here.
    pub(crate) fn missing() -> Option<String> {
        kubernetes::missing(&Options::default())
    }

    /// Brings a cluster up, after removing what runs have left that were killed.
    pub(crate) fn up() -> Result<Self> {
        for name in kubernetes::names() {
            // As `unique_name` makes them: the number of the process, and a count.
            let pid = name.strip_prefix('t').and_then(|rest| rest.split('-').next());
            let Some(Ok(pid)) = pid.map(str::parse::<u32>) else { continue };
            if !Path::new(&format!("/proc/{pid}")).exists() {
                let _ = kubernetes::down(&name)?;
            }
        }
        let name = kubernetes::unique_name();
        let up = || {
            let cluster = Cluster::up(Options { name: name.clone(), ..Options::default() })?;
            let client = worker(cluster.client(), "client")?;
            let host = |node: &Node| worker(&node.place, &format!("{}-host", node.name));
            let hosts = cluster.nodes().iter().map(host).collect::<Result<_>>()?;
            Ok(Self { cluster, client, hosts })
        };
        up().inspect_err(|_| drop(kubernetes::down(&name)))
    }

    /// Takes the cluster down.
    pub(crate) fn down(self) -> Result<()> {
        let name = self.cluster.name().to_owned();
        drop(self);
        let _ = kubernetes::down(&name)?;
        Ok(())
    }

    /// What somebody wants to see who looks at a failed case.
    pub(crate) fn scene(&self) -> String {
        let commands: [&[&str]; 4] = [
            &["get", "nodes,pods,services,endpointslices", "-A", "-o", "wide"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["logs", "-n", "kube-system", "-l", "k8s-app=lb", "--tail=15", "--prefix"],
            &["logs", "-n", "kube-system", "-l", "k8s-app=lb", "--tail=15", "--prefix", "-p"],
        ];
        let mut scene = String::new();
        for words in commands {
            let said = self.cluster.kubectl(words).unwrap_or_else(|why| format!("{why:#}"));
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(60)..].join("\n");
            scene.push_str(&format!("$ kubectl {}\n{last}\n", words.join(" ")));
        }
        scene
    }

    /// A namespace that goes when the case ends.
    pub(crate) fn namespace(&self, name: &'static str) -> Result<Namespace<'_>> {
        let _ = self.cluster.kubectl(&["create", "namespace", name])?;
        let namespace = Namespace { stage: self, name };
        // Pods are refused until a controller has made this.
        let _ = until("the namespace's service account", PATIENCE, || {
            Ok(namespace.kubectl(&["get", "serviceaccount/default"]).ok())
        })?;
        Ok(namespace)
    }

    /// Runs the agent's command line on a node.
    pub(crate) fn lb(&self, node: usize, words: &[&str]) -> Result<String> {
        let lb = &self.cluster.options().lb;
        let output = self.cluster.node(node)?.place.command(lb)?.args(words).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "lb {}: {}", words.join(" "), said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Fetches a URL from somewhere; returns the status and the body.
    pub(crate) fn curl(&self, place: &Place, url: &str) -> Result<(u16, String)> {
        let output = place
            .command("curl")?
            .args(["--silent", "--show-error", "--globoff", "--max-time", "20"])
            .args(["--write-out", "\n%{http_code}", url])
            .output()
            .context("starting curl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "curl {url}: {}", said.trim_end());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl prints a status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    /// A port of a node.
    pub(crate) fn node_port(&self, node: usize, family: Family, port: u16) -> Result<SocketAddr> {
        let node = self.cluster.node(node)?;
        let ip = match family {
            Family::V4 => node.v4,
            Family::V6 => node.v6,
        };
        Ok(SocketAddr::new(ip, port))
    }
}

/// A worker in a place.
pub(crate) fn worker(place: &Place, name: &str) -> Result<Worker> {
    Worker::start(Path::new(env!("CARGO_BIN_EXE_lb-lab")), place, name)
}

/// A namespace of the cluster, with its objects and pods.
pub(crate) struct Namespace<'a> {
    stage: &'a Stage,
    pub(crate) name: &'static str,
}

impl Namespace<'_> {
    /// Creates or changes objects; those that name no namespace are in this one.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        let words = ["apply", "-n", self.name, "-f", "-"];
        self.stage.cluster.kubectl_with(&words, yaml).map(drop)
    }

    /// kubectl in this namespace.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.stage.cluster.kubectl(&[&["-n", self.name], words].concat())
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch(&self, object: &str, patch: &str) -> Result<()> {
        self.kubectl(&["patch", object, "--type=merge", "-p", patch]).map(drop)
    }

    /// Waits until a Deployment is as wanted.
    pub(crate) fn rolled_out(&self, deployment: &str) -> Result<()> {
        until(&format!("the deployment {deployment}"), PATIENCE, || {
            let words = ["rollout", "status", deployment, "--timeout=5s"];
            // kubectl fails when its own time is up.
            Ok(self.kubectl(&words).ok())
        })
        .map(drop)
    }

    /// Names of the pods with this label that are ready and not about to go.
    pub(crate) fn ready_pods(&self, label: &str) -> Result<Vec<String>> {
        let pods = self.json(&["get", "pods", "-l", label])?;
        let mut names = Vec::new();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let mut ready = conditions.filter(|one| one["type"] == "Ready");
            if ready.any(|one| one["status"] == "True")
                && pod["metadata"]["deletionTimestamp"].is_null()
            {
                names.push(pod["metadata"]["name"].as_str().context("a pod's name")?.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// kubectl's answer as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Result<serde_json::Value> {
        self.stage.cluster.json(&[&["-n", self.name], words].concat())
    }

    /// A worker inside of a pod, in its network and its cgroup.
    pub(crate) fn in_pod(&self, pod: &str) -> Result<Worker> {
        worker(&self.stage.cluster.pod(self.name, pod)?, pod)
    }

    /// Addresses of a pod, IPv4 first.
    pub(crate) fn pod_ips(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let object = self.json(&["get", "pod", pod])?;
        ips(&object["status"]["podIPs"], |one| &one["ip"])
    }

    /// The addresses of a Service, IPv4 first.
    pub(crate) fn cluster_ips(&self, service: &str) -> Result<Vec<IpAddr>> {
        let object = self.json(&["get", "service", service])?;
        ips(&object["spec"]["clusterIPs"], |one| one)
    }
}

fn ips(
    list: &serde_json::Value,
    of: impl Fn(&serde_json::Value) -> &serde_json::Value,
) -> Result<Vec<IpAddr>> {
    let list = list.as_array().context("no addresses yet")?;
    let mut ips = list
        .iter()
        .map(|one| Ok(of(one).as_str().context("an address is text")?.parse()?))
        .collect::<Result<Vec<IpAddr>>>()?;
    ips.sort();
    Ok(ips)
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // What is left of it goes with the cluster.
        let words = ["delete", "namespace", self.name, "--wait=false"];
        drop(self.stage.cluster.kubectl(&words));
    }
}

/// Waits until a request to `to` ends in a way that `accept` accepts.
pub(crate) fn until_outcome(
    what: &str,
    from: &Worker,
    to: SocketAddr,
    accept: impl Fn(&Outcome) -> bool,
) -> Result<()> {
    let mut last = None;
    let found = until(what, SOON, || {
        let outcome = from.probe(Proto::Tcp, to)?;
        let accepted = accept(&outcome);
        last = Some(outcome);
        Ok(accepted.then_some(()))
    });
    found.with_context(|| match last {
        Some(last) => format!("{} asks {to}: {last}", from.name()),
        None => format!("{} asks {to}", from.name()),
    })
}

/// Waits until `to` answers.
pub(crate) fn until_answered(from: &Worker, to: SocketAddr) -> Result<()> {
    until_outcome("an answer", from, to, |outcome| outcome.by().is_some())
}

/// Waits until `to` refuses at once, which is more than not to answer.
pub(crate) fn until_refused(from: &Worker, to: SocketAddr) -> Result<()> {
    until_outcome("a refusal", from, to, |outcome| *outcome == Outcome::Refused)
}

/// Waits until nobody serves at `to`.
pub(crate) fn until_silent(from: &Worker, to: SocketAddr) -> Result<()> {
    until_outcome("no answer any more", from, to, |outcome| outcome.by().is_none())
}

/// Waits until exactly these pods answer at `to`, each of them, and nothing fails.
pub(crate) fn until_served_by(from: &Worker, to: SocketAddr, pods: &[String]) -> Result<()> {
    let count = u32::try_from(pods.len())? * 12;
    let mut last = None;
    let found = until(&format!("answers of {} pods", pods.len()), SOON, || {
        let share = from.many(Proto::Tcp, to, count)?;
        let served = share.failures.is_empty() && share.by.keys().eq(pods);
        last = Some(share);
        Ok(served.then_some(()))
    });
    found.with_context(|| format!("{} asks {to}, wants {pods:?}, last {last:?}", from.name()))
}

/// Asks `to` often: each of the pods has a fair share, and no request fails.
pub(crate) fn check_shares(from: &Worker, to: SocketAddr, pods: &[String]) -> Result<()> {
    const EACH: u32 = 40;
    let share = from.many(Proto::Tcp, to, EACH * u32::try_from(pods.len())?)?;
    let who = format!("{} asks {to}: {share:?}", from.name());
    if !share.failures.is_empty() || !share.by.keys().eq(pods) {
        bail!("{who}, wants {pods:?}");
    }
    // Five standard deviations from the mean: once in a million runs.
    ensure!(share.by.values().all(|count| (10..=75).contains(count)), "{who}: no fair shares");
    Ok(())
}
