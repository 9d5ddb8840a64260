//! The vote lab: one Service of several pods, asked from everywhere a client can be.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    lab::{FAMILIES, Family, Place, until},
    worker::Worker,
};

use crate::{
    manifests,
    stage::{
        Namespace, PATIENCE, SOON, Stage, check_shares, until_answered, until_refused,
        until_served_by,
    },
};

const NODE_PORT: u16 = 30_000;

/// SVC-1, SVC-2, ES-2, NE-1, NE-3, BAL-1: as the README's lab, on a cluster.
pub(crate) fn whole(stage: &Stage) -> Result<()> {
    let space = stage.namespace("vote")?;
    let selector = "{app: vote}";
    space.apply(&format!(
        "{}{}{}",
        manifests::deployment("vote", 5),
        manifests::service("vote", selector, NODE_PORT),
        manifests::pod("caller", "node1"),
    ))?;
    space.rolled_out("deployment/vote")?;
    let caller = caller(&space)?;
    let frontends = frontends(stage, &space, &caller)?;
    let served = |count: usize| -> Result<Vec<String>> {
        let pods = until(&format!("{count} ready pods"), PATIENCE, || {
            let pods = space.ready_pods("app=vote")?;
            Ok((pods.len() == count).then_some(pods))
        })?;
        frontends.iter().try_for_each(|(from, to)| until_served_by(from, *to, &pods))?;
        Ok(pods)
    };
    let pods = served(5)?;
    for (from, to) in &frontends {
        check_shares(from, *to, &pods)?;
    }
    named(stage, &space, &caller)?;
    for replicas in [2, 8] {
        let _ = space.kubectl(&["scale", "deployment/vote", &format!("--replicas={replicas}")])?;
        let _ = served(replicas)?;
    }
    space.patch("service/vote", r#"{"spec":{"selector":{"app":"vot"}}}"#)?;
    for (from, to) in &frontends {
        until_refused(from, *to)?;
    }
    space.patch("service/vote", r#"{"spec":{"selector":{"app":"vote"}}}"#)?;
    let _ = served(8)?;
    Ok(())
}

/// A worker in the pod `caller`, once that runs.
pub(crate) fn caller(space: &Namespace<'_>) -> Result<Worker> {
    let _ = space.kubectl(&["wait", "--for=condition=Ready", "pod/caller", "--timeout=180s"])?;
    space.in_pod("caller")
}

/// Every client with every address at which it finds the Service.
fn frontends<'a>(
    stage: &'a Stage,
    space: &Namespace<'_>,
    caller: &'a Worker,
) -> Result<Vec<(&'a Worker, SocketAddr)>> {
    let mut frontends = Vec::new();
    for family in FAMILIES {
        for node in 0..stage.cluster.nodes().len() {
            frontends.push((&stage.client, stage.node_port(node, family, NODE_PORT)?));
        }
        // Of the other node: see "One client, two ways to one pod" in docs/packet-path.md.
        frontends.push((caller, stage.node_port(1, family, NODE_PORT)?));
        frontends.push((&stage.hosts[0], stage.node_port(0, family, NODE_PORT)?));
    }
    for ip in space.cluster_ips("vote")? {
        frontends.push((caller, SocketAddr::new(ip, 80)));
        frontends.extend(stage.hosts.iter().map(|host| (host, SocketAddr::new(ip, 80))));
    }
    Ok(frontends)
}

/// The name of the Service is found, by the DNS server that a pod is told of, from the pod and from
/// a process of the node, and what is found serves.
fn named(stage: &Stage, space: &Namespace<'_>, caller: &Worker) -> Result<()> {
    let server = name_server(&stage.cluster.pod(space.name, "caller")?)?;
    let name = format!("vote.{}.svc.cluster.local", space.name);
    for client in [caller, &stage.hosts[0], &stage.hosts[1]] {
        for family in FAMILIES {
            let found = until(&format!("{} to find {name}", client.name()), SOON, || {
                // An answer that was lost is asked for again, as resolvers do.
                Ok(client.resolve(server, &name, family).ok().filter(|found| !found.is_empty()))
            })?;
            let known = space.cluster_ips("vote")?;
            let known: Vec<_> =
                known.into_iter().filter(|ip| ip.is_ipv4() == (family == Family::V4)).collect();
            ensure!(found == known, "{name} is {found:?} by DNS and {known:?} by the API");
            until_answered(client, SocketAddr::new(found[0], 80))?;
        }
    }
    Ok(())
}

/// The server in a pod's resolv.conf, which the kubelet has written.
fn name_server(pod: &Place) -> Result<SocketAddr> {
    // The containers' groups are below the pod's, in which our own worker is.
    let group = pod.cgroup();
    let processes = fs::read_dir(group)?.flatten().map(|entry| entry.path().join("cgroup.procs"));
    let process = processes
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| text.lines().next().map(str::to_owned))
        .with_context(|| format!("no process of a container in {}", group.display()))?;
    let path = format!("/proc/{process}/root/etc/resolv.conf");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let server = text.lines().find_map(|line| line.strip_prefix("nameserver "));
    let server = server.with_context(|| format!("no name server in {text:?}"))?.trim().parse()?;
    Ok(SocketAddr::new(server, 53))
}

/// Nothing but the agent serves Services: no process of kube-proxy, and no rule for a Service.
pub(crate) fn no_other_proxy(stage: &Stage) -> Result<()> {
    let own = format!("/lbk-{}/", stage.cluster.name());
    for process in fs::read_dir("/proc")?.flatten() {
        let text = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
        if text("cgroup").contains(&own) {
            let name = text("comm");
            ensure!(!name.starts_with("kube-proxy"), "{} is kube-proxy", process.path().display());
        }
    }
    let mut asked = 0;
    for node in stage.cluster.nodes() {
        for words in [&["nft", "list", "ruleset"][..], &["iptables-save"], &["ip6tables-save"]] {
            let command = |program: &str| -> Result<Command> {
                node.place.command(program).with_context(|| format!("on {}", node.name))
            };
            let Ok(output) = command(words[0])?.args(&words[1..]).output() else { continue };
            asked += 1;
            let rules = String::from_utf8_lossy(&output.stdout).into_owned();
            // kube-proxy's chains, its nftables table, and any rule with an address of a Service.
            for sign in ["KUBE-SVC", "KUBE-SERVICES", "table ip kube-proxy", "10.96.", "fd96:"] {
                ensure!(!rules.contains(sign), "{}: {sign} in\n{rules}", node.name);
            }
        }
    }
    ensure!(asked > 0, "neither nft nor iptables-save is here to look: install nftables");
    Ok(())
}
