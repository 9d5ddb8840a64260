//! The agent of a node, from outside: its process, its metrics, its status, its restart.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    kubernetes::{Cluster, Node},
    lab::until,
};
use lb_userspace::status::Status;
use serde::Serialize;

const PATIENCE: Duration = Duration::from_secs(120);
const LATENCY: &str = "kubeproxy_network_programming_duration_seconds";

/// A process of the agent.
pub(super) struct Agent {
    process: PathBuf,
    pid: u32,
}

impl Agent {
    /// The one that runs in a pod of this node now.
    pub(super) fn of(node: &Node) -> Result<Self> {
        find(&node.cgroup.join("kubepods")).with_context(|| format!("no agent on {}", node.name))
    }

    /// The files that it sees.
    pub(super) fn root(&self) -> PathBuf {
        self.process.join("root")
    }

    /// Processor time since its start, in seconds.
    pub(super) fn cpu(&self) -> Result<f64> {
        let (user, system) = (self.stat(13)?, self.stat(14)?);
        Ok((user + system) / ticks())
    }

    /// Bytes in memory.
    pub(super) fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(self.process.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: f64 =
            line.and_then(|rest| rest.split_whitespace().next()).context("no VmRSS")?.parse()?;
        Ok(kilobytes * 1024.0)
    }

    /// Seconds since its start.
    fn age(&self) -> Result<f64> {
        let uptime = fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split(' ').next().context("no uptime")?.parse()?;
        Ok(uptime - self.stat(21)? / ticks())
    }

    /// A field of `/proc/PID/stat`, counted from 0.
    fn stat(&self, field: usize) -> Result<f64> {
        let stat = fs::read_to_string(self.process.join("stat"))?;
        // The name, which may hold anything, ends at the last bracket and is the second field.
        let (_, rest) = stat.rsplit_once(") ").context("a process has a name")?;
        Ok(rest.split(' ').nth(field - 2).context("a torn line")?.parse()?)
    }
}

/// A process called `lb` in a cgroup or below it.
fn find(cgroup: &Path) -> Option<Agent> {
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        if fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "lb") {
            return Some(Agent { process, pid });
        }
    }
    let below = fs::read_dir(cgroup).ok()?.flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).find_map(|path| find(&path))
}

/// Clock ticks a second, in which `/proc` counts.
fn ticks() -> f64 {
    // SAFETY: no pointers; the name is one that every Linux knows.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    f64::from(i32::try_from(ticks).unwrap_or(100))
}

/// The agent's histogram of network programming latency, both families together.
pub(super) struct Histogram {
    /// Upper bounds and how many observations are below.
    buckets: Vec<(f64, f64)>,
}

impl Histogram {
    /// As it is now.
    pub(super) fn read(node: &Node) -> Result<Self> {
        let url = "http://127.0.0.1:10249/metrics";
        let output = node.place.command("curl")?.args(["-sS", "--max-time", "20", url]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
        let text = String::from_utf8_lossy(&output.stdout);
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let prefix = format!("{LATENCY}_bucket{{");
        for line in text.lines().filter_map(|line| line.strip_prefix(&prefix)) {
            let (_, bound) = line.split_once("le=\"").context("a bucket without bound")?;
            let (bound, _) = bound.split_once('"').context("a torn line")?;
            let (_, count) = line.rsplit_once(' ').context("a torn line")?;
            // "+Inf" is a number to Rust too.
            let (bound, count): (f64, f64) = (bound.parse()?, count.parse()?);
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        Ok(Self { buckets })
    }

    /// What came since `before`, once that is at least this much.
    pub(super) fn until(node: &Node, before: &Self, observations: f64) -> Result<Self> {
        until("the agent's observations", PATIENCE, || {
            let mut since = Self::read(node)?;
            for (bound, count) in &mut since.buckets {
                let known = before.buckets.iter().find(|(known, _)| known.total_cmp(bound).is_eq());
                *count -= known.map_or(0.0, |(_, count)| *count);
            }
            Ok((since.count() >= observations).then_some(since))
        })
    }

    /// Number of observations.
    pub(super) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// The least bound below which this part of the observations is. Between two bounds the histogram
    /// knows nothing.
    pub(super) fn at_most(&self, part: f64) -> f64 {
        let rank = part * self.count();
        let found = self.buckets.iter().find(|(_, count)| *count >= rank);
        found.map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

/// What a restart of the agent took, in seconds.
#[derive(Serialize)]
pub(super) struct Restart {
    pub(super) synced: f64,
    pub(super) deleted_to_synced: f64,
    pub(super) cpu: f64,
}

/// Deletes the agent's pod and waits until the next one has listed and compared everything.
pub(super) fn restart(cluster: &Cluster, node: &Node, old: &Agent) -> Result<Restart> {
    let before = status(cluster, node)?.context("the agent has written no status")?.started;
    let begin = Instant::now();
    let delete = ["delete", "pod", "-n", "kube-system", "-l", "k8s-app=lb", "--wait=false"];
    let _ = cluster.kubectl(&delete)?;
    until("a synced agent", PATIENCE, || {
        let Ok(agent) = Agent::of(node) else { return Ok(None) };
        if agent.pid == old.pid {
            return Ok(None);
        }
        // The file may still be that of the agent before. Numbers of processes do not tell: both are
        // the first in their pod.
        let Some(status) = status(cluster, node)? else { return Ok(None) };
        let synced = status.started != before && status.source.synced && status.source.complete;
        if !synced {
            return Ok(None);
        }
        let deleted_to_synced = begin.elapsed().as_secs_f64();
        Ok(Some(Restart { synced: agent.age()?, deleted_to_synced, cpu: agent.cpu()? }))
    })
}

/// What the agent of a node says of itself.
fn status(cluster: &Cluster, node: &Node) -> Result<Option<Status>> {
    let lb = &cluster.options().lb;
    let output = node.place.command(lb)?.args(["status", "-o", "json"]).output()?;
    Ok(serde_json::from_slice(&output.stdout).ok())
}
