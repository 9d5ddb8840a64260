//! Who reaches what, by which way, and with which source address: every cell of
//! {pod, host, host unseen by the socket hooks, outside} × {ClusterIP, NodePort of either node,
//! loopback} × {local, remote, own pod; local and remote host; outside} × {TCP, UDP, SCTP} × {v4, v6}.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::net::SocketAddr;

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Addresses, Agent, FAMILIES, Family, Network, Offloads, Setup, service_networks},
    worker::{Outcome, Proto, UdpStyle, Worker},
};

/// Where a request comes from. All but the client outside are on node 1.
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
    NodePort1,
    NodePort2,
    Loopback,
}

/// Where the only backend of the Service is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Backend {
    /// Another pod on node 1.
    Local,
    /// A pod on node 2.
    Remote,
    /// The pod that asks when a pod asks: on node 1.
    Own,
    /// A process of node 1.
    Host1,
    /// A process of node 2.
    Host2,
    /// A process on the client outside.
    Outside,
}

/// Whose address the backend must see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    Client,
    Node1,
    Node2,
    Loopback,
}

use Backend::{Host1, Host2, Local, Own, Remote};

const BACKENDS: [(Backend, &str, u8); 6] = [
    (Local, "local", 1),
    (Remote, "remote", 2),
    (Own, "own", 3),
    (Host1, "host1", 4),
    (Host2, "host2", 5),
    (Backend::Outside, "outside", 6),
];

/// The table. A node keeps the client's address wherever the reply must come back through it
/// anyway: it is the backend's own node, or the client is one of its pods. It puts its own address
/// wherever the reply would otherwise miss it.
fn seen(from: From, to: To, backend: Backend) -> Seen {
    match (from, to, backend) {
        // A pod that reaches itself must not see its own address.
        (From::Pod, To::ClusterIp | To::NodePort1, Own) => Seen::Node1,
        (From::Pod, To::ClusterIp | To::NodePort1 | To::Loopback, _) => Seen::Client,
        // A backend that is the node itself is reached through the stack, client address kept.
        (From::Outside, To::NodePort1, Host1) => Seen::Client,
        // Node 2 gets it as any traffic from outside.
        (_, To::NodePort2, Remote | Host2) => Seen::Client,
        (_, To::NodePort2, _) => Seen::Node2,
        // From loopback to the node itself nothing needs another address. The socket hooks give
        // the socket the backend's address before it has one of its own.
        (From::Unhooked, To::Loopback, Host1) => Seen::Loopback,
        (From::Host | From::Unhooked, ..) => Seen::Node1,
        (From::Outside, _, Local | Own | Host1) => Seen::Client,
        (From::Outside, ..) => Seen::Node1,
    }
}

struct Table<'a> {
    cluster: &'a Cluster,
    wrong: String,
    cells: u32,
    lost: u32,
    bridged: bool,
    /// Whether socket hooks see what host processes do.
    hooked: bool,
}

impl Table<'_> {
    fn worker(&self, from: From) -> (&Worker, Addresses) {
        let node = &self.cluster.lab.nodes[0];
        match from {
            From::Pod => (&node.pods[0].worker, node.pods[0].addresses),
            From::Host => (&node.host, node.addresses),
            From::Unhooked => (&node.unhooked, node.addresses),
            From::Outside => (&self.cluster.lab.client.worker, self.cluster.lab.client.addresses),
        }
    }

    /// Node 1's address on the device that leads to a backend.
    fn node1_towards(&self, backend: Backend) -> Addresses {
        let node = &self.cluster.lab.nodes[0];
        if self.bridged && matches!(backend, Local | Own) {
            node.bridge_addresses()
        } else {
            node.addresses
        }
    }

    fn check(&mut self, from: From, to: To, (backend, name, number): (Backend, &str, u8)) {
        let nodes = &self.cluster.lab.nodes;
        let node_port = 30000 + u16::from(number);
        for family in FAMILIES {
            let at = match to {
                To::ClusterIp => Service::new(name, number).addresses.at(family, 80),
                To::NodePort1 => nodes[0].addresses.at(family, node_port),
                To::NodePort2 => nodes[1].addresses.at(family, node_port),
                To::Loopback => loopback(family, node_port),
            };
            for (proto, style) in [
                (Proto::Tcp, UdpStyle::Connected),
                (Proto::Udp, UdpStyle::Connected),
                (Proto::Udp, UdpStyle::Unconnected),
                (Proto::Sctp, UdpStyle::Connected),
            ] {
                // Socket hooks see nothing of SCTP.
                let hooked = self.hooked && proto != Proto::Sctp;
                let as_if = if from == From::Host && !hooked { From::Unhooked } else { from };
                let source = match seen(as_if, to, backend) {
                    Seen::Loopback => {
                        let ip = |family| loopback(family, 0).ip();
                        Addresses { v4: ip(Family::V4), v6: ip(Family::V6) }
                    }
                    Seen::Client => self.worker(from).1,
                    Seen::Node1 => self.node1_towards(backend),
                    Seen::Node2 => nodes[1].addresses,
                };
                self.cells += 1;
                let (worker, _) = self.worker(from);
                // Every cell has an answer, so only a lost one takes this long. The kernel asks once
                // more for a neighbour after a second.
                let timeout = std::time::Duration::from_secs(3);
                let mut outcome = worker.probe_with(proto, style, at, None, timeout).unwrap();
                if proto == Proto::Udp && outcome == Outcome::Timeout {
                    // A datagram may get lost, by the kernel's queues too; the monitors of other
                    // tests are there to count that. One in the whole table is told, and no more.
                    println!("{from:?} to {to:?} {at} {style:?} backend {backend:?}: lost once");
                    outcome = worker.probe_with(proto, style, at, None, timeout).unwrap();
                    self.lost += 1;
                }
                let right =
                    outcome.by() == Some(name) && outcome.source() == Some(source.ip(family));
                if !right {
                    self.wrong += &format!(
                        "{from:?} to {to:?} {at} {proto} {style:?} backend {backend:?}: {outcome}; \
                         wanted {name} sees {}\n",
                        source.ip(family)
                    );
                }
            }
        }
    }
}

