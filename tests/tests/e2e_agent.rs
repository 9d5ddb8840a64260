//! The agent's life: bad input, devices that come and go, ends and clean-up, several at once.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{fs, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Family, PATIENCE, Setup, until},
    worker::{MonitorKind, Outcome, Proto},
};
use serde_json::Value;

fn web() -> Service {
    Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30080),
    )
}

fn start(flags: &[&str]) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![2, 1], ..Setup::default() }, flags)?;
    cluster.lab.serve(8080).unwrap();
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web(), &endpoints).unwrap();
    Some(cluster)
}

fn problems(status: &Value) -> Vec<String> {
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().map(Value::to_string).collect()
}

#[test]
fn wrong_objects_are_reported_and_everything_else_goes_on() {
    let Some(cluster) = start(&[]) else { return };
    let client = &cluster.lab.client.worker;
    let node_port = cluster.lab.nodes[0].addresses.at(Family::V4, 30080);
    let every = Duration::from_millis(2);
    let stream = client.monitor(MonitorKind::Stream, node_port, every).unwrap();
    // Of two claims without a creation time the one that is programmed counts.
    let bad_address =
        web().yaml().replace("name: web", "name: zz-bad").replace("10.96.0.20", "10.96.0.x");
    let same_port =
        Service::new("zz-thief", 30).port("tcp", Proto::Tcp, 80, 8080, Some(30080)).yaml();
    let bad_endpoint = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-bad, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: 8080}]
endpoints: [{addresses: [\"10.244.1.999\"], conditions: {ready: true}}]
";
    for (what, text, mention) in [
        ("no YAML", "kind: Service\n  metadata: [", "bad.yaml"),
        ("an unknown kind", "apiVersion: v1\nkind: Gadget\nmetadata: {name: g}\n", "Gadget"),
        ("no address", bad_address.as_str(), "default/zz-bad"),
        ("a node port that is taken", same_port.as_str(), "default/zz-thief"),
        ("an endpoint without address", bad_endpoint, "10.244.1.999"),
    ] {
        println!("a file with {what}");
        cluster.directory.write("bad.yaml", text).unwrap();
        for agent in &cluster.agents {
            let told = |status: &Value| problems(status).iter().any(|one| one.contains(mention));
            let status = agent.wait_status(&format!("{what} to be reported"), told).unwrap();
            println!("  {:?}", problems(&status));
        }
        assert!(client.probe(Proto::Tcp, node_port).unwrap().by().is_some(), "{what}");
        // A good object that comes while the bad one is there is programmed.
        let other = Service::new("other", 40).port("", Proto::Tcp, 80, 8080, Some(30040));
        let endpoint = Endpoint::pod(&cluster.lab.nodes[0].pods[0]);
        cluster.put(&other, &[endpoint]).unwrap();
        let other_port = cluster.lab.nodes[0].addresses.at(Family::V4, 30040);
        assert!(client.probe(Proto::Tcp, other_port).unwrap().by().is_some(), "{what}");
        cluster.directory.delete(&other).unwrap();
        cluster.directory.remove("bad.yaml").unwrap();
        for agent in &cluster.agents {
            let gone = |status: &Value| problems(status).is_empty();
            let _ = agent.wait_status(&format!("{what} to be forgotten"), gone).unwrap();
        }
    }
    let seen = client.end(stream).unwrap();
    assert!(seen.answered > 0 && seen.lost == 0 && seen.broken.is_empty(), "{seen:?}");
}

#[test]
fn half_written_files_are_not_read() {
    let Some(cluster) = start(&[]) else { return };
    let service = Service::new("slow", 41).port("", Proto::Tcp, 80, 8080, Some(30041));
    let hidden = cluster.directory.path().join(".slow.yaml.new");
    let yaml = service.yaml();
    fs::write(&hidden, &yaml[..yaml.len() / 2]).unwrap();
    // Whatever the agents do about a later file, they have done about the hidden one.
    let other = Service::new("other", 40).port("", Proto::Tcp, 80, 8080, Some(30040));
    cluster.put(&other, &[Endpoint::pod(&cluster.lab.nodes[0].pods[0])]).unwrap();
    for agent in &cluster.agents {
        assert_eq!(problems(&agent.status().unwrap()), Vec::<String>::new());
    }
    fs::write(&hidden, &yaml).unwrap();
    fs::rename(&hidden, cluster.directory.path().join("slow.yaml")).unwrap();
    cluster.settle(&service, &[]).unwrap();
    let at = cluster.lab.nodes[0].addresses.at(Family::V4, 30041);
    until("the Service to refuse", PATIENCE, || {
        Ok((cluster.lab.client.worker.probe(Proto::Tcp, at)? == Outcome::Refused).then_some(()))
    })
    .unwrap();
}

#[test]
fn pods_come_and_go_without_a_restart() {
    let Some(mut cluster) = start(&[]) else { return };
    let at = cluster.lab.add_pod(0, None).unwrap();
    let pod = &cluster.lab.nodes[0].pods[at];
    pod.serve(8080).unwrap();
    let endpoints = [Endpoint::pod(pod)];
    cluster.put(&web(), &endpoints).unwrap();
    for family in FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            let cluster_ip = web().addresses.at(family, 80);
            let node_port = cluster.lab.nodes[0].addresses.at(family, 30080);
            // As a client, as its own backend, and as the backend of others.
            let name = pod.name();
            until(&format!("the new pod to use {cluster_ip}"), PATIENCE, || {
                Ok((pod.worker.probe(proto, cluster_ip)?.by() == Some(name)).then_some(()))
            })
            .unwrap();
            let client = &cluster.lab.client.worker;
            assert_eq!(client.probe(proto, node_port).unwrap().by(), Some(name));
            let other = &cluster.lab.nodes[0].pods[0].worker;
            assert_eq!(other.probe(proto, cluster_ip).unwrap().by(), Some(name));
        }
    }
    let (name, device) = (pod.name().to_owned(), pod.device.clone());
    cluster.lab.nodes[0].remove_pod(&name).unwrap();
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web(), &endpoints).unwrap();
    let gone = |status: &Value| !status["devices"].to_string().contains(&device);
    let _ = cluster.agents[0].wait_status("the device to be forgotten", gone).unwrap();
    let at = cluster.lab.nodes[0].addresses.at(Family::V4, 30080);
    let share = cluster.lab.client.worker.many(Proto::Tcp, at, 100).unwrap();
    assert_eq!(share.failures, []);
}

