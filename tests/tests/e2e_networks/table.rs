//! The table: the Services, what is asked of them, and what must come of it.

use std::net::{IpAddr, SocketAddr};

use lb_tests::{
    cluster::{Cluster, Endpoint, Policy, Service},
    lab::{Addresses, FAMILIES, Family, external_address, load_balancer_address},
    worker::{Outcome, Proto, Shot, UdpStyle, Worker},
};

/// The port at which pods serve.
pub(super) const TARGET: u16 = 8080;
/// The protocols that are asked; SCTP has its own tables.
const PROTOS: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// Who asks. All but the client outside are on node 1, and the client's packets for addresses that no machine has
/// come to node 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Client {
    Outside,
    Pod,
    Host,
    Unhooked,
}

/// What for. Node ports are of node 1, of its second NIC where it has one, and of node 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum To {
    ClusterIp,
    NodePort,
    SecondNodePort,
    OtherNodePort,
    ExternalIp,
    LoadBalancer,
}

const TOS: [To; 6] = [
    To::ClusterIp,
    To::NodePort,
    To::SecondNodePort,
    To::OtherNodePort,
    To::ExternalIp,
    To::LoadBalancer,
];

/// Where the only backend is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Backend {
    Here,
    There,
    Nowhere,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// The backend sees the client's own address.
    Client,
    /// The backend sees an address of node 1.
    Node1,
    /// The backend sees an address of node 2.
    Node2,
    Refused,
    Dropped,
}

use Backend::{Here, Nowhere, There};

/// A Service with one backend or none: name, number, policy of both kinds, backend.
const PLAIN: [(&str, u8, Policy, Backend); 5] = [
    ("here", 1, Policy::Cluster, Here),
    ("there", 2, Policy::Cluster, There),
    ("here-local", 3, Policy::Local, Here),
    ("there-local", 4, Policy::Local, There),
    ("nowhere", 5, Policy::Cluster, Nowhere),
];
/// Session affinity, with a backend on node 1 and two on node 2.
const STICKY: (&str, u8) = ("sticky", 6);
/// A load balancer's address for the client outside alone, with the backend on node 2.
const RANGED: (&str, u8) = ("ranged", 7);

/// The table of verdicts. A pod keeps its address, and so does a client outside whose backend is on the node that
/// it reaches; whose backend is elsewhere is known there by the node.
fn verdict(client: Client, to: To, policy: Policy, backend: Backend) -> Verdict {
    let local = policy == Policy::Local;
    match (to, client, backend) {
        (_, _, Nowhere) => Verdict::Refused,
        (To::ClusterIp, _, There) if local => Verdict::Dropped,
        // Node 2 cannot know from whom it gets a packet: everybody on node 1 comes from outside.
        (To::OtherNodePort, Client::Host | Client::Unhooked, There) => Verdict::Node1,
        (To::OtherNodePort, _, There) => Verdict::Client,
        (To::OtherNodePort, ..) if local => Verdict::Dropped,
        (To::OtherNodePort, ..) => Verdict::Node2,
        (_, Client::Pod, _) | (_, Client::Outside, Here) => Verdict::Client,
        (_, Client::Host | Client::Unhooked, _) => Verdict::Node1,
        (To::ClusterIp, Client::Outside, There) => Verdict::Node1,
        (_, Client::Outside, There) if local => Verdict::Dropped,
        (_, Client::Outside, There) => Verdict::Node1,
    }
}

fn service((name, number): (&str, u8)) -> Service {
    let mut service = Service::new(name, number).exposed(number);
    for proto in PROTOS {
        let node_port = Some(node_port(number));
        service = service.port(&proto.name().to_lowercase(), proto, 80, TARGET, node_port);
    }
    service
}

const fn node_port(number: u8) -> u16 {
    30_000 + number as u16
}

/// Writes the Services and their endpoints.
pub(super) fn put(cluster: &Cluster) {
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let (here, there) = (Endpoint::pod(&one.pods[1]), Endpoint::pod(&two.pods[0]));
    for (name, number, policy, backend) in PLAIN {
        let endpoints = match backend {
            Here => vec![here.clone()],
            There => vec![there.clone()],
            Nowhere => Vec::new(),
        };
        cluster.put(&service((name, number)).policies(policy, policy), &endpoints).unwrap();
    }
    let every = [here, there.clone(), Endpoint::pod(&two.pods[1])];
    cluster.put(&service(STICKY).affinity(600), &every).unwrap();
    let [v4, v6] = cluster.lab.client.addresses.both();
    let ranges = [format!("{v4}/32"), format!("{v6}/128")];
    cluster.put(&service(RANGED).from_ranges(ranges), &[there]).unwrap();
}

/// A cell of the table.
struct Cell {
    what: String,
    at: SocketAddr,
    proto: Proto,
    want: Verdict,
    by: Option<String>,
}

/// Asks everything that one client has to ask: how many cells, and what is wrong of them.
pub(super) fn check(cluster: &Cluster, client: Client) -> (usize, Vec<String>) {
    let cells = cells(cluster, client);
    let (worker, own) = client.of(cluster);
    let shots = cells.iter().map(Cell::shot).collect();
    let outcomes = worker.each(shots, 6).unwrap();
    let mut wrong = Vec::new();
    let mut lost = 0;
    for (cell, mut outcome) in cells.iter().zip(outcomes) {
        let may_repeat = cell.proto == Proto::Udp && cell.want != Verdict::Dropped;
        if may_repeat && outcome == Outcome::Timeout && lost == 0 {
            // A datagram may get lost, by the kernel's queues too: one is told, and no more.
            println!("{client:?} to {} {}: lost once", cell.what, cell.at);
            lost += 1;
            outcome = worker.each(vec![cell.shot()], 1).unwrap().remove(0);
        }
        if !cell.is_right(cluster, &outcome, own) {
            let Cell { what, at, proto, want, by } = cell;
            let by = by.as_deref().unwrap_or("nobody");
            wrong.push(format!(
                "{client:?} to {what} {at} {proto}: {outcome}; wanted {want:?}, {by}"
            ));
        }
    }
    (cells.len(), wrong)
}

