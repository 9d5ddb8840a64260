//! Health check node ports: what a load balancer outside asks each node, and when it hears what.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
};

use lb_common::names;
use lb_tests::{
    cluster::{self, Cluster, Condition, Endpoint, Policy, Service, ServiceType},
    lab::{Agent, Cidr, FAMILIES, Family, PATIENCE, Place, Setup, load_balancer_address, until},
    worker::Proto,
};
use lb_userspace::{
    datapath::paths::PinPaths,
    maps::bpf::{self, Access},
};
use serde_json::Value;

const PORT: u16 = 30900;

/// A Service of two ports with a load balancer that wants to know where its endpoints are.
fn shop() -> Service {
    let mut shop = Service::new("shop", 20)
        .port("web", Proto::Tcp, 80, 8080, Some(30080))
        .port("more", Proto::Tcp, 81, 8080, Some(30081))
        .load_balancer(load_balancer_address(20))
        .policies(Policy::Cluster, Policy::Local);
    shop.health_check_node_port = Some(PORT);
    shop
}

fn start(pods: Vec<u8>, flags: &[&str]) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods, ..Setup::default() }, flags)?;
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    Some(cluster)
}

/// What a load balancer hears.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Heard {
    status: u16,
    weight: String,
    head: String,
    body: String,
}

