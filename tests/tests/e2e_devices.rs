//! An agent on a node with many kinds of devices: each says what it is to us, what it carries and
//! whether XDP runs on it; and none of them makes the node unhealthy by what it cannot do.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Node, Setup},
    worker::Proto,
};
use serde_json::Value;

/// Runs `ip` in the namespace of the node's processes.
fn ip(node: &Node, arguments: &str) {
    let status = node.place.command("ip").unwrap().args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Role, programs and XDP (its mode, or why it does not run) of a device.
fn summary(status: &Value, name: &str) -> (String, Vec<String>, String) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let devices = status["devices"].as_array().unwrap();
    let Some(device) = devices.iter().find(|device| device["name"] == name) else {
        return ("absent".to_owned(), Vec::new(), "-".to_owned());
    };
    let programs = device["programs"].as_array().unwrap();
    let mut programs: Vec<_> = programs.iter().map(|program| text(&program["program"])).collect();
    programs.sort();
    let xdp = &device["xdp"];
    let xdp = if xdp["mode"].is_string() { &xdp["mode"] } else { &xdp["why_not"] };
    (text(&device["role"]), programs, text(xdp))
}

#[test]
fn a_node_with_every_kind_of_device_is_healthy_and_tells_them_apart() {
    let setup = Setup { xdp: true, pods: vec![1], ..Setup::default() };
    let Some(cluster) = Cluster::start_or_skip(setup, &["--xdp=native"]) else { return };
    let (node, agent) = (&cluster.lab.nodes[0], &cluster.agents[0]);
    for command in [
        "link add v0 type veth peer name v1",
        "link add br0 type bridge",
        "link set v1 master br0",
        "link add vx0 type vxlan id 7 dstport 4789",
        "link add mv0 link v0 type macvlan mode bridge",
        "link add ifb7 type ifb",
        "tuntap add tun0 mode tun",
        "addr add 10.9.0.1/24 dev tun0",
        "link set tun0 up",
        "tuntap add tun1 mode tun",
    ] {
        ip(node, command);
    }
    let external = ["lb_ext_in", "lb_ext_out"];
    let with_xdp = ["lb_ext_in", "lb_ext_out", "lb_xdp_in"];
    let pod = ["lb_pod_in", "lb_pod_out"];
    let refused = "the driver cannot run it";
    let expected: [(&str, &str, &[&str], &str); 11] = [
        ("eth0", "external", &with_xdp, "native"),
        ("v0", "external", &with_xdp, "native"),
        ("v1", "external", &with_xdp, "native"),
        ("br0", "external", &external, refused),
        ("vx0", "external", &external, refused),
        ("mv0", "external", &external, refused),
        ("ifb7", "other", &[], "-"),
        ("tun0", "external", &["lb_ext_in_l3", "lb_ext_out_l3"], "no Ethernet header"),
        ("tun1", "workload", &["lb_pod_in_l3", "lb_pod_out_l3"], "-"),
        ("lo", "loopback", &["lb_lo_out"], "-"),
        (&node.pods[0].device, "workload", &pod, "-"),
    ];
    let as_expected = |status: &Value| {
        expected.iter().all(|(name, role, programs, xdp)| {
            let found = summary(status, name);
            (found.0.as_str(), found.2.as_str()) == (*role, *xdp)
                && found.1.iter().map(String::as_str).eq(programs.iter().copied())
        })
    };
    let status = agent.wait_status("every device with its programs", as_expected);
    let status = status.unwrap_or_else(|error| {
        let status = agent.status().unwrap();
        let found = expected.map(|(name, ..)| (name, summary(&status, name)));
        panic!("{error}: {found:#?}")
    });
    assert_eq!(status["ailments"], Value::Array(Vec::new()), "{status:#}");
    assert_eq!(status["healthy"], true, "{status:#}");

    // The devices of before go on serving.
    let service = Service::new("web", 20).port("http", Proto::Tcp, 80, 8080, Some(30080));
    cluster.lab.serve(8080).unwrap();
    let pods: Vec<Endpoint> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&service, &pods).unwrap();
    for family in FAMILIES {
        let at = node.addresses.at(family, 30080);
        let outcome = cluster.lab.client.worker.probe(Proto::Tcp, at).unwrap();
        assert_eq!(outcome.by(), Some(node.pods[0].name()), "{at}: {outcome}");
    }
}