fn loopback(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([127, 0, 0, 1], port).into(),
        Family::V6 => ([0, 0, 0, 0, 0, 0, 0, 1], port).into(),
    }
}

fn services(cluster: &Cluster) {
    let lab = &cluster.lab;
    let [one, two] = &lab.nodes[..] else { panic!("two nodes") };
    let outside = Endpoint {
        name: "outside".to_owned(),
        addresses: lab.client.addresses,
        node: String::new(),
        condition: lb_tests::cluster::Condition::Ready,
        hints: lb_tests::cluster::Hints::default(),
    };
    for (backend, name, number) in BACKENDS {
        let port = 8080 + u16::from(number);
        let (worker, endpoint) = match backend {
            Local => (&one.pods[1].worker, Endpoint::pod(&one.pods[1])),
            Remote => (&two.pods[0].worker, Endpoint::pod(&two.pods[0])),
            Own => (&one.pods[0].worker, Endpoint::pod(&one.pods[0])),
            Host1 => (&one.host, Endpoint::host(one)),
            Host2 => (&two.host, Endpoint::host(two)),
            Backend::Outside => (&lab.client.worker, outside.clone()),
        };
        let node_port = 30000 + u16::from(number);
        let service = Service::new(name, number)
            .port("web", Proto::Tcp, 80, port, Some(node_port))
            .port("dns", Proto::Udp, 80, port, Some(node_port))
            .port("calls", Proto::Sctp, 80, port, Some(node_port));
        for family in FAMILIES {
            for proto in Proto::ALL {
                worker.serve_as(proto, endpoint.addresses.at(family, port), name).unwrap();
            }
        }
        cluster.put(&service, &[endpoint]).unwrap();
    }
    lab.route_services_by(0).unwrap();
}

/// Walks the table; `froms` says whose rows.
fn walk(setup: Setup, flags: &[&str], froms: &[From]) {
    let bridged = setup.network == Network::Bridged;
    let hooked = !flags.contains(&"--socket-lb=off");
    let Some(cluster) = Cluster::start_or_skip(setup, flags) else { return };
    services(&cluster);
    let captures: Vec<_> = ["node1", "node2"]
        .map(|device| cluster.lab.underlay.worker.capture(device).unwrap())
        .into();
    let mut table =
        Table { cluster: &cluster, wrong: String::new(), cells: 0, lost: 0, bridged, hooked };
    for from in froms {
        for to in [To::ClusterIp, To::NodePort1, To::NodePort2, To::Loopback] {
            // Loopback addresses mean the node only to its own processes.
            if to == To::Loopback && !matches!(from, From::Host | From::Unhooked) {
                continue;
            }
            for backend in BACKENDS {
                table.check(*from, to, backend);
            }
        }
    }
    println!("{} cells", table.cells);
    if !table.wrong.is_empty() || table.lost > 1 {
        let state: String = cluster.agents.iter().map(state).collect();
        panic!("{} lost; wrong cells:\n{}\n{state}", table.lost, table.wrong);
    }
    for capture in captures {
        let seen = cluster.lab.underlay.worker.end_capture(capture).unwrap();
        assert!(!seen.frames.is_empty(), "a capture that sees nothing proves nothing");
        // What a node sends arrives at its port of the bridge.
        for frame in seen.frames.iter().filter(|frame| !frame.out) {
            let vip = service_networks().into_iter().any(|net| net.contains(frame.to.ip()));
            assert!(!vip, "a cluster address left the node as a destination: {frame}");
        }
    }
}

/// What an agent's maps hold and count, for whoever has to find out why a cell is wrong.
fn state(agent: &Agent) -> String {
    let dump = agent.commands.lb(&["dump"]).and_then(|mut lb| Ok(lb.output()?));
    let dump = dump.map(|dump| String::from_utf8_lossy(&dump.stdout).into_owned());
    format!("{}: {}\n{}", agent.node(), dump.unwrap_or_default(), agent.log())
}

const ALL: [From; 4] = [From::Pod, From::Host, From::Unhooked, From::Outside];

#[test]
fn every_client_reaches_every_backend_and_the_backend_sees_the_right_address() {
    walk(Setup::default(), &["--xdp=off"], &ALL);
}

#[test]
fn the_table_holds_with_pods_on_a_bridge() {
    let setup = Setup { network: Network::Bridged, ..Setup::default() };
    walk(setup, &["--xdp=off"], &ALL);
}

#[test]
fn the_table_holds_with_checksum_offload_on_every_link() {
    let on = Offloads { tx: true, gro: true };
    let setup = Setup { wires: on, pod_links: on, ..Setup::default() };
    walk(setup, &["--xdp=off"], &ALL);
}

#[test]
fn the_table_holds_without_socket_hooks() {
    walk(Setup::default(), &["--xdp=off", "--socket-lb=off"], &[From::Host, From::Unhooked]);
}

#[test]
fn the_table_holds_with_clsact() {
    walk(Setup::default(), &["--xdp=off", "--tc=clsact"], &ALL);
}

#[test]
fn the_table_holds_with_native_xdp() {
    let wires = Offloads { tx: false, gro: true };
    let setup = Setup { wires, xdp: true, ..Setup::default() };
    walk(setup, &["--xdp=native"], &ALL);
}

#[test]
fn the_table_holds_with_generic_xdp() {
    walk(Setup::default(), &["--xdp=generic"], &ALL);
}
