//! A Service in rules for nftables, as short as they can be: destination NAT, and masquerading of whoever is no
//! pod of the node. They show that a case is one that a node can get right.

use std::net::IpAddr;

use lb_tests::{
    cluster::{Policy, Service},
    lab::{FAMILIES, Family, Lab, Node, Pod},
};

/// Gives a Service this pod as its only endpoint, on every node.
pub(super) fn put(lab: &Lab, service: &Service, pod: &Pod) {
    for node in &lab.nodes {
        // Rules are for what the node routes, not for what its bridges pass on.
        let files = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
        node.netns.sysctl(&files.map(|file| (file, "0"))).unwrap();
        for family in FAMILIES {
            node.netns.nft(&rules(node, family, service, pod)).unwrap();
        }
    }
}

fn rules(node: &Node, family: Family, service: &Service, pod: &Pod) -> String {
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    let list = |items: Vec<String>| items.join(", ");
    let outside = service.external_ips.iter().copied().chain(service.ingress.iter().map(|i| i.ip));
    let vip = service.addresses.ip(family);
    let vips = list(outside.chain([vip]).filter(of_family).map(|ip| ip.to_string()).collect());
    let pods = list(node.pods.iter().map(|pod| pod.addresses.ip(family).to_string()).collect());
    // What stays on the node keeps the client's address where the policy says so.
    let local = service.external_policy == Policy::Local && pod.node == node.name();
    let mark =
        if local { String::new() } else { format!("{ip} saddr != {{ {pods} }} ct mark set 1") };
    let (mut balance, to) = (String::new(), pod.addresses.ip(family));
    for port in &service.ports {
        let (proto, number) = (port.proto.name().to_lowercase(), port.port);
        let to = std::net::SocketAddr::new(to, port.target);
        let mut frontends = vec![format!("{ip} daddr {{ {vips} }} {proto} dport {number}")];
        if let Some(node_port) = port.node_port {
            frontends.push(format!("fib daddr type local {proto} dport {node_port}"));
        }
        for frontend in frontends {
            if !mark.is_empty() {
                balance += &format!("{frontend} {mark}\n");
            }
            balance += &format!("{frontend} dnat to {to}\n");
        }
    }
    format!(
        "table {ip} field
delete table {ip} field
table {ip} field {{
chain balance {{\n{balance}}}
chain prerouting {{\ntype nat hook prerouting priority dstnat;\njump balance\n}}
chain output {{\ntype nat hook output priority -100;\njump balance\n}}
chain postrouting {{\ntype nat hook postrouting priority srcnat;\nct mark 1 masquerade\n}}
}}
"
    )
}
