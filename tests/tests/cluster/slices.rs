//! Endpoints that no controller finds: slices written by hand, and mirrored Endpoints.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::{
    manifests,
    stage::{Namespace, Stage, until_refused, until_served_by},
    vote::caller,
};

/// A Service without selector.
const PLAIN: &str = "
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {ports: [{name: http, port: 80}]}
---";

/// Pods, a client pod, and the Service `plain`; returns the pods' IPv4 addresses by their names.
fn prepare(space: &Namespace<'_>) -> Result<Vec<(String, String)>> {
    space.apply(&format!(
        "{}{}{PLAIN}",
        manifests::deployment("web", 2),
        manifests::pod("caller", "node2"),
    ))?;
    space.rolled_out("deployment/web")?;
    let mut pods = Vec::new();
    for pod in space.ready_pods("app=web")? {
        let ips = space.pod_ips(&pod)?;
        let v4 = ips.iter().find(|ip| ip.is_ipv4()).context("an IPv4 address of the pod")?;
        pods.push((pod, v4.to_string()));
    }
    Ok(pods)
}

fn slice(name: &str, ips: &[&str]) -> String {
    let endpoints: Vec<String> = ips
        .iter()
        .map(|ip| format!("{{addresses: [{ip}], conditions: {{ready: true}}}}"))
        .collect();
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: plain}}}}
addressType: IPv4
ports: [{{name: http, port: 80, protocol: TCP}}]
endpoints: [{}]
---",
        endpoints.join(", ")
    )
}

fn vip(space: &Namespace<'_>) -> Result<SocketAddr> {
    let ips = space.cluster_ips("plain")?;
    Ok(SocketAddr::new(*ips.first().context("a cluster IP")?, 80))
}

/// SVC-7, SVC-10, ES-1, ES-2, ES-10, NE-1: slices add up, whoever wrote them, and an endpoint may
/// move from one to another; a slice with the label of headless Services is none.
pub(crate) fn by_hand(stage: &Stage) -> Result<()> {
    const LABEL: &str = "service.kubernetes.io/headless";
    let space = stage.namespace("by-hand")?;
    let pods = prepare(&space)?;
    let (caller, vip) = (caller(&space)?, vip(&space)?);
    let names: Vec<String> = pods.iter().map(|(name, _)| name.clone()).collect();
    let (first, second) = (pods[0].1.as_str(), pods[1].1.as_str());
    until_refused(&caller, vip)?;
    space.apply(&slice("plain-a", &[first]))?;
    until_served_by(&caller, vip, &names[..1])?;
    space.apply(&slice("plain-b", &[second]))?;
    until_served_by(&caller, vip, &names)?;
    // In both at once, then in the other only.
    space.apply(&slice("plain-b", &[first, second]))?;
    let _ = space.kubectl(&["delete", "endpointslice/plain-a"])?;
    until_served_by(&caller, vip, &names)?;
    let _ = space.kubectl(&["label", "endpointslice/plain-b", &format!("{LABEL}=")])?;
    until_refused(&caller, vip)?;
    let _ = space.kubectl(&["label", "endpointslice/plain-b", &format!("{LABEL}-")])?;
    until_served_by(&caller, vip, &names)
}

/// ES-16, SVC-18: an Endpoints object serves by the slice that the controller makes of it.
pub(crate) fn mirrored(stage: &Stage) -> Result<()> {
    let space = stage.namespace("mirrored")?;
    let pods = prepare(&space)?;
    let (caller, vip) = (caller(&space)?, vip(&space)?);
    let names: Vec<String> = pods.iter().map(|(name, _)| name.clone()).collect();
    let endpoints = |ips: &str| {
        format!(
            "
apiVersion: v1
kind: Endpoints
metadata: {{name: plain}}
subsets: [{{addresses: [{ips}], ports: [{{name: http, port: 80}}]}}]
"
        )
    };
    let each: Vec<String> = pods.iter().map(|(_, ip)| format!("{{ip: {ip}}}")).collect();
    space.apply(&endpoints(&each.join(", ")))?;
    until_served_by(&caller, vip, &names)?;
    space.apply(&endpoints(&each[1]))?;
    until_served_by(&caller, vip, &names[1..])
}
