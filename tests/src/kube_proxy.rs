//! What kube-proxy writes for a Service, as it writes it: rules for iptables and for nftables.
//!
//! For tests of leaving kube-proxy. The rules work: with them in its namespace, a node serves the
//! Service as one with kube-proxy does.

use std::fmt::Write as _;

use crate::{
    cluster::{Endpoint, Service},
    lab::Family,
    worker::Proto,
};

const fn proto(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Sctp => "sctp",
    }
}

const fn pods(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.244.0.0/16",
        Family::V6 => "fd44::/32",
    }
}

/// A name as kube-proxy makes it of a hash: sixteen capital letters and digits.
fn hash(of: &str) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut name = String::new();
    for step in 0..16 {
        for byte in of.bytes() {
            state = (state ^ u64::from(byte) ^ step).wrapping_mul(0x0100_0000_01b3);
        }
        name.push(char::from(digits[usize::try_from(state >> 59).unwrap_or(0)]));
    }
    name
}

/// The input of `iptables-restore --noflush` (of `ip6tables-restore` for IPv6).
pub fn iptables(family: Family, service: &Service, endpoints: &[Endpoint]) -> String {
    let mut text = String::from(
        "*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-I INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-I FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
",
    );
    let mut rules = String::from(
        "-I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
",
    );
    let pods = pods(family);
    let vip = service.addresses.ip(family);
    for port in &service.ports {
        let (proto, name) =
            (proto(port.proto), format!("{}/{}:{}", service.namespace, service.name, port.name));
        let id = hash(&format!("{name}{proto}"));
        let number = port.port;
        let _infallible = writeln!(text, ":KUBE-SVC-{id} - [0:0]\n:KUBE-EXT-{id} - [0:0]");
        let _infallible = writeln!(
            rules,
            "-A KUBE-SERVICES -d {vip} -p {proto} -m comment --comment \"{name} cluster IP\" -m {proto} --dport {number} -j KUBE-SVC-{id}
-A KUBE-EXT-{id} -m comment --comment \"masquerade traffic for {name} external destinations\" -j KUBE-MARK-MASQ
-A KUBE-EXT-{id} -j KUBE-SVC-{id}
-A KUBE-SVC-{id} ! -s {pods} -d {vip} -p {proto} -m comment --comment \"{name} cluster IP\" -m {proto} --dport {number} -j KUBE-MARK-MASQ"
        );
        if let Some(node_port) = port.node_port {
            let _infallible = writeln!(
                rules,
                "-A KUBE-NODEPORTS -p {proto} -m comment --comment \"{name}\" -m {proto} --dport {node_port} -j KUBE-EXT-{id}"
            );
        }
        for (n, endpoint) in endpoints.iter().enumerate() {
            let (ip, at) =
                (endpoint.addresses.ip(family), endpoint.addresses.at(family, port.target));
            let sep = hash(&format!("{name}{proto}{at}"));
            let left = endpoints.len() - n;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            let _infallible = writeln!(text, ":KUBE-SEP-{sep} - [0:0]");
            let _infallible = writeln!(
                rules,
                "-A KUBE-SVC-{id} -m comment --comment \"{name} -> {at}\" {chance}-j KUBE-SEP-{sep}
-A KUBE-SEP-{sep} -s {ip} -m comment --comment \"{name}\" -j KUBE-MARK-MASQ
-A KUBE-SEP-{sep} -p {proto} -m comment --comment \"{name}\" -m {proto} -j DNAT --to-destination {at}"
            );
        }
    }
    rules.push_str("-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n");
    text + &rules
}

/// The input of `nft -f -`.
pub fn nftables(family: Family, service: &Service, endpoints: &[Endpoint]) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let (pods, vip) = (pods(family), service.addresses.ip(family));
    let (mut chains, mut ips, mut node_ports) = (String::new(), Vec::new(), Vec::new());
    for port in &service.ports {
        let (proto, number) = (proto(port.proto), port.port);
        let id = format!("{}/{}/{proto}/{}", service.namespace, service.name, port.name);
        let id = format!("{}-{id}", hash(&id));
        ips.push(format!("{vip} . {proto} . {number} : goto service-{id}"));
        if let Some(node_port) = port.node_port {
            node_ports.push(format!("{proto} . {node_port} : goto external-{id}"));
        }
        let mut shares = Vec::new();
        for (n, endpoint) in endpoints.iter().enumerate() {
            let (own, at) =
                (endpoint.addresses.ip(family), endpoint.addresses.at(family, port.target));
            let chain = format!("endpoint-{}-{n}", hash(&format!("{id}{at}")));
            shares.push(format!("{n} : goto {chain}"));
            let _infallible = writeln!(
                chains,
                "chain {chain} {{\n{ip} saddr {own} jump mark-for-masquerade\nmeta l4proto {proto} dnat to {at}\n}}"
            );
        }
        let _infallible = writeln!(
            chains,
            "chain service-{id} {{\n{ip} daddr {vip} {proto} dport {number} {ip} saddr != {pods} jump mark-for-masquerade\nnumgen random mod {} vmap {{ {} }}\n}}
chain external-{id} {{\njump mark-for-masquerade\ngoto service-{id}\n}}",
            endpoints.len(),
            shares.join(", ")
        );
    }
    let key = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let elements = |entries: &[String]| {
        if entries.is_empty() {
            String::new()
        } else {
            format!("elements = {{ {} }}", entries.join(", "))
        }
    };
    let (ips, node_ports) = (elements(&ips), elements(&node_ports));
    format!(
        "table {ip} kube-proxy {{
comment \"rules for kube-proxy\"
chain mark-for-masquerade {{\nmeta mark set meta mark or 0x4000\n}}
chain masquerading {{\nmeta mark and 0x4000 == 0 return\nmeta mark set meta mark xor 0x4000\nmasquerade fully-random\n}}
{chains}
map service-ips {{\ntype {key} . inet_proto . inet_service : verdict\n{ips}\n}}
map service-nodeports {{\ntype inet_proto . inet_service : verdict\n{node_ports}\n}}
chain services {{\n{ip} daddr . meta l4proto . th dport vmap @service-ips\nfib daddr type local meta l4proto . th dport vmap @service-nodeports\n}}
chain nat-prerouting {{\ntype nat hook prerouting priority dstnat; policy accept;\njump services\n}}
chain nat-output {{\ntype nat hook output priority -100; policy accept;\njump services\n}}
chain nat-postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\njump masquerading\n}}
chain filter-forward {{\ntype filter hook forward priority -110; policy accept;\nct state new jump firewall-check\n}}
chain firewall-check {{\n}}
}}
"
    )
}
