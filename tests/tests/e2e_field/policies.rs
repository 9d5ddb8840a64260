//! Policies of the network as rules of the FORWARD hook: what they say of a pod's address holds by whichever
//! address of a Service it is reached.

use std::collections::BTreeSet;

use lb_tests::{
    lab::{FAMILIES, Family, Node, Pod, Setup, external_address, load_balancer_address},
    worker::{Outcome, Proto, Shot, UdpStyle},
};
use serde_json::Value;

use super::{By, NODE_PORT, put, start, web};

/// Which node has the rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Enforced {
    /// The one of the pod that asks.
    Egress,
    /// The one of the pod that answers.
    Ingress,
}

/// What a pod asks: node ports are of its own node, and of the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum To {
    Pod,
    ClusterIp,
    NodePort,
    OtherNodePort,
    ExternalIp,
    LoadBalancer,
}

const TOS: [To; 6] =
    [To::Pod, To::ClusterIp, To::NodePort, To::OtherNodePort, To::ExternalIp, To::LoadBalancer];

/// Whether a rule against the pod that answers stops the pod that asks. On its own node its packets are for the
/// pod before any rule sees them. What is for the other node's port leaves as such, and comes to the pod in the
/// name of that node unless the pod is there.
fn is_dropped(to: To, enforced: Enforced, backend_here: bool) -> bool {
    to != To::OtherNodePort || (enforced == Enforced::Ingress && !backend_here)
}

#[test]
fn policies_see_pods_by_whichever_address_they_talk() {
    for by in By::ALL {
        let Some(cluster) = start(Setup::default(), by) else { return };
        let mut wrong = String::new();
        let mut ports = 41_000;
        let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
        for [own, other] in [[one, two], [two, one]] {
            for (backend_here, to) in [(true, &own.pods[1]), (false, &other.pods[0])] {
                put(&cluster, &web(), to);
                let asking = Asking { own, other, to, backend_here };
                for enforced in [None, Some(Enforced::Egress), Some(Enforced::Ingress)] {
                    wrong += &asking.walk(enforced, &mut ports);
                }
            }
        }
        assert!(wrong.is_empty(), "{by:?}:\n{wrong}");
    }
}

/// A pod that asks, and the only one that answers.
struct Asking<'a> {
    /// The node of the pod that asks, which is its first one.
    own: &'a Node,
    other: &'a Node,
    to: &'a Pod,
    backend_here: bool,
}

impl Asking<'_> {
    /// Asks for everything at once, with or without a rule, and tells what came out otherwise than it should.
    fn walk(&self, enforced: Option<Enforced>, next: &mut u16) -> String {
        let Self { own, other, to, backend_here } = self;
        let from = &own.pods[0];
        let at_other = enforced == Some(Enforced::Ingress) && !backend_here;
        let guard = if at_other { other } else { own };
        if enforced.is_some() {
            guard.netns.nft(&rule(from, to)).unwrap();
        }
        let mut cells = Vec::new();
        for target in TOS {
            let dropped =
                enforced.is_some_and(|enforced| is_dropped(target, enforced, self.backend_here));
            for family in FAMILIES {
                let at = match target {
                    To::Pod => to.addresses.at(family, super::TARGET),
                    To::ClusterIp => web().addresses.at(family, 80),
                    To::NodePort => own.addresses.at(family, NODE_PORT),
                    To::OtherNodePort => other.addresses.at(family, NODE_PORT),
                    To::ExternalIp => external_address(20).at(family, 80),
                    To::LoadBalancer => load_balancer_address(20).at(family, 80),
                };
                for proto in [Proto::Tcp, Proto::Udp] {
                    *next += 1;
                    let timeout_ms = if dropped { 500 } else { 3000 };
                    let own = Some(from.addresses.at(family, *next));
                    let style = UdpStyle::Connected;
                    cells.push((
                        target,
                        dropped,
                        Shot { proto, style, to: at, from: own, timeout_ms },
                    ));
                }
            }
        }
        let shots = cells.iter().map(|(.., shot)| *shot).collect();
        let outcomes = from.worker.each(shots, 8).unwrap();
        let witnesses = if enforced.is_some() { seen(guard) } else { BTreeSet::new() };
        let mut wrong = String::new();
        for ((target, dropped, shot), outcome) in cells.iter().zip(outcomes) {
            let port = shot.from.unwrap().port();
            let seen = witnesses.contains(&(shot.proto.name().to_lowercase(), port));
            let right = if *dropped {
                outcome == Outcome::Timeout && seen
            } else {
                outcome.by() == Some(to.name()) && !seen
            };
            if !right {
                wrong += &format!(
                    "{} to {target:?} ({} {}) of {}, rule {enforced:?}: {outcome}, {}; wanted {}\n",
                    from.name(),
                    shot.to,
                    shot.proto,
                    to.name(),
                    if seen { "seen by the rule" } else { "not seen by the rule" },
                    if *dropped { "a drop" } else { "an answer" },
                );
            }
        }
        if enforced.is_some() {
            guard.netns.nft("delete table inet np\n").unwrap();
        }
        wrong
    }
}

/// Drops what one pod sends to another, and remembers the source ports of that.
fn rule(from: &Pod, to: &Pod) -> String {
    let line = |ip: &str, family: Family| {
        let (from, to) = (from.addresses.ip(family), to.addresses.ip(family));
        format!("{ip} saddr {from} {ip} daddr {to} add @seen {{ meta l4proto . th sport }} drop\n")
    };
    format!(
        "table inet np {{
set seen {{\ntype inet_proto . inet_service\nflags dynamic\nsize 1024\n}}
chain forward {{\ntype filter hook forward priority 0\n{}{}}}
}}
",
        line("ip", Family::V4),
        line("ip6", Family::V6)
    )
}

/// Protocols and source ports that the rule of a node has met.
fn seen(node: &Node) -> BTreeSet<(String, u16)> {
    let said = node.netns.tool("nft", "-j list set inet np seen", "").unwrap();
    let json: Value = serde_json::from_str(&said).unwrap();
    let sets = json["nftables"].as_array().unwrap();
    let elements = sets.iter().filter_map(|item| item["set"]["elem"].as_array()).flatten();
    elements
        .map(|element| {
            let element =
                if element["elem"].is_object() { &element["elem"]["val"] } else { element };
            let pair = &element["concat"];
            let port = u16::try_from(pair[1].as_u64().unwrap()).unwrap();
            (pair[0].as_str().unwrap().to_owned(), port)
        })
        .collect()
}
