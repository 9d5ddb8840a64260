//! The vote lab on a kind cluster: its commands as anybody types them, and each outcome checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::pods::Pod;
use super::screen::Screen;
use super::wait::until;
use super::{Artifacts, Cluster};

const REPLICAS: usize = 5;
const NODE_PORT: u16 = 30_000;
const REQUESTS: usize = 100;
/// Marks what the lab made, so that a `vote` of somebody else is never deleted.
const MARK: &str = "lb.example/vote-lab=true";

/// Walks through the lab.
pub(super) fn show(cluster: &Cluster, artifacts: &Artifacts, screen: &mut Screen) -> Result<()> {
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    for kind in ["deployment", "service"] {
        let words = ["get", kind, "vote", "--ignore-not-found", "-o", "name"];
        if !kubectl.run(engine, &words)?.is_empty() {
            bail!(
                "a {kind} vote exists in namespace default: `--undo` removes the lab's, `--no-lab` leaves yours alone"
            );
        }
    }
    screen.step("The vote lab");
    let archive = artifacts.images.join("vote.tar");
    for node in nodes {
        let _ =
            engine.feed_file(node, &["ctr", "-n", "k8s.io", "images", "import", "-"], &archive)?;
    }
    let replicas = format!("--replicas={REPLICAS}");
    let _ = typed(
        cluster,
        screen,
        &["create", "deployment", "vote", "--image=schoolofdevops/vote:v1", &replicas],
    )?;
    let _ = kubectl.run(engine, &["label", "deployment", "vote", MARK])?;
    let _ = typed(cluster, screen, &["rollout", "status", "deployment/vote", "--timeout=180s"])?;
    let port = format!("--node-port={NODE_PORT}");
    let _ = typed(cluster, screen, &["create", "service", "nodeport", "vote", "--tcp=80", &port])?;
    let _ = kubectl.run(engine, &["label", "service", "vote", MARK])?;
    let said = typed(cluster, screen, &["describe", "svc", "vote"])?;
    screen.check("the Service has endpoints", said.contains(":80"));
    everybody_answers(cluster, screen, REPLICAS)?;
    by_name(cluster, screen)?;

    screen.step("Scaling, and a selector that matches nothing");
    let _ = typed(cluster, screen, &["scale", "deployment", "vote", "--replicas=2"])?;
    until("the other pods to be gone", || {
        let left = kubectl.run(engine, &["get", "pods", "-l", "app=vote", "-o", "name"])?;
        Ok((left.lines().count() == 2).then_some(()))
    })?;
    everybody_answers(cluster, screen, 2)?;
    select(cluster, screen, "nobody")?;
    refused(cluster, screen)?;
    select(cluster, screen, "vote")?;
    everybody_answers(cluster, screen, 2)?;

    screen.step("Under the hood");
    for node in nodes {
        let said = engine.exec(node, &["lb", "services", "describe", "vote"])?;
        screen.command(&node.name, "lb services describe vote", &said);
        screen.check("the maps have the node port", said.contains(&NODE_PORT.to_string()));
    }
    Ok(())
}

/// Removes what the lab made.
pub(super) fn clear(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    screen.step("The vote lab goes");
    typed(cluster, screen, &["delete", "service,deployment", "-l", MARK]).map(drop)
}

fn typed(cluster: &Cluster, screen: &Screen, words: &[&str]) -> Result<String> {
    let said = cluster.kubectl.run(&cluster.engine, words)?;
    screen.command("kubectl", &words.join(" "), &said);
    Ok(said)
}

fn select(cluster: &Cluster, screen: &Screen, app: &str) -> Result<()> {
    let patch = format!("{{\"spec\":{{\"selector\":{{\"app\":\"{app}\"}}}}}}");
    typed(cluster, screen, &["patch", "service", "vote", "-p", &patch]).map(drop)
}

/// From outside by every node's port and from a pod by the cluster address: all pods answer, none fails.
fn everybody_answers(cluster: &Cluster, screen: &mut Screen, pods: usize) -> Result<()> {
    for (who, at) in clients(cluster)? {
        // Endpoints take a moment from the API server to the maps.
        until("every pod to answer", || {
            Ok((ask(cluster, &who, &at, REQUESTS)?.0.len() == pods).then_some(()))
        })?;
        let (answers, failed) = ask(cluster, &who, &at, REQUESTS)?;
        let shares: Vec<String> =
            answers.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
        screen.command(
            &who.to_string(),
            &format!("curl http://{at}/   # {REQUESTS} times"),
            &shares.join("\n"),
        );
        let what = format!("all of {pods} pods answer, and no request fails");
        screen.check(&what, answers.len() == pods && failed == 0);
    }
    Ok(())
}

