//! The core matrix of traffic policies, every cell of {pod, host process, host process unseen by the
//! socket hooks, client outside} × {ClusterIP, NodePort of the client's node and of the other one,
//! external IP, load balancer's address} × {internal, external policy: Cluster, Local} × {backend on the
//! client's node, on the other node, nowhere} × protocol × family: the verdict, who answers, and which
//! source address the backend sees.
//!
//! M-1 to M-12, TP-1 to TP-4, TP-9 to TP-11, NE-6 to NE-8, B4, B20.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{net::SocketAddr, thread, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Policy, Service},
    lab::{
        Addresses, Agent, FAMILIES, Family, Offloads, Setup, external_address,
        load_balancer_address,
    },
    worker::{Outcome, Proto, UdpStyle, Worker},
};

/// Where a request comes from. All but the client outside are on node 1, and the client's packets for
/// addresses that no machine has come to node 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum From {
    Pod,
    Host,
    Unhooked,
    Outside,
}

/// What it is addressed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum To {
    ClusterIp,
    /// Of node 1.
    NodePort,
    /// Of node 2.
    OtherNodePort,
    ExternalIp,
    LoadBalancer,
}

/// Where the only backend is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Backend {
    /// A pod of node 1, another than the one that asks.
    Here,
    /// A pod of node 2.
    There,
    Nowhere,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// The backend answers and sees the client's own address.
    Client,
    /// The backend answers and sees an address of node 1.
    Node1,
    /// The backend answers and sees an address of node 2.
    Node2,
    /// Refused at once.
    Refused,
    /// Nothing comes back.
    Dropped,
}

use Backend::{Here, Nowhere, There};
use Policy::{Cluster as Anywhere, Local};

const FROMS: [From; 4] = [From::Pod, From::Host, From::Unhooked, From::Outside];
const TOS: [To; 5] =
    [To::ClusterIp, To::NodePort, To::OtherNodePort, To::ExternalIp, To::LoadBalancer];
const BACKENDS: [Backend; 3] = [Here, There, Nowhere];
const POLICIES: [(Policy, Policy); 4] =
    [(Anywhere, Anywhere), (Anywhere, Local), (Local, Anywhere), (Local, Local)];

/// The matrix. Where a backend is on the node that a client outside reaches, it sees the client whatever
/// the policy: there is nothing that an address of the node would be good for.
fn verdict(
    from: From,
    to: To,
    (internal, external): (Policy, Policy),
    backend: Backend,
) -> Verdict {
    if backend == Nowhere {
        return Verdict::Refused;
    }
    match (to, from, backend) {
        (To::ClusterIp, _, There) if internal == Local => Verdict::Dropped,
        (To::ClusterIp, From::Pod, _) => Verdict::Client,
        (To::ClusterIp, From::Host | From::Unhooked, _) => Verdict::Node1,
        // Node 2 cannot know from whom it gets a packet: pods and processes of node 1 come from outside.
        (To::OtherNodePort, _, There) => Verdict::Client,
        (To::OtherNodePort, _, _) if external == Local => Verdict::Dropped,
        (To::OtherNodePort, ..) => Verdict::Node2,
        // Inside a node both policies are short-circuited, and a pod keeps its address.
        (_, From::Pod, _) => Verdict::Client,
        (_, From::Host | From::Unhooked, _) => Verdict::Node1,
        (_, From::Outside, Here) => Verdict::Client,
        (_, From::Outside, _) if to != To::ClusterIp && external == Local => Verdict::Dropped,
        (_, From::Outside, _) => Verdict::Node1,
    }
}

/// The Services: one for each pair of policies and place of the backend.
fn services(protos: &[Proto]) -> Vec<(Service, (Policy, Policy), Backend)> {
    let pairs = POLICIES.iter().flat_map(|pair| BACKENDS.map(|backend| (*pair, backend)));
    (1..)
        .zip(pairs)
        .map(|(number, ((internal, external), backend))| {
            let name = format!("s{number}");
            let mut service =
                Service::new(&name, number).exposed(number).policies(internal, external);
            for proto in protos {
                let name = proto.name().to_lowercase();
                let node_port = Some(30000 + u16::from(number));
                service = service.port(&name, *proto, 80, 8080, node_port);
            }
            (service, (internal, external), backend)
        })
        .collect()
}

fn endpoints(cluster: &Cluster, backend: Backend) -> Vec<Endpoint> {
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    match backend {
        Here => vec![Endpoint::pod(&one.pods[1])],
        There => vec![Endpoint::pod(&two.pods[0])],
        Nowhere => Vec::new(),
    }
}

/// One client and its rows.
struct Row<'a> {
    cluster: &'a Cluster,
    from: From,
    cells: u32,
    lost: u32,
    wrong: String,
}

impl<'a> Row<'a> {
    fn new(cluster: &'a Cluster, from: From) -> Self {
        Self { cluster, from, cells: 0, lost: 0, wrong: String::new() }
    }

    fn client(&self) -> (&'a Worker, Addresses) {
        let node = &self.cluster.lab.nodes[0];
        match self.from {
            From::Pod => (&node.pods[0].worker, node.pods[0].addresses),
            From::Host => (&node.host, node.addresses),
            From::Unhooked => (&node.unhooked, node.addresses),
            From::Outside => (&self.cluster.lab.client.worker, self.cluster.lab.client.addresses),
        }
    }

