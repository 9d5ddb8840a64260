//! What becomes of a Service when its kind, its labels or itself change.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::lab::{FAMILIES, Family, until};

use crate::{
    manifests,
    stage::{Namespace, SOON, Stage, until_answered, until_served_by, until_silent},
    vote::caller,
};

const TYPES_PORT: u16 = 30_010;

/// Two pods, a client pod and a Service for them.
fn two_pods(space: &Namespace<'_>, node_port: u16) -> Result<()> {
    space.apply(&format!(
        "{}{}{}",
        manifests::deployment("web", 2),
        manifests::service("web", "{app: web}", node_port),
        manifests::pod("caller", "node1"),
    ))?;
    space.rolled_out("deployment/web")
}

/// SVC-2, SVC-4: NodePort, ClusterIP, ExternalName and back again.
pub(crate) fn types(stage: &Stage) -> Result<()> {
    let space = stage.namespace("types")?;
    two_pods(&space, TYPES_PORT)?;
    let caller = caller(&space)?;
    let outside =
        [stage.node_port(0, Family::V4, TYPES_PORT)?, stage.node_port(1, Family::V6, TYPES_PORT)?];
    let inside = |space: &Namespace<'_>| -> Result<Vec<SocketAddr>> {
        let ips = space.cluster_ips("web")?;
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, 80)).collect())
    };
    let vips = inside(&space)?;
    outside.iter().try_for_each(|to| until_answered(&stage.client, *to))?;
    vips.iter().try_for_each(|to| until_answered(&caller, *to))?;

    space.patch("service/web", r#"{"spec":{"type":"ClusterIP"}}"#)?;
    outside.iter().try_for_each(|to| until_silent(&stage.client, *to))?;
    vips.iter().try_for_each(|to| until_answered(&caller, *to))?;

    space.patch(
        "service/web",
        r#"{"spec":{"type":"ExternalName","externalName":"example.org","clusterIP":null,
            "clusterIPs":null,"ipFamilies":null,"ipFamilyPolicy":null}}"#,
    )?;
    vips.iter().try_for_each(|to| until_silent(&caller, *to))?;

    let back = format!(
        r#"{{"spec":{{"type":"NodePort","externalName":null,"ipFamilyPolicy":"RequireDualStack",
            "ports":[{{"name":"http","port":80,"targetPort":80,"nodePort":{TYPES_PORT}}}]}}}}"#
    );
    space.patch("service/web", &back)?;
    inside(&space)?.iter().try_for_each(|to| until_answered(&caller, *to))?;
    outside.iter().try_for_each(|to| until_answered(&stage.client, *to))
}

/// SVC-5: the name leads to the pods themselves, and the agent has nothing for it.
pub(crate) fn headless(stage: &Stage) -> Result<()> {
    let space = stage.namespace("headless")?;
    two_pods(&space, 0)?;
    let headless = manifests::service("bare", "{app: web}", 0)
        .replace("spec:\n", "spec:\n  clusterIP: None\n");
    space.apply(&headless)?;
    let caller = caller(&space)?;
    // What the agent has for the other Service proves that it had the time to do its work.
    for ip in space.cluster_ips("web")? {
        until_answered(&caller, SocketAddr::new(ip, 80))?;
    }
    let pods = space.ready_pods("app=web")?;
    let mut expected: Vec<IpAddr> = Vec::new();
    for pod in &pods {
        expected.extend(space.pod_ips(pod)?);
    }
    expected.sort();
    let dns = stage.cluster.json(&["get", "service/kube-dns", "-n", "kube-system"])?;
    let server = dns["spec"]["clusterIP"].as_str().unwrap_or_default().parse()?;
    let name = format!("bare.{}.svc.cluster.local", space.name);
    until("the pods by name", SOON, || {
        let mut found: Vec<IpAddr> = Vec::new();
        for family in FAMILIES {
            let asked = caller.resolve(SocketAddr::new(server, 53), &name, family);
            found.extend(asked.unwrap_or_default());
        }
        found.sort();
        Ok((found == expected).then_some(()))
    })?;
    for ip in expected {
        until_answered(&caller, SocketAddr::new(ip, 80))?;
    }
    let services = stage.lb(0, &["services"])?;
    ensure!(services.contains("headless/web"), "no headless/web in\n{services}");
    ensure!(!services.contains("headless/bare"), "headless/bare is in\n{services}");
    Ok(())
}

/// SVC-9: with the label of another proxy a Service is none of ours, without it again.
pub(crate) fn other_proxy(stage: &Stage) -> Result<()> {
    const LABEL: &str = "service.kubernetes.io/service-proxy-name";
    let space = stage.namespace("proxy-name")?;
    two_pods(&space, 0)?;
    let caller = caller(&space)?;
    let vips: Vec<SocketAddr> =
        space.cluster_ips("web")?.into_iter().map(|ip| SocketAddr::new(ip, 80)).collect();
    for _ in 0..2 {
        vips.iter().try_for_each(|to| until_answered(&caller, *to))?;
        let _ = space.kubectl(&["label", "service/web", &format!("{LABEL}=other")])?;
        vips.iter().try_for_each(|to| until_silent(&caller, *to))?;
        let _ = space.kubectl(&["label", "service/web", &format!("{LABEL}-")])?;
    }
    vips.iter().try_for_each(|to| until_answered(&caller, *to))
}

/// SVC-13: deleted and created in one breath, under the same name with other addresses.
pub(crate) fn made_anew(stage: &Stage) -> Result<()> {
    let space = stage.namespace("anew")?;
    two_pods(&space, 0)?;
    let caller = caller(&space)?;
    let pods = space.ready_pods("app=web")?;
    let mut old: Vec<IpAddr> = Vec::new();
    for round in 0..3 {
        let new = space.cluster_ips("web")?;
        for ip in &new {
            until_served_by(&caller, SocketAddr::new(*ip, 80), &pods)?;
        }
        for ip in &old {
            ensure!(!new.contains(ip), "the Service has its old address {ip}");
            until_silent(&caller, SocketAddr::new(*ip, 80))?;
        }
        old = new;
        if round < 2 {
            let _ = space.kubectl(&["delete", "service/web"])?;
            space.apply(&manifests::service("web", "{app: web}", 0))?;
        }
    }
    Ok(())
}
