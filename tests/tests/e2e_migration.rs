//! From kube-proxy to lb and back, under traffic: real rules in the nodes, real connections.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use lb_tests::{
    cluster::{Directory, Endpoint, Service},
    kube_proxy,
    lab::{Agent, FAMILIES, Family, Lab, Node, PATIENCE, Setup, binary, missing, until},
    worker::{MonitorKind, MonitorReport, Proto, Running, UdpStyle, Worker},
};

const EVERY: Duration = Duration::from_millis(10);

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Proxy {
    Iptables(&'static str),
    Nftables,
}

fn skip() -> bool {
    let programs = ["iptables-nft-restore", "iptables-legacy-restore", "nft"];
    let lacking =
        programs.iter().find(|program| Command::new(program).arg("--version").output().is_err());
    let reason = missing()
        .or_else(|| {
            lacking.map(|program| format!("no {program}: apt-get install iptables nftables"))
        })
        .or_else(|| {
            let lb = binary();
            (!lb.exists()).then(|| format!("no {}: run `cargo xtask build`", lb.display()))
        });
    if let Some(reason) = &reason {
        println!("SKIPPED: {reason}");
    }
    reason.is_some()
}

fn service() -> Service {
    Service::new("vote", 10).port("http", Proto::Tcp, 80, 8080, Some(30000)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30000),
    )
}

/// What the kubelet and a CNI have on a node anyway.
const OTHERS: &str = "*filter
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
COMMIT
";

/// Does on a node what kube-proxy does there.
fn write_rules(proxy: Proxy, node: &Node, endpoints: &[Endpoint]) {
    for family in FAMILIES {
        let (program, words, rules) = match (proxy, family) {
            (Proxy::Nftables, _) => (
                "nft".to_owned(),
                ["-f", "-"].as_slice(),
                kube_proxy::nftables(family, &service(), endpoints),
            ),
            (Proxy::Iptables(backend), _) => (
                format!(
                    "ip{}tables-{backend}-restore",
                    if family == Family::V4 { "" } else { "6" }
                ),
                ["--noflush"].as_slice(),
                kube_proxy::iptables(family, &service(), endpoints),
            ),
        };
        restore(node, &program, words, &rules);
    }
}

fn restore(node: &Node, program: &str, words: &[&str], rules: &str) {
    let mut command = node.place.command(program).unwrap();
    let mut child = command.args(words).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{program}");
}

struct Flow<'a> {
    what: String,
    client: &'a Worker,
    running: Running,
    kind: MonitorKind,
}

/// A stream and a ping of each client, in both families, that have all been answered.
fn flows(lab: &Lab) -> Vec<Flow<'_>> {
    let node = &lab.nodes[0];
    let mut flows = Vec::new();
    for family in FAMILIES {
        let node_port = node.addresses.at(family, 30000);
        let cluster_ip = service().addresses.at(family, 80);
        for (client, at) in [
            (&lab.client.worker, node_port),
            (&node.pods[0].worker, cluster_ip),
            (&node.host, cluster_ip),
        ] {
            for kind in
                [MonitorKind::Stream, MonitorKind::Stream, MonitorKind::Ping(UdpStyle::Connected)]
            {
                let what = format!("{} to {at} {kind:?}", client.name());
                let running = client.monitor(kind, at, EVERY).unwrap();
                flows.push(Flow { what, client, running, kind });
            }
        }
    }
    for flow in &flows {
        let _seen = advance(flow, 3);
    }
    flows
}

/// Waits for so many more answers.
fn advance(flow: &Flow<'_>, more: u64) -> MonitorReport {
    let before = flow.client.peek(flow.running).unwrap().answered;
    until(&format!("answers of {}", flow.what), PATIENCE, || {
        let seen = flow.client.peek(flow.running)?;
        Ok((seen.answered >= before + more || !seen.broken.is_empty()).then_some(seen))
    })
    .unwrap()
}