    fn check(&mut self, service: &Service, policies: (Policy, Policy), backend: Backend) {
        let nodes = &self.cluster.lab.nodes;
        let number = u8::try_from(service.ports[0].node_port.unwrap() - 30000).unwrap();
        for to in TOS {
            let want = verdict(self.from, to, policies, backend);
            for family in FAMILIES {
                let at = match to {
                    To::ClusterIp => service.addresses.at(family, 80),
                    To::NodePort => nodes[0].addresses.at(family, 30000 + u16::from(number)),
                    To::OtherNodePort => nodes[1].addresses.at(family, 30000 + u16::from(number)),
                    To::ExternalIp => external_address(number).at(family, 80),
                    To::LoadBalancer => load_balancer_address(number).at(family, 80),
                };
                for port in &service.ports {
                    let got = self.ask(port.proto, at, want);
                    self.cells += 1;
                    if !self.is_right(&got, want, backend, family) {
                        self.wrong += &format!(
                            "{:?} to {to:?} {at} {} internal {:?} external {:?} backend {backend:?}: \
                             {got}; wanted {want:?}\n",
                            self.from, port.proto, policies.0, policies.1
                        );
                    }
                }
            }
        }
    }

    fn ask(&mut self, proto: Proto, at: SocketAddr, want: Verdict) -> Outcome {
        // What must not be answered is waited for less long; what must be is only waited for when lost.
        let wait = if want == Verdict::Dropped { 500 } else { 3000 };
        let timeout = Duration::from_millis(wait);
        let (worker, _) = self.client();
        let probe = || worker.probe_with(proto, UdpStyle::Connected, at, None, timeout).unwrap();
        let outcome = probe();
        if proto != Proto::Tcp && want != Verdict::Dropped && outcome == Outcome::Timeout {
            // A datagram may get lost, by the kernel's queues too: one is told, and no more.
            println!("{:?} to {at} {proto}: lost once", self.from);
            self.lost += 1;
            return probe();
        }
        outcome
    }

    fn is_right(&self, got: &Outcome, want: Verdict, backend: Backend, family: Family) -> bool {
        let nodes = &self.cluster.lab.nodes;
        let source = match want {
            Verdict::Refused => return *got == Outcome::Refused,
            Verdict::Dropped => return *got == Outcome::Timeout,
            Verdict::Client => self.client().1,
            Verdict::Node1 => nodes[0].addresses,
            Verdict::Node2 => nodes[1].addresses,
        };
        let by = endpoints(self.cluster, backend).pop().map(|endpoint| endpoint.name);
        got.by() == by.as_deref() && got.source() == Some(source.ip(family))
    }
}

/// Walks the whole matrix, the clients side by side.
fn walk(cluster: &Cluster, services: &[(Service, (Policy, Policy), Backend)], froms: &[From]) {
    let rows: Vec<Row<'_>> = thread::scope(|threads| {
        let walking: Vec<_> = froms
            .iter()
            .map(|from| {
                threads.spawn(move || {
                    let mut row = Row::new(cluster, *from);
                    for (service, policies, backend) in services {
                        row.check(service, *policies, *backend);
                    }
                    row
                })
            })
            .collect();
        walking.into_iter().map(|row| row.join().unwrap()).collect()
    });
    let cells: u32 = rows.iter().map(|row| row.cells).sum();
    let lost: u32 = rows.iter().map(|row| row.lost).sum();
    let wrong: String = rows.iter().map(|row| row.wrong.as_str()).collect();
    println!("{cells} cells");
    if !wrong.is_empty() || lost > 1 {
        let state: String = cluster.agents.iter().map(state).collect();
        let count = wrong.lines().count();
        panic!("{lost} lost; {count} of {cells} cells wrong:\n{wrong}\n{state}");
    }
}

/// What an agent's maps hold and count, for whoever has to find out why a cell is wrong.
fn state(agent: &Agent) -> String {
    let dump = agent.commands.lb(&["dump"]).and_then(|mut lb| Ok(lb.output()?));
    let dump = dump.map(|dump| String::from_utf8_lossy(&dump.stdout).into_owned());
    format!("{}: {}\n{}", agent.node(), dump.unwrap_or_default(), agent.log())
}

const PROTOS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];

/// Writes Services and then their endpoints, in the order given, and waits for all of them.
fn put<'a>(
    cluster: &Cluster,
    services: impl Iterator<Item = &'a (Service, (Policy, Policy), Backend)> + Clone,
) {
    for (service, ..) in services.clone() {
        cluster.directory.put_service(service).unwrap();
    }
    for (service, _, backend) in services.clone() {
        cluster.directory.put_endpoints(service, &endpoints(cluster, *backend)).unwrap();
    }
    for (service, _, backend) in services {
        cluster.settle(service, &endpoints(cluster, *backend)).unwrap();
    }
}

/// The matrix with objects that arrive one after the other, then in the opposite order, then after the
/// agents were killed and started again.
fn matrix(setup: Setup, flags: &[&str], froms: &[From]) {
    let Some(mut cluster) = Cluster::start_or_skip(setup, flags) else { return };
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    let services = services(&PROTOS);
    put(&cluster, services.iter());
    walk(&cluster, &services, froms);
    for (service, ..) in &services {
        cluster.directory.delete(service).unwrap();
    }
    put(&cluster, services.iter().rev());
    for agent in &mut cluster.agents {
        agent.restart().unwrap();
    }
    walk(&cluster, &services, froms);
}

#[test]
fn every_cell_of_the_policy_matrix_is_right() {
    matrix(Setup::default(), &["--xdp=off"], &FROMS);
}

#[test]
fn the_policy_matrix_holds_without_socket_hooks() {
    matrix(Setup::default(), &["--xdp=off", "--socket-lb=off"], &[From::Host]);
}

#[test]
fn the_policy_matrix_holds_with_native_xdp() {
    let wires = Offloads { tx: false, gro: true };
    let setup = Setup { wires, xdp: true, ..Setup::default() };
    matrix(setup, &["--xdp=native"], &[From::Outside]);
}
