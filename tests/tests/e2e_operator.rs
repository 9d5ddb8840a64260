//! What an operator of kube-proxy finds on a node: health, metrics, the configuration file.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Agent, FAMILIES, Family, PATIENCE, Place, Setup, until},
    worker::{MonitorKind, Proto},
};
use serde_json::Value;

fn start(flags: &[&str]) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![1], ..Setup::default() }, flags)?;
    cluster.lab.serve(8080).unwrap();
    let web = Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080));
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web, &endpoints).unwrap();
    Some(cluster)
}

/// What is at a URL, seen from a place: status and body, or `None` when nobody answers.
fn get(place: &Place, url: &str) -> Option<(u16, String)> {
    let mut curl = place.command("curl").unwrap();
    let curl = curl.args(["-s", "-m", "10", "-w", "\n%{http_code}", url]).output().unwrap();
    let text = String::from_utf8(curl.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n')?;
    curl.status.success().then(|| (status.parse().unwrap(), body.to_owned()))
}

/// Waits until a path has this status.
fn wait_status(place: &Place, url: &str, status: u16) -> String {
    until(&format!("{url} to be {status}"), PATIENCE, || {
        let got = get(place, url);
        Ok(got.filter(|(got, _)| *got == status).map(|(_, body)| body))
    })
    .unwrap()
}

/// HZ-1, HZ-2, HZ-12, and the row on `/proxyMode` of §1.23.
#[test]
fn load_balancers_see_the_health_of_the_node_and_the_node_its_metrics() {
    let Some(cluster) = start(&[]) else { return };
    let (outside, inside) = (&cluster.lab.client.place, &cluster.lab.nodes[0].place);
    let addresses = &cluster.lab.nodes[0].addresses;
    for family in FAMILIES {
        let url = format!("http://{}/healthz", addresses.at(family, 10256));
        let (status, body) = get(outside, &url).unwrap();
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        for family in ["IPv4", "IPv6"] {
            assert_eq!(body["status"][family]["healthy"], true, "{body}");
        }
        let metrics = format!("http://{}/metrics", addresses.at(family, 10249));
        assert_eq!(get(outside, &metrics), None, "the metrics are for the node only");
    }
    let on_node = |path: &str| get(inside, &format!("http://127.0.0.1:10249{path}")).unwrap();
    assert_eq!(on_node("/proxyMode"), (200, "ebpf".into()));
    let (_, metrics) = on_node("/metrics");
    for family in ["IPv4", "IPv6"] {
        let line =
            format!("kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"{family}\"}} ");
        assert!(metrics.lines().any(|one| one.starts_with(&line)), "no {line} in {metrics}");
    }
    let (_, configuration) = on_node("/configz");
    let configuration: Value = serde_json::from_str(&configuration).unwrap();
    assert_eq!(configuration["lb"]["nodeName"], cluster.agents[0].node());
}

/// SYNC-10, and oomScoreAdj, nodePortAddresses and iptables.localhostNodePorts of §1.22.
#[test]
fn a_changed_configuration_ends_the_agent_and_no_connection() {
    let Some(mut cluster) = start(&[]) else { return };
    let file = cluster.lab.dir().join("config.conf");
    let write = |fields: &str| {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        fs::write(&file, format!("{head}{fields}\n")).unwrap();
    };
    write("oomScoreAdj: 123");
    let flags = ["--config", file.to_str().unwrap()];
    cluster.agents[0].set_flags(&flags);
    cluster.agents[0].restart().unwrap();
    assert_eq!(oom_score(&cluster.agents[0]), 123);
    assert!(served_at(&cluster.agents[0], "127.0.0.1"));

    let client = &cluster.lab.client.worker;
    let node_port = cluster.lab.nodes[0].addresses.at(Family::V4, 30080);
    let every = Duration::from_millis(2);
    let stream = client.monitor(MonitorKind::Stream, node_port, every).unwrap();
    write("oomScoreAdj: far");
    until("the agent to complain", PATIENCE, || {
        let told = cluster.agents[0].log().contains("the old one stays");
        Ok(told.then_some(()))
    })
    .unwrap();
    write("oomScoreAdj: 124\niptables: {localhostNodePorts: false}");
    let status = cluster.agents[0].wait_end().unwrap();
    assert!(status.success(), "{status}");
    assert!(client.probe(Proto::Tcp, node_port).unwrap().by().is_some(), "without an agent");
    cluster.agents[0].restart().unwrap();
    assert_eq!(oom_score(&cluster.agents[0]), 124);
    assert!(!served_at(&cluster.agents[0], "127.0.0.1"));
    let seen = client.end(stream).unwrap();
    assert!(seen.answered > 0 && seen.lost == 0 && seen.broken.is_empty(), "{seen:?}");
}

fn oom_score(agent: &Agent) -> i32 {
    let file = format!("/proc/{}/oom_score_adj", agent.pid().unwrap());
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

/// Whether NodePorts are served at an address, as the agent says.
fn served_at(agent: &Agent, ip: &str) -> bool {
    let status = agent.status().unwrap();
    let addresses = status["node"]["nodeport_addresses"].as_array().unwrap();
    addresses.iter().any(|address| address == ip)
}

/// An agent whose API server is nowhere; it ends when this is dropped.
struct Cut(Child);

impl Cut {
    fn start(agent: &Agent, pin_dir: &Path, kubeconfig: &Path) -> Self {
        let mut command = agent.commands.lb(&["run", "--kubeconfig"]).unwrap();
        let _ = command.arg(kubeconfig).args(["--node-name", agent.node(), "--socket-lb", "off"]);
        let _ = command.env("LB_PIN_DIR", pin_dir).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// HZ-5, HZ-10, SYNC-13: without an API server, an agent that finds its maps programmed is healthy,
/// and one that has nothing to serve with keeps load balancers away without asking for a restart.
#[test]
fn without_an_api_server_health_depends_on_what_is_programmed() {
    let Some(mut cluster) = start(&[]) else { return };
    let kubeconfig = cluster.lab.dir().join("nowhere.conf");
    fs::write(
        &kubeconfig,
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         clusters: [{name: a, cluster: {server: \"http://192.0.2.1:6443\"}}]\n\
         contexts: [{name: a, context: {cluster: a, user: a}}]\nusers: [{name: a, user: {}}]\n",
    )
    .unwrap();
    let outside = cluster.lab.client.place.clone();
    let addresses = cluster.lab.nodes[0].addresses;
    let at = addresses.at(Family::V4, 10256);
    let (healthz, livez) = (format!("http://{at}/healthz"), format!("http://{at}/livez"));
    let pins = cluster.agents[0].commands.pin_dir().to_owned();
    cluster.agents[0].stop().unwrap();

    let adopting = Cut::start(&cluster.agents[0], &pins, &kubeconfig);
    let _ = wait_status(&outside, &healthz, 200);
    let node_port = addresses.at(Family::V4, 30080);
    let client = &cluster.lab.client.worker;
    assert!(client.probe(Proto::Tcp, node_port).unwrap().by().is_some());
    drop(adopting);

    let fresh = pins.with_file_name("fresh");
    let _starting = Cut::start(&cluster.agents[0], &fresh, &kubeconfig);
    let body = wait_status(&outside, &healthz, 503);
    assert!(body.contains("\"healthy\":false") && body.contains("\"nodeEligible\":true"), "{body}");
    assert_eq!(get(&outside, &livez).unwrap().0, 200);
}
