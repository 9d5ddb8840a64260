//! What else lives on a node keeps working, and sees what it should: firewalls, policies, hostPorts, marks,
//! sysctls, reverse path filters, the neighbours on the wire.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

mod others;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use lb_tests::{
    cluster::{Cluster, Directory, Endpoint, Service},
    lab::{Agent, Cidr, FAMILIES, Family, Lab, Node, Setup, binary, missing},
    worker::{Outcome, Proto, UdpStyle, Worker},
};

const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];

fn web() -> Service {
    Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30080),
    )
}

fn start(setup: Setup) -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(setup, &["--xdp=off"])?;
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    Some(cluster)
}

/// Whether there is `nft`; says so if not.
fn nft_is_missing() -> bool {
    let lacking = Command::new("nft").arg("--version").output().is_err();
    if lacking {
        println!("SKIPPED: no nft: apt-get install nftables");
    }
    lacking
}

/// Runs nft on a node, with a script if it has one, and returns what it prints.
fn nft(node: &Node, words: &[&str], script: &str) -> String {
    let mut command = node.place.command("nft").unwrap();
    let _ = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {words:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn ask(by: &Worker, proto: Proto, at: std::net::SocketAddr, wait_ms: u64) -> Outcome {
    let patience = Duration::from_millis(wait_ms);
    by.probe_with(proto, UdpStyle::Connected, at, None, patience).unwrap()
}

/// Packets that a named counter of a node has seen.
fn counted(node: &Node, counter: &str) -> u64 {
    let listed = nft(node, &["-j", "list", "counter", "inet", "firewall", counter], "");
    let json: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let items = json["nftables"].as_array().unwrap();
    items.iter().find_map(|item| item["counter"]["packets"].as_u64()).unwrap()
}

/// HOST-2, B7: what enforces policies on the way through the node sees pods' addresses, in both
/// directions, and what it forbids does not happen.
#[test]
fn policies_of_the_node_see_the_addresses_of_pods() {
    if nft_is_missing() {
        return;
    }
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let client = &one.pods[0];
    for (backend, name) in [(&one.pods[1], "on this node"), (&two.pods[0], "on the other node")] {
        cluster.put(&web(), &[Endpoint::pod(backend)]).unwrap();
        for family in FAMILIES {
            let ip = if family == Family::V4 { "ip" } else { "ip6" };
            let (from, to) = (client.addresses.ip(family), backend.addresses.ip(family));
            let vip = web().addresses.at(family, 80);
            let rules = |verdict: &str| {
                format!(
                    "table inet firewall {{}}
delete table inet firewall
table inet firewall {{
  counter there {{}}
  counter back {{}}
  counter vip {{}}
  chain forward {{
    type filter hook forward priority 0;
    {ip} saddr {from} {ip} daddr {to} counter name there {verdict}
    {ip} saddr {to} {ip} daddr {from} counter name back
    {ip} daddr {vip} counter name vip
    {ip} saddr {vip} counter name vip
  }}
}}
",
                    vip = vip.ip(),
                )
            };
            let _ = nft(one, &["-f", "-"], &rules("accept"));
            for proto in BOTH {
                let outcome = ask(&client.worker, proto, vip, 3000);
                assert_eq!(
                    outcome.by(),
                    Some(backend.name()),
                    "{name} {family} {proto}: {outcome}"
                );
            }
            let [there, back, seen] = ["there", "back", "vip"].map(|name| counted(one, name));
            assert!(there >= 4 && back >= 4, "{name} {family}: {there} there, {back} back");
            assert_eq!(seen, 0, "{name} {family}: a half-translated flow was seen");
            let _ = nft(one, &["-f", "-"], &rules("drop"));
            for proto in BOTH {
                let outcome = ask(&client.worker, proto, vip, 500);
                assert_eq!(outcome, Outcome::Timeout, "{name} {family} {proto}");
            }
            let _ = nft(one, &["delete", "table", "inet", "firewall"], "");
        }
    }
}

/// HOST-3, NP-19, D9: nothing is accepted on behalf of a host that forwards nothing: what goes up its stack
/// is dropped, what is handed to another node never was the host's to forward.
#[test]
fn the_firewall_of_the_host_is_the_hosts() {
    if nft_is_missing() {
        return;
    }
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let rules = "table inet firewall {
  chain forward { type filter hook forward priority 0; policy drop; }
}
";
    let _ = nft(one, &["-f", "-"], rules);
    for (backend, answered) in [(&one.pods[0], false), (&two.pods[0], true)] {
        cluster.put(&web(), &[Endpoint::pod(backend)]).unwrap();
        for family in FAMILIES {
            let at = one.addresses.at(family, 30080);
            // What the node has no neighbour for takes the road, where the host drops it.
            let known = ask(&one.host, Proto::Tcp, backend.addresses.at(family, 8080), 3000);
            assert_eq!(known.by(), Some(backend.name()), "{at}: {known}");
            for proto in BOTH {
                let patience = if answered { 3000 } else { 500 };
                let outcome = ask(&cluster.lab.client.worker, proto, at, patience);
                assert_eq!(outcome.by().is_some(), answered, "{at} {proto}: {outcome}");
            }
        }
    }
}

/// HOST-6, TP-8: no packet carries a mark, wherever it goes.
#[test]
fn packets_are_not_marked() {
    if nft_is_missing() {
        return;
    }
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let mut rules = "table inet firewall {\n  counter marked {}\n  counter every {}\n".to_owned();
    for hook in ["prerouting", "input", "forward", "output", "postrouting"] {
        rules += &format!(
            "  chain {hook} {{ type filter hook {hook} priority 0; counter name every; \
             meta mark != 0 counter name marked; ct mark != 0 counter name marked; }}\n"
        );
    }
    let _ = nft(one, &["-f", "-"], &(rules + "}\n"));
    cluster.put(&web(), &[&one.pods[1], &two.pods[0]].map(Endpoint::pod)).unwrap();
    let clients = [&one.pods[0].worker, &one.host, &one.unhooked, &cluster.lab.client.worker];
    for family in FAMILIES {
        for at in [web().addresses.at(family, 80), one.addresses.at(family, 30080)] {
            for client in clients {
                let share = client.many(Proto::Tcp, at, 10).unwrap();
                assert!(share.failures.is_empty(), "{} to {at}: {share:?}", client.name());
            }
        }
    }
    assert!(counted(one, "every") > 100, "the node's rules saw the traffic");
    assert_eq!(counted(one, "marked"), 0);
}

/// HOST-8: a CNI's hostPort, which is a DNAT rule of the node, works beside node ports.
#[test]
fn host_ports_work_beside_node_ports() {
    if nft_is_missing() {
        return;
    }
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    cluster.put(&web(), &[Endpoint::pod(&two.pods[0])]).unwrap();
    let [v4, v6] = one.pods[0].addresses.both();
    let rules = format!(
        "table inet hostport {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    meta nfproto ipv4 fib daddr type local tcp dport 8888 dnat ip to {v4}:8080
    meta nfproto ipv6 fib daddr type local tcp dport 8888 dnat ip6 to [{v6}]:8080
  }}
}}
"
    );
    let _ = nft(one, &["-f", "-"], &rules);
    let client = &cluster.lab.client.worker;
    for family in FAMILIES {
        for (port, by) in [(8888, &one.pods[0]), (30080, &two.pods[0]), (8888, &one.pods[0])] {
            let at = one.addresses.at(family, port);
            let outcome = ask(client, Proto::Tcp, at, 3000);
            assert_eq!(outcome.by(), Some(by.name()), "{at}: {outcome}");
        }
    }
}