#[test]
fn clusters_with_the_same_addresses_do_not_disturb_each_other() {
    let Some(one) = start(&[]) else { return };
    let Some(two) = start(&[]) else { return };
    two.put(&web(), &[]).unwrap();
    for family in FAMILIES {
        let at = one.lab.nodes[0].addresses.at(family, 30080);
        let vip = web().addresses.at(family, 80);
        assert!(one.lab.client.worker.probe(Proto::Tcp, at).unwrap().by().is_some());
        assert_eq!(two.lab.client.worker.probe(Proto::Tcp, at).unwrap(), Outcome::Refused);
        assert!(one.lab.nodes[0].host.probe(Proto::Udp, vip).unwrap().by().is_some());
        assert_eq!(two.lab.nodes[0].host.probe(Proto::Udp, vip).unwrap(), Outcome::Refused);
    }
    drop(two);
    let at = one.lab.nodes[0].addresses.at(Family::V4, 30080);
    assert!(one.lab.client.worker.probe(Proto::Tcp, at).unwrap().by().is_some());
}

#[test]
fn sockets_of_pods_are_translated_when_all_are_asked_for() {
    let Some(cluster) = start(&["--socket-lb=all"]) else { return };
    let pod = &cluster.lab.nodes[0].pods[0];
    cluster.put(&web(), &[Endpoint::pod(&cluster.lab.nodes[1].pods[0])]).unwrap();
    for family in FAMILIES {
        for proto in [Proto::Tcp, Proto::Udp] {
            let at = web().addresses.at(family, 80);
            // The packets on the pod's own link show where the translation happened.
            let capture = pod.worker.capture("eth0").unwrap();
            let outcome = pod.worker.probe(proto, at).unwrap();
            assert_eq!(outcome.source(), Some(pod.addresses.ip(family)), "{outcome}");
            let frames = pod.worker.end_capture(capture).unwrap().frames;
            assert!(!frames.is_empty() && frames.iter().all(|frame| frame.to != at), "{frames:?}");
        }
    }
}

#[test]
fn an_agent_that_ends_leaves_the_datapath_and_cleanup_takes_it_away() {
    let Some(mut cluster) = start(&[]) else { return };
    for agent in &mut cluster.agents {
        agent.stop().unwrap();
    }
    let node = &cluster.lab.nodes[0];
    let at = node.addresses.at(Family::V4, 30080);
    let vip = web().addresses.at(Family::V4, 80);
    let client = &cluster.lab.client.worker;
    let share = client.many(Proto::Tcp, at, 50).unwrap();
    assert_eq!(share.failures, []);
    assert!(node.host.probe(Proto::Tcp, vip).unwrap().by().is_some());

    let commands = &cluster.agents[0].commands;
    let done = commands.lb(&["cleanup"]).unwrap().output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(client.probe(Proto::Tcp, at).unwrap(), Outcome::Refused);
    assert_eq!(node.host.probe(Proto::Tcp, vip).unwrap().by(), None);
    let left: Vec<_> = fs::read_dir(commands.pin_dir()).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");

    // And it can start again.
    cluster.agents[0].restart().unwrap();
    until("the Service to be back", PATIENCE, || Ok(client.probe(Proto::Tcp, at)?.by().map(drop)))
        .unwrap();
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused() {
    let Some(cluster) = start(&[]) else { return };
    let node = &cluster.lab.nodes[0];
    let second = cluster.agents[0]
        .commands
        .lb(&["run", "--node-name", "node1", "--source"])
        .unwrap()
        .arg(cluster.directory.path())
        .arg("--cgroup-root")
        .arg(node.cgroup())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("agent"), "{said}");
    let at = node.addresses.at(Family::V4, 30080);
    assert!(cluster.lab.client.worker.probe(Proto::Tcp, at).unwrap().by().is_some());
}

#[test]
fn ids_are_the_same_after_a_restart() {
    let Some(mut cluster) = start(&[]) else { return };
    let ids = |cluster: &Cluster| {
        let rows = cluster.agents[0].commands.json(&["backends"]).unwrap();
        let rows = rows.as_array().unwrap().clone();
        rows.iter().map(|row| format!("{} {}", row["id"], row["address"])).collect::<Vec<_>>()
    };
    let before = ids(&cluster);
    assert!(!before.is_empty());
    cluster.agents[0].restart().unwrap();
    assert_eq!(ids(&cluster), before);
}

/// Every thread, because capabilities belong to threads; and what it serves, it serves without them.
#[test]
fn a_running_agent_has_kept_only_what_its_work_needs() {
    // CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF.
    const KEPT: u64 = 1 << 2 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;
    let Some(cluster) = start(&[]) else { return };
    let pid = cluster.agents[0].pid().unwrap();
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set) & !KEPT, 0, "{set} {:x}", field(set));
        }
        assert_eq!(field("CapEff:"), KEPT, "what its work needs is there");
        assert_eq!(field("NoNewPrivs:"), 1);
        threads += 1;
    }
    assert!(threads > 1, "the agent has threads");
}