/// All go on, the streams on their backend.
fn all_live(flows: &[Flow<'_>], when: &str) {
    for flow in flows {
        right(flow, &advance(flow, 5), when);
    }
}

/// Ends all; none has lost a single request.
fn none_lost(flows: Vec<Flow<'_>>, when: &str) {
    for flow in flows {
        let seen = flow.client.end(flow.running).unwrap();
        right(&flow, &seen, when);
        assert_eq!(seen.lost, 0, "{when}: {}: {seen:?}", flow.what);
    }
}

fn right(flow: &Flow<'_>, seen: &MonitorReport, when: &str) {
    let Flow { what, kind, .. } = flow;
    assert!(seen.broken.is_empty() && seen.refused == 0, "{when}: {what}: {seen:?}");
    if *kind == MonitorKind::Stream {
        assert_eq!(seen.by.len(), 1, "{when}: {what}: {seen:?}");
    }
}

/// New connections of every client are answered.
fn new_ones_work(lab: &Lab, when: &str) {
    let node = &lab.nodes[0];
    for family in FAMILIES {
        let cluster_ip = service().addresses.at(family, 80);
        let node_port = node.addresses.at(family, 30000);
        for (client, at) in [
            (&lab.client.worker, node_port),
            (&node.pods[0].worker, cluster_ip),
            (&node.pods[0].worker, node_port),
            (&node.host, cluster_ip),
            (&node.host, node_port),
        ] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let share = client.many(proto, at, 12).unwrap();
                let what = format!("{when}: {} to {at} {proto}: {share:?}", client.name());
                assert_eq!(share.by.values().sum::<u32>(), 12, "{what}");
            }
        }
    }
}

fn migrate(proxy: Proxy) {
    let lab = Lab::start(Setup { pods: vec![2, 1], ..Setup::default() }).unwrap();
    lab.serve(8080).unwrap();
    let endpoints = [Endpoint::pod(&lab.nodes[0].pods[1]), Endpoint::pod(&lab.nodes[1].pods[0])];

    // kube-proxy alone.
    for node in &lab.nodes {
        if let Proxy::Iptables(backend) = proxy {
            restore(node, &format!("iptables-{backend}-restore"), &["--noflush"], OTHERS);
            let v6 = OTHERS.replace("192.0.2.0/24", "2001:db8::/64");
            restore(node, &format!("ip6tables-{backend}-restore"), &["--noflush"], &v6);
        }
        write_rules(proxy, node, &endpoints);
    }
    new_ones_work(&lab, "kube-proxy alone");
    let old = flows(&lab);

    // lb beside it.
    let directory = Directory::create(lab.dir().join("objects")).unwrap();
    directory.put_endpoints(&service(), &endpoints).unwrap();
    directory.put_service(&service()).unwrap();
    let mut agents: Vec<Agent> =
        lab.nodes.iter().map(|node| Agent::start(node, directory.path(), &[]).unwrap()).collect();
    for agent in &agents {
        let status = agent.wait_status("programs", |status| status["healthy"] == true).unwrap();
        let beside = status["beside"].as_array().unwrap();
        assert_eq!(beside.len(), 2, "one a family: {beside:?}");
        assert!(agent.log().contains("another Service proxy is on this node"));
    }
    all_live(&old, "lb beside kube-proxy");
    new_ones_work(&lab, "lb beside kube-proxy");
    let served = agents[0].commands.json(&["backends"]).unwrap();
    let flows_of = |row: &serde_json::Value| row["flows"].as_u64().unwrap_or(0);
    let served: u64 = served.as_array().unwrap().iter().map(flows_of).sum();
    assert!(served >= 100, "new connections do not go by lb: {served}");

    // kube-proxy's rules gone. In nftables mode, what it translated would end here: see the note.
    let old = if proxy == Proxy::Nftables {
        none_lost(old, "lb beside kube-proxy");
        None
    } else {
        Some(old)
    };
    let lb_only = flows(&lab);
    for agent in &agents {
        let output = agent.commands.lb(&["cleanup", "--kube-proxy"]).unwrap().output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let ends = said.contains("end with its rules");
        assert_eq!(ends, proxy == Proxy::Nftables, "{said}");
    }
    all_live(&lb_only, "lb alone");
    if let Some(old) = old {
        all_live(&old, "lb alone, connections from before");
        none_lost(old, "lb alone, connections from before");
    }
    new_ones_work(&lab, "lb alone");

    // And back.
    for node in &lab.nodes {
        write_rules(proxy, node, &endpoints);
    }
    all_live(&lb_only, "kube-proxy beside lb");
    new_ones_work(&lab, "kube-proxy beside lb");
    none_lost(lb_only, "kube-proxy beside lb");
    let by_lb = flows(&lab);
    for agent in &mut agents {
        agent.stop().unwrap();
        let output = agent.commands.lb(&["cleanup"]).unwrap().output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    new_ones_work(&lab, "kube-proxy alone again");
    for flow in by_lb {
        let seen = advance(&flow, 1);
        println!("{proxy:?}, lb gone: {}: {:?} {:?}", flow.what, seen.broken, seen.by);
    }
}

#[test]
fn from_kube_proxy_in_iptables_mode_and_back() {
    if !skip() {
        migrate(Proxy::Iptables("nft"));
        migrate(Proxy::Iptables("legacy"));
    }
}

#[test]
fn from_kube_proxy_in_nftables_mode_and_back() {
    if !skip() {
        migrate(Proxy::Nftables);
    }
}