/// HOST-11: pods that talk to each other directly keep their addresses and leave no trace in our maps.
#[test]
fn pods_that_talk_directly_are_not_noticed() {
    let Some(cluster) = start(Setup::default()) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    cluster.put(&web(), &[&one.pods[1], &two.pods[0]].map(Endpoint::pod)).unwrap();
    let client = &one.pods[0];
    for family in FAMILIES {
        for other in [&one.pods[1], &two.pods[0]] {
            for proto in BOTH {
                let at = other.addresses.at(family, 8080);
                let outcome = ask(&client.worker, proto, at, 3000);
                assert_eq!(outcome.by(), Some(other.name()), "{at} {proto}: {outcome}");
                assert_eq!(outcome.source(), Some(client.addresses.ip(family)), "{at} {proto}");
            }
        }
    }
    for agent in &cluster.agents {
        let flows = agent.commands.json(&["flows", "--limit", "0"]).unwrap();
        assert_eq!(flows["matching"], 0, "{}: {flows}", agent.node());
    }
}

/// B17: a node that accepts packets only from where it would send to (RFC 3704) loses nothing.
#[test]
fn strict_reverse_path_filters_lose_nothing() {
    let Some(cluster) = start(Setup { rp_filter: 1, ..Setup::default() }) else { return };
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    for backend in [&one.pods[1], &two.pods[0]] {
        cluster.put(&web(), &[Endpoint::pod(backend)]).unwrap();
        let clients = [&one.pods[0].worker, &one.host, &one.unhooked, &cluster.lab.client.worker];
        for client in clients {
            for family in FAMILIES {
                for at in [web().addresses.at(family, 80), one.addresses.at(family, 30080)] {
                    for proto in BOTH {
                        let outcome = ask(client, proto, at, 3000);
                        let name = client.name();
                        let by = Some(backend.name());
                        assert_eq!(outcome.by(), by, "{name} to {at} {proto}: {outcome}");
                    }
                }
            }
        }
    }
}