impl Client {
    pub(super) const ALL: [Self; 4] = [Self::Outside, Self::Pod, Self::Host, Self::Unhooked];

    fn of(self, cluster: &Cluster) -> (&Worker, Addresses) {
        let (lab, node) = (&cluster.lab, &cluster.lab.nodes[0]);
        match self {
            Self::Outside => (&lab.client.worker, lab.client.addresses),
            Self::Pod => (&node.pods[0].worker, node.pods[0].addresses),
            Self::Host => (&node.host, node.addresses),
            Self::Unhooked => (&node.unhooked, node.addresses),
        }
    }
}

fn cells(cluster: &Cluster, client: Client) -> Vec<Cell> {
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let mut cells = Vec::new();
    let mut add = |name: &str, number, to, want, by: Option<&str>| {
        for family in FAMILIES {
            let Some(at) = at(cluster, number, to, family) else { continue };
            for proto in PROTOS {
                let (what, by) = (format!("{to:?} of {name}"), by.map(ToOwned::to_owned));
                cells.push(Cell { what, at, proto, want, by });
            }
        }
    };
    for (name, number, policy, backend) in PLAIN {
        let by = match backend {
            Here => Some(one.pods[1].name()),
            There => Some(two.pods[0].name()),
            Nowhere => None,
        };
        for to in TOS {
            // Of the node itself, what has the second address goes by a table that knows no pods.
            if (client, to) == (Client::Unhooked, To::SecondNodePort) {
                continue;
            }
            add(name, number, to, verdict(client, to, policy, backend), by);
        }
    }
    let (name, number) = RANGED;
    let by = Some(two.pods[0].name());
    let open = verdict(client, To::NodePort, Policy::Cluster, There);
    let guarded = if client == Client::Outside { open } else { Verdict::Dropped };
    add(name, number, To::LoadBalancer, guarded, by);
    add(name, number, To::NodePort, open, by);
    cells
}

/// An address and port of a Service; none where the node has no second NIC.
fn at(cluster: &Cluster, number: u8, to: To, family: Family) -> Option<SocketAddr> {
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    Some(match to {
        To::ClusterIp => Service::new("", number).addresses.at(family, 80),
        To::NodePort => one.addresses.at(family, node_port(number)),
        To::SecondNodePort => one.second?.at(family, node_port(number)),
        To::OtherNodePort => two.addresses.at(family, node_port(number)),
        To::ExternalIp => external_address(number).at(family, 80),
        To::LoadBalancer => load_balancer_address(number).at(family, 80),
    })
}

impl Cell {
    /// What must not be answered is waited for less long; what must be is only waited for when lost.
    fn shot(&self) -> Shot {
        let timeout_ms = if self.want == Verdict::Dropped { 500 } else { 3000 };
        let (proto, to) = (self.proto, self.at);
        Shot { proto, style: UdpStyle::Connected, to, from: None, timeout_ms }
    }

    fn is_right(&self, cluster: &Cluster, got: &Outcome, client: Addresses) -> bool {
        let family = if self.at.is_ipv4() { Family::V4 } else { Family::V6 };
        let sources = match self.want {
            Verdict::Refused => return *got == Outcome::Refused,
            Verdict::Dropped => return *got == Outcome::Timeout,
            Verdict::Client => vec![client.ip(family)],
            Verdict::Node1 => node_addresses(cluster, 0, family),
            Verdict::Node2 => node_addresses(cluster, 1, family),
        };
        got.by() == self.by.as_deref() && got.source().is_some_and(|seen| sources.contains(&seen))
    }
}

/// Every address by which a node may be known to a pod, which depends on the device that leads there.
fn node_addresses(cluster: &Cluster, node: usize, family: Family) -> Vec<IpAddr> {
    let node = &cluster.lab.nodes[node];
    let towards = cluster.lab.pods().map(|pod| pod.addresses.ip(family));
    let mut all: Vec<IpAddr> = towards.map(|pod| node.address_towards(pod).unwrap()).collect();
    all.push(node.addresses.ip(family));
    all.extend(node.second.map(|second| second.ip(family)));
    all
}

/// Asks the Service with affinity several times by each of its addresses: how many cells, and which were answered by
/// more than one backend. One client after the other: all processes of a node are one client, and two that come
/// first at once may both choose.
pub(super) fn affinity(cluster: &Cluster, client: Client) -> (usize, Vec<String>) {
    let (worker, _) = client.of(cluster);
    let (mut cells, mut wrong) = (0, Vec::new());
    for to in [To::ClusterIp, To::NodePort, To::LoadBalancer] {
        for family in FAMILIES {
            for proto in PROTOS {
                let at = at(cluster, STICKY.1, to, family).expect("everybody has these");
                // One before the others, for the same reason.
                let first = worker.probe(proto, at).unwrap();
                let what = format!("{client:?} to {to:?} of sticky {at} {proto}: {first}");
                cells += 1;
                let Some(by) = first.by() else {
                    wrong.push(what);
                    continue;
                };
                let share = worker.many(proto, at, 8).unwrap();
                let same = share.by.get(by).copied().unwrap_or(0);
                // One datagram may get lost.
                if share.by.len() != 1 || same < if proto == Proto::Udp { 7 } else { 8 } {
                    wrong.push(format!("{what}, then {share:?}"));
                }
            }
        }
    }
    (cells, wrong)
}