/// From inside a pod, by the name that CoreDNS knows.
fn by_name(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    let url = "http://vote.default.svc.cluster.local/";
    let words = ["exec", "deploy/vote", "--", "/vote", "get", url];
    let said = until("the name of the Service to be known", || {
        let done = cluster.kubectl.attempt(&cluster.engine, &words)?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok(done.status.success().then_some(said))
    })?;
    screen.command("kubectl", &words.join(" "), &said);
    screen.check("the Service's name leads to one of the pods", said.contains("vote-"));
    Ok(())
}

fn refused(cluster: &Cluster, screen: &mut Screen) -> Result<()> {
    for (who, at) in clients(cluster)? {
        let line = format!("curl -s -o /dev/null --max-time 3 http://{at}/; echo $?");
        // 7: could not connect; a time-out would be 28.
        until("requests to be refused", || {
            Ok((who.run(cluster, &line)?.trim() == "7").then_some(()))
        })?;
        screen.command(&who.to_string(), &format!("curl http://{at}/"), "connection refused");
        screen.check("without endpoints, refused at once", true);
    }
    Ok(())
}

/// Where requests come from.
enum Client<'a> {
    /// This machine, or wherever the engine's network is.
    Outside,
    /// Another node container: outside of the node whose port it asks, where nobody else is.
    Node(&'a super::engine::Node),
    Pod(Pod<'a>),
}

impl std::fmt::Display for Client<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Outside => to.write_str("outside"),
            Self::Node(node) => to.write_str(&node.name),
            Self::Pod(pod) => to.write_str(&pod.name),
        }
    }
}

impl Client<'_> {
    /// What a shell line printed there.
    fn run(&self, cluster: &Cluster, line: &str) -> Result<String> {
        let done = match self {
            Self::Outside => {
                Command::new("sh").args(["-c", line]).output().context("starting sh")?
            }
            Self::Node(node) => cluster.engine.attempt(node, &["sh", "-c", line])?,
            Self::Pod(pod) => return Ok(pod.run(cluster, line)?.0),
        };
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// Each client with what it asks, in each family that the Service has.
fn clients(cluster: &Cluster) -> Result<Vec<(Client<'_>, String)>> {
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    let mut clients = Vec::new();
    let all =
        kubectl.run(engine, &["get", "service", "vote", "-o", "jsonpath={.spec.clusterIPs[*]}"])?;
    let vips: Vec<IpAddr> = all.split(' ').filter_map(|text| text.parse().ok()).collect();
    for node in nodes {
        let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
        let all = kubectl.run(engine, &["get", "node", &node.name, "-o", path])?;
        for address in all.split(' ').filter_map(|text| text.parse::<IpAddr>().ok()) {
            // A node port is served in the families of the Service.
            if vips.iter().any(|vip| vip.is_ipv4() == address.is_ipv4()) {
                clients
                    .push((outside(cluster, node)?, format!("{}:{NODE_PORT}", bracketed(address))));
            }
        }
    }
    for vip in vips {
        if let Some(pod) = other_pod(cluster)? {
            clients.push((Client::Pod(pod), bracketed(vip)));
        }
    }
    Ok(clients)
}

/// Somebody outside this node: this machine when it reaches the container, else another node.
fn outside<'a>(cluster: &'a Cluster, node: &super::engine::Node) -> Result<Client<'a>> {
    let Cluster { engine, kubectl, nodes, .. } = cluster;
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let addresses = kubectl.run(engine, &["get", "node", &node.name, "-o", path])?;
    let first = addresses.split(' ').next().unwrap_or_default();
    let kubelet = match first.parse::<IpAddr>() {
        Ok(address) => bracketed(address),
        Err(_) => bail!("node {} has no address", node.name),
    };
    let probe = format!("curl -sk -o /dev/null --max-time 3 https://{kubelet}:10250/healthz");
    if Command::new("sh").args(["-c", &probe]).status().context("starting sh")?.success() {
        return Ok(Client::Outside);
    }
    let other = nodes.iter().find(|other| other.name != node.name);
    other.map(Client::Node).with_context(|| {
        format!("nobody outside {} can be asked: this machine does not reach it, and it is the only node", node.name)
    })
}

/// A pod of the cluster that is a client: CoreDNS, which is everywhere, or one of vote's own.
fn other_pod(cluster: &Cluster) -> Result<Option<Pod<'_>>> {
    Ok(Pod::labelled(cluster, "app=vote")?.into_iter().next())
}

/// How often each pod answered, and how many requests failed.
fn ask(
    cluster: &Cluster,
    who: &Client<'_>,
    at: &str,
    times: usize,
) -> Result<(BTreeMap<String, usize>, usize)> {
    let line = format!(
        "i=0; while [ $i -lt {times} ]; do curl -sf --max-time 5 http://{at}/ || echo ' failed'; i=$((i+1)); done"
    );
    let mut answers = BTreeMap::new();
    let mut failed = 0;
    for answer in who.run(cluster, &line)?.lines() {
        match answer.split_whitespace().next() {
            Some(pod) if pod != "failed" => *answers.entry(pod.to_owned()).or_insert(0) += 1,
            _ => failed += 1,
        }
    }
    Ok((answers, failed))
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