/// Asks with more words for curl; `None` when nobody listens.
fn ask_with(place: &Place, at: SocketAddr, words: &[&str], path: &str) -> Option<Heard> {
    let mut curl = place.command("curl").unwrap();
    let url = format!("http://{at}{path}");
    let output = curl.args(["-s", "-i", "-m", "10"]).args(words).arg(url).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = output.status.success().then(|| text.split_once("\r\n\r\n"))??;
    let weight = "X-Load-Balancing-Endpoint-Weight: ";
    Some(Heard {
        status: head.split(' ').nth(1)?.parse().unwrap(),
        weight: head.lines().find_map(|line| line.strip_prefix(weight)).unwrap_or("none").into(),
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

fn ask(place: &Place, at: SocketAddr) -> Option<Heard> {
    ask_with(place, at, &[], "/")
}

/// Waits until a port answers with this status and weight; `None` stands for nobody listening.
fn becomes(place: &Place, at: SocketAddr, wanted: Option<(u16, &str)>) -> Option<Heard> {
    let mut last = None;
    let is = until(&format!("{at} to say {wanted:?}"), PATIENCE, || {
        last = ask(place, at);
        let heard = last.as_ref().map(|heard| (heard.status, heard.weight.as_str()));
        Ok((heard == wanted).then_some(()))
    });
    is.unwrap_or_else(|error| panic!("{error}: {last:?}"));
    last
}

/// A metric of an agent.
fn metric(cluster: &Cluster, node: usize, line: &str) -> Option<String> {
    let at = SocketAddr::from(([127, 0, 0, 1], 10249));
    let heard = ask_with(&cluster.lab.nodes[node].place, at, &[], "/metrics")?;
    heard.body.lines().find_map(|one| one.strip_prefix(line)).map(|rest| rest.trim().to_owned())
}

/// HC-1, HC-2, HC-3, HC-4, HC-5, HC-6, HC-7, TP-14: every node answers for its own endpoints, in both
/// families, and counts each address once however many ports it serves.
#[test]
fn each_node_tells_of_its_own_endpoints() {
    let Some(cluster) = start(vec![2, 1, 0], &[]) else { return };
    let here: Vec<_> = cluster.lab.nodes[0].pods.iter().map(Endpoint::pod).collect();
    cluster.put(&shop(), &here).unwrap();
    let outside = &cluster.lab.client.place;
    for family in FAMILIES {
        for (node, wanted) in cluster.lab.nodes.iter().zip([(200, "2"), (503, "0"), (503, "0")]) {
            let at = node.addresses.at(family, PORT);
            let heard = becomes(outside, at, Some(wanted)).unwrap();
            let body: Value = serde_json::from_str(&heard.body).unwrap();
            let (status, weight) = wanted;
            assert_eq!(body["service"]["namespace"], "default", "{body}");
            assert_eq!(body["service"]["name"], "shop", "{body}");
            assert_eq!(body["localEndpoints"].to_string(), weight, "{body}");
            assert_eq!(body["serviceProxyHealthy"], true, "{body}");
            for header in ["Content-Type: application/json", "X-Content-Type-Options: nosniff"] {
                assert!(heard.head.lines().any(|line| line == header), "{}", heard.head);
            }
            for words in [&["-X", "POST", "-d", "a=b"][..], &["-X", "DELETE"]] {
                let other = ask_with(outside, at, words, "/any/path?at=all").unwrap();
                assert_eq!((other.status, other.weight.as_str()), (status, weight), "{words:?}");
            }
            // All addresses serve node ports, loopback too.
            let loopback: IpAddr = if family == Family::V4 {
                [127, 0, 0, 1].into()
            } else {
                [0, 0, 0, 0, 0, 0, 0, 1].into()
            };
            let inside = ask(&node.place, SocketAddr::new(loopback, PORT)).unwrap();
            assert_eq!(inside.status, status);
        }
        for (node, ports) in [(0, "0"), (1, "2"), (2, "2")] {
            let count = |policy: &str| {
                let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
                let line = format!("{name}{{traffic_policy=\"{policy}\",ip_family=\"{family}\"}} ");
                metric(&cluster, node, &line)
            };
            assert_eq!(count("external").as_deref(), Some(ports), "node {node}");
            assert_eq!(count("internal").as_deref(), Some("0"), "node {node}");
        }
    }
    // The endpoints move.
    let there = [Endpoint::pod(&cluster.lab.nodes[1].pods[0])];
    cluster.put(&shop(), &there).unwrap();
    for family in FAMILIES {
        for (node, wanted) in cluster.lab.nodes.iter().zip([(503, "0"), (200, "1"), (503, "0")]) {
            let _heard = becomes(outside, node.addresses.at(family, PORT), Some(wanted));
        }
    }
}

/// HC-1, HC-9: the port is open while the Service is what it is for, and closed as soon as not.
#[test]
fn the_port_follows_type_policy_and_number() {
    let Some(cluster) = start(vec![1], &[]) else { return };
    let endpoints = [Endpoint::pod(&cluster.lab.nodes[0].pods[0])];
    let outside = &cluster.lab.client.place;
    let at = |family, port| cluster.lab.nodes[0].addresses.at(family, port);
    cluster.put(&shop(), &endpoints).unwrap();
    let all = |port: u16, wanted: Option<(u16, &str)>| {
        for family in FAMILIES {
            let _heard = becomes(outside, at(family, port), wanted);
        }
    };
    let here = Some((200, "1"));
    all(PORT, here);
    cluster.directory.put_service(&shop().policies(Policy::Cluster, Policy::Cluster)).unwrap();
    all(PORT, None);
    cluster.directory.put_service(&shop()).unwrap();
    all(PORT, here);
    let moved = Service { health_check_node_port: Some(PORT + 1), ..shop() };
    cluster.directory.put_service(&moved).unwrap();
    all(PORT + 1, here);
    for family in FAMILIES {
        assert_eq!(
            ask(outside, at(family, PORT)),
            None,
            "the old one is closed with the same sync"
        );
    }
    let local_node_port = Service { kind: ServiceType::NodePort, ingress: Vec::new(), ..moved };
    cluster.directory.put_service(&local_node_port).unwrap();
    all(PORT + 1, None);
    cluster.directory.put_service(&shop()).unwrap();
    all(PORT, here);
    cluster.directory.delete(&shop()).unwrap();
    all(PORT, None);
}

/// What `lb status` says is wrong.
fn problems(agent: &Agent) -> Vec<String> {
    let status = agent.status().unwrap();
    let problems = status["problems"].as_array().unwrap();
    problems.iter().map(|one| format!("{}: {}", one["object"], one["reason"])).collect()
}

/// HC-10: told where an operator looks, and tried again without being asked.
#[test]
fn a_port_that_is_taken_is_told_and_tried_again() {
    let Some(cluster) = start(vec![1], &[]) else { return };
    let node = &cluster.lab.nodes[0];
    let endpoints = [Endpoint::pod(&node.pods[0])];
    let occupied = node.addresses.at(Family::V4, PORT);
    node.host.serve(Proto::Tcp, occupied).unwrap();
    cluster.put(&shop(), &endpoints).unwrap();
    let agent = &cluster.agents[0];
    let told = "healthCheckNodePort 30900 cannot be served at 0.0.0.0:30900";
    until("the problem to be told", PATIENCE, || {
        Ok(problems(agent).iter().any(|one| one.contains(told)).then_some(()))
    })
    .unwrap();
    let problem = problems(agent).into_iter().find(|one| one.contains(told)).unwrap();
    assert!(problem.starts_with("\"Service default/shop\""), "{problem}");
    assert!(agent.log().contains("health check cannot be served"), "{}", agent.log());
    let outside = &cluster.lab.client.place;
    let _heard = becomes(outside, node.addresses.at(Family::V6, PORT), Some((200, "1")));
    node.host.stop(Proto::Tcp, occupied).unwrap();
    let _heard = becomes(outside, occupied, Some((200, "1")));
    until("the problem to be gone", PATIENCE, || {
        Ok(problems(agent).iter().all(|one| !one.contains(told)).then_some(()))
    })
    .unwrap();
}

/// HC-12, EP-8: a node whose only endpoints drain is left by the load balancer while it still serves.
#[test]
fn a_node_that_drains_fails_the_check_and_serves_on() {
    let Some(cluster) = start(vec![1, 1], &[]) else { return };
    let pod = |node: usize| Endpoint::pod(&cluster.lab.nodes[node].pods[0]);
    cluster.put(&shop(), &[pod(0), pod(1)]).unwrap();
    let (client, node) = (&cluster.lab.client, &cluster.lab.nodes[0]);
    for family in FAMILIES {
        let _heard = becomes(&client.place, node.addresses.at(family, PORT), Some((200, "1")));
    }
    let draining = [pod(0).is(Condition::Draining), pod(1)];
    cluster.directory.put_endpoints(&shop(), &draining).unwrap();
    for family in FAMILIES {
        let _heard = becomes(&client.place, node.addresses.at(family, PORT), Some((503, "0")));
        for at in [load_balancer_address(20).at(family, 80), node.addresses.at(family, 30080)] {
            let outcome = client.worker.probe(Proto::Tcp, at).unwrap();
            assert_eq!(outcome.by(), Some("pod1-1"), "{at}: {outcome}");
        }
        let other = cluster.lab.nodes[1].addresses.at(family, PORT);
        let _heard = becomes(&client.place, other, Some((200, "1")));
    }
}

/// Lets nobody but the programs write to a map from now on.
fn freeze(pin: &Path) {
    const BPF_MAP_FREEZE: libc::c_int = 22;
    let map = bpf::obj_get(pin, Access::ReadWrite).unwrap();
    let attr = map.as_raw_fd();
    // SAFETY: the kernel reads as many bytes of `attr` as it is told: its size, a file descriptor.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_FREEZE, &raw const attr, size_of_val(&attr))
    };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// HC-4, HC-8: while the maps cannot follow, every node port of this kind fails, and tells what is
/// programmed rather than what should be.
#[test]
fn a_node_that_cannot_program_fails_every_check() {
    let Some(cluster) = start(vec![2], &["--iptables-sync-period=2s"]) else { return };
    let pods = &cluster.lab.nodes[0].pods;
    cluster.put(&shop(), &[Endpoint::pod(&pods[0])]).unwrap();
    let outside = &cluster.lab.client.place;
    let at = |family| cluster.lab.nodes[0].addresses.at(family, PORT);
    for family in FAMILIES {
        let _heard = becomes(outside, at(family), Some((200, "1")));
    }
    let pins = PinPaths::new(cluster.agents[0].commands.pin_dir());
    freeze(&pins.maps().join(names::LB_SLOTS));
    let both: Vec<_> = pods.iter().map(Endpoint::pod).collect();
    cluster.directory.put_endpoints(&shop(), &both).unwrap();
    for family in FAMILIES {
        let heard = becomes(outside, at(family), Some((503, "1"))).unwrap();
        let body: Value = serde_json::from_str(&heard.body).unwrap();
        assert_eq!(body["serviceProxyHealthy"], false, "{body}");
        assert_eq!(body["localEndpoints"], 1, "{body}");
    }
}

/// FAM-4: while the maps of one family cannot be written, the other follows every change, and /livez
/// tells which one is behind.
#[test]
fn a_family_that_cannot_be_programmed_is_behind_alone() {
    let Some(cluster) = start(vec![2], &["--iptables-sync-period=2s"]) else { return };
    let node = &cluster.lab.nodes[0];
    let endpoints: Vec<_> = node.pods.iter().map(Endpoint::pod).collect();
    cluster.put(&shop(), &endpoints[..1]).unwrap();
    let pins = PinPaths::new(cluster.agents[0].commands.pin_dir());
    freeze(&pins.maps().join(names::LB6_FRONTENDS));
    let answer = |family| {
        let at = node.addresses.at(family, 30080);
        let outcome = cluster.lab.client.worker.probe(Proto::Tcp, at).unwrap();
        outcome.by().unwrap_or_else(|| panic!("{at}: {outcome}")).to_owned()
    };
    let livez = SocketAddr::from(([127, 0, 0, 1], 10256));
    let healthy = |family: &str| -> Option<bool> {
        let heard = ask_with(&node.place, livez, &[], "/livez")?;
        let body: Value = serde_json::from_str(&heard.body).ok()?;
        body["status"][family]["healthy"].as_bool()
    };
    for endpoint in [&endpoints[1], &endpoints[0], &endpoints[1]] {
        cluster.directory.put_endpoints(&shop(), std::slice::from_ref(endpoint)).unwrap();
        until(&format!("{} to answer", endpoint.name), PATIENCE, || {
            Ok((answer(Family::V4) == endpoint.name).then_some(()))
        })
        .unwrap();
        assert_eq!(answer(Family::V6), endpoints[0].name);
    }
    until("IPv6 to be late", PATIENCE, || Ok((healthy("IPv6") == Some(false)).then_some(())))
        .unwrap();
    assert_eq!(healthy("IPv4"), Some(true));
}

/// HC-14: what the firewall of the host does not let in does not reach the port, and the agent changes
/// nothing about that.
#[test]
fn the_firewall_of_the_host_judges_who_asks_for_a_health_check() {
    if Command::new("nft").arg("--version").output().is_err() {
        println!("SKIPPED: no nft: apt-get install nftables");
        return;
    }
    let Some(cluster) = start(vec![1], &[]) else { return };
    let node = &cluster.lab.nodes[0];
    let nft = |words: &[&str]| {
        let output = node.place.command("nft").unwrap().args(words).output().unwrap();
        assert!(output.status.success(), "nft {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let _ = nft(&["add table inet host; add chain inet host input \
                   { type filter hook input priority 0; policy drop; }"]);
    let _ = nft(&["add rule inet host input meta l4proto { icmp, icmpv6 } accept"]);
    let rules = nft(&["list", "ruleset"]);
    cluster.put(&shop(), &[Endpoint::pod(&node.pods[0])]).unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], PORT));
    let outside = &cluster.lab.client.place;
    for family in FAMILIES {
        let at = node.addresses.at(family, PORT);
        assert_eq!(ask_with(outside, at, &["-m", "1"], "/"), None, "{family}");
    }
    assert_eq!(nft(&["list", "ruleset"]), rules);
    let _ =
        nft(&["add", "rule", "inet", "host", "input", "tcp", "dport", &PORT.to_string(), "accept"]);
    for family in FAMILIES {
        let _heard = becomes(outside, node.addresses.at(family, PORT), Some((200, "1")));
    }
    let _ = nft(&["delete", "table", "inet", "host"]);
    let _heard = becomes(&node.place, loopback, Some((200, "1")));
}

/// HC-13, HZ-7: the node is to be deleted, which /healthz says and a Service's port does not.
#[test]
fn a_node_that_is_to_go_fails_healthz_alone() {
    let Some(cluster) = start(vec![1], &[]) else { return };
    let node = &cluster.lab.nodes[0];
    let outside = &cluster.lab.client.place;
    cluster.put(&shop(), &[Endpoint::pod(&node.pods[0])]).unwrap();
    let object = cluster::node(node, None);
    let taint = "spec:\n  taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]\n";
    for (object, wanted) in [(object.clone(), 200), (format!("{object}{taint}"), 503)] {
        cluster.directory.write("node.yaml", &object).unwrap();
        for family in FAMILIES {
            let healthz = node.addresses.at(family, 10256);
            until(&format!("{healthz} to say {wanted}"), PATIENCE, || {
                let heard = ask_with(outside, healthz, &[], "/healthz");
                Ok(heard.filter(|heard| heard.status == wanted).map(drop))
            })
            .unwrap();
            let _heard = becomes(outside, node.addresses.at(family, PORT), Some((200, "1")));
        }
    }
}

/// HC-2, D3, NP-20: the ports are where node ports are served, follow the addresses at run time, and a
/// family without one listens nowhere.
#[test]
fn the_port_listens_where_node_ports_are_served() {
    let secondary: IpAddr = [10, 0, 0, 77].into();
    for (flag, primary, later, loopback, v6) in [
        ("primary", true, false, false, true),
        ("10.0.0.77/32", false, true, false, false),
        ("primary,localhost", true, false, true, true),
        ("10.0.0.0/24", true, true, false, false),
    ] {
        let flag = format!("--nodeport-addresses={flag}");
        let Some(cluster) = start(vec![1], &[&flag]) else { return };
        let (client, node) = (&cluster.lab.client.place, &cluster.lab.nodes[0]);
        cluster.put(&shop(), &[Endpoint::pod(&node.pods[0])]).unwrap();
        let cidr = Cidr(secondary, 24);
        let answers = |yes: bool| yes.then_some((200, "1"));
        node.netns.netlink().add_address("eth0", cidr).unwrap();
        let at = SocketAddr::new(secondary, PORT);
        let _heard = becomes(client, at, answers(later));
        let _heard = becomes(client, node.addresses.at(Family::V4, PORT), answers(primary));
        let _heard = becomes(client, node.addresses.at(Family::V6, PORT), answers(v6));
        let inside = SocketAddr::from(([127, 0, 0, 1], PORT));
        let _heard = becomes(&node.place, inside, answers(loopback));
        node.netns.netlink().delete_address("eth0", cidr).unwrap();
        let _heard = becomes(client, at, None);
        let _heard = becomes(client, node.addresses.at(Family::V4, PORT), answers(primary));
    }
}