/// FAM-5: a node without an address of a family serves that family all the same.
#[test]
fn a_node_of_one_family_serves_both() {
    let Some(cluster) = start(Setup::default()) else { return };
    let one = &cluster.lab.nodes[0];
    one.netns.netlink().delete_address("eth0", Cidr(one.addresses.v6, 64)).unwrap();
    cluster.put(&web(), &[Endpoint::pod(&one.pods[1])]).unwrap();
    for family in FAMILIES {
        for proto in BOTH {
            let at = web().addresses.at(family, 80);
            let outcome = ask(&one.pods[0].worker, proto, at, 3000);
            assert_eq!(outcome.by(), Some(one.pods[1].name()), "{at} {proto}: {outcome}");
        }
    }
}

/// HOST-5, CT-12: the only settings of the node's network that an agent changes are the two of loopback.
#[test]
fn an_agent_changes_two_settings_of_loopback_and_no_other() {
    let lb = binary();
    let reason = missing().or_else(|| {
        (!lb.exists()).then(|| format!("no {}: run `cargo xtask build`", lb.display()))
    });
    if let Some(reason) = reason {
        println!("SKIPPED: {reason}");
        return;
    }
    let lab = Lab::start(Setup { pods: vec![1], ..Setup::default() }).unwrap();
    lab.serve(8080).unwrap();
    let node = &lab.nodes[0];
    let before = settings(node);
    let directory = Directory::create(lab.dir().join("objects")).unwrap();
    directory.put_service(&web()).unwrap();
    directory.put_endpoints(&web(), &[Endpoint::pod(&node.pods[0])]).unwrap();
    let agent = Agent::start(node, directory.path(), &["--xdp=off"]).unwrap();
    for family in FAMILIES {
        let outcome = ask(&node.host, Proto::Tcp, web().addresses.at(family, 80), 3000);
        assert!(outcome.by().is_some(), "{outcome}");
    }
    let after = settings(node);
    let changed: Vec<&str> = before
        .iter()
        .filter(|(path, value)| after.get(*path) != Some(value))
        .map(|(path, _)| path.as_str())
        .collect();
    let ours =
        ["/proc/sys/net/ipv4/conf/lo/accept_local", "/proc/sys/net/ipv4/conf/lo/route_localnet"];
    assert!(before.len() > 100, "{} settings were read", before.len());
    assert_eq!(changed, ours);
    drop(agent);
}

/// Every setting of a node's IPv4 and IPv6, by path.
fn settings(node: &Node) -> BTreeMap<String, String> {
    node.netns
        .run(|| {
            let mut found = BTreeMap::new();
            for family in ["ipv4", "ipv6"] {
                read_settings(&Path::new("/proc/sys/net").join(family), &mut found);
            }
            Ok(found)
        })
        .unwrap()
}

fn read_settings(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_settings(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            let _none = found.insert(path.display().to_string(), value);
        }
    }
}
