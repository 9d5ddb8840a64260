//! What a cloud's load balancer, a kubelet and Prometheus ask the agent.

use anyhow::{Context, Result, ensure};
use lb_tests::lab::{FAMILIES, Family, until};

use crate::stage::{SOON, Stage};

/// The metric that the scalability group of Kubernetes looks at.
const LATENCY: &str = "kubeproxy_network_programming_duration_seconds";

/// HZ-7, HZ-8: only what says that a node is about to go takes it out of load balancers.
pub(crate) fn node_object(stage: &Stage) -> Result<()> {
    const TAINT: &str = "ToBeDeletedByClusterAutoscaler";
    let kubectl = |words: &[&str]| stage.cluster.kubectl(words).map(drop);
    status(stage, 1, "healthz", 200)?;
    kubectl(&["cordon", "node2"])?;
    kubectl(&["taint", "node", "node2", &format!("{TAINT}=now:NoSchedule")])?;
    let marked = status(stage, 1, "healthz", 503);
    let lives = status(stage, 1, "livez", 200);
    let other = status(stage, 0, "healthz", 200);
    kubectl(&["taint", "node", "node2", &format!("{TAINT}-")])?;
    // Still cordoned.
    let unmarked = status(stage, 1, "healthz", 200);
    kubectl(&["uncordon", "node2"])?;
    marked.and(lives).and(other).and(unmarked)
}

/// Waits until a node answers so, in both families.
fn status(stage: &Stage, node: usize, path: &str, expected: u16) -> Result<()> {
    for family in FAMILIES {
        let url = format!("http://{}/{path}", stage.node_port(node, family, 10_256)?);
        let mut last = String::new();
        until(&format!("{expected} from {url}"), SOON, || {
            let (status, body) = stage.curl(stage.cluster.client(), &url)?;
            last = format!("{status} {body}");
            Ok((status == expected).then_some(()))
        })
        .with_context(|| format!("last answer: {last}"))?;
    }
    Ok(())
}

/// HZ-1, HZ-2, HZ-11, HZ-12, and §1.21: addresses, bodies, metrics.
pub(crate) fn endpoints(stage: &Stage) -> Result<()> {
    for (path, eligible) in [("healthz", true), ("livez", false)] {
        let url = format!("http://{}/{path}", stage.node_port(0, Family::V4, 10_256)?);
        let (_, body) = stage.curl(stage.cluster.client(), &url)?;
        let says: serde_json::Value =
            serde_json::from_str(&body).with_context(|| format!("{path} says {body:?}"))?;
        let object = says.as_object().context("an object")?;
        for key in ["lastUpdated", "currentTime", "healthy", "status"] {
            ensure!(object.contains_key(key), "{path} has no {key}: {body}");
        }
        ensure!(object.contains_key("nodeEligible") == eligible, "{path} says {body}");
        for family in ["IPv4", "IPv6"] {
            let part = &says["status"][family];
            ensure!(part["healthy"] == true, "{path} says of {family}: {body}");
        }
    }
    let place = &stage.cluster.node(0)?.place;
    let local = |path: &str| stage.curl(place, &format!("http://127.0.0.1:10249/{path}"));
    ensure!(local("healthz")?.0 == 200, "the metrics port is not healthy");
    let (status, mode) = local("proxyMode")?;
    ensure!(status == 200 && !mode.trim().is_empty(), "proxyMode: {status} {mode:?}");
    ensure!(local("configz")?.0 == 200, "no configz");
    ensure!(local("debug/pprof/")?.0 == 404, "profiling is on without being asked for");
    // The cases before this one have changed endpoints.
    until("an observation of the network programming latency", SOON, || {
        let (status, metrics) = local("metrics")?;
        ensure!(status == 200, "metrics: {status}");
        let healthz = sum(&metrics, "kubeproxy_proxy_healthz_total");
        ensure!(healthz > 0.0, "no request to /healthz is counted");
        let last = sum(&metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds");
        ensure!(last > 0.0, "no successful sync is known");
        Ok((sum(&metrics, &format!("{LATENCY}_count")) > 0.0).then_some(()))
    })?;
    let outside = stage.node_port(0, Family::V4, 10_249)?;
    let asked = stage.curl(stage.cluster.client(), &format!("http://{outside}/metrics"));
    ensure!(asked.is_err(), "metrics are served outside of the node: {asked:?}");
    Ok(())
}

/// The sum of a metric over its labels.
fn sum(metrics: &str, name: &str) -> f64 {
    metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
