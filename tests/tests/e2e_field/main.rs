//! What real networks do to a node: frames that are for somebody else, tags beside frames, ways to other nodes
//! that no frame can be redirected to, packets that do not fit, rules of policies, and senders that lie.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

mod flooded;
mod hops;
mod policies;
mod restarts;
mod rules;
mod sizes;
mod sources;
mod switching;
mod tags;
mod uplinks;

use std::{net::SocketAddr, time::Duration};

use lb_ebpf::host::craft::{Checksum, Craft, Transport};
use lb_tests::{
    cluster::{Cluster, Directory, Endpoint, Service},
    lab::{Agent, Offloads, Pod, Setup, start_or_skip},
    worker::{Outcome, Proto, UdpStyle, Worker},
};
use serde_json::Value;

/// The port by which pods serve, and the port of every node by which the Service does.
const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30080;

/// What balances.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// Rules for nftables, written by hand and with no agent: what can be expected of any proxy.
    Rules,
    /// Agents without XDP.
    Tc,
    /// The same, with everything by the stack.
    Stack,
    /// Agents with XDP in the drivers.
    Xdp,
}

impl By {
    const ALL: [Self; 4] = [Self::Rules, Self::Tc, Self::Stack, Self::Xdp];

    /// The setup whose wires carry it.
    fn setup(self, setup: Setup) -> Setup {
        match self {
            Self::Rules | Self::Tc | Self::Stack => setup,
            Self::Xdp => Setup { wires: Offloads { tx: false, gro: true }, xdp: true, ..setup },
        }
    }
}

/// A cluster whose pods serve, and a client that sends what is for Services to node 1.
fn start(setup: Setup, by: By) -> Option<Cluster> {
    let setup = by.setup(setup);
    let cluster = match by {
        By::Rules => {
            let lab = start_or_skip(setup)?;
            let directory = Directory::create(lab.dir().join("objects")).unwrap();
            Cluster { agents: Vec::new(), directory, lab }
        }
        By::Tc => Cluster::start_or_skip(setup, &["--xdp=off"])?,
        By::Stack => Cluster::start_or_skip(setup, &["--xdp=off", "--forward=stack"])?,
        By::Xdp => Cluster::start_or_skip(setup, &["--xdp=native"])?,
    };
    cluster.lab.serve(TARGET).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    Some(cluster)
}

/// The Service `web`: every kind of address, TCP and UDP.
fn web() -> Service {
    Service::new("web", 20).exposed(20).port("tcp", Proto::Tcp, 80, TARGET, Some(NODE_PORT)).port(
        "udp",
        Proto::Udp,
        80,
        TARGET,
        Some(NODE_PORT),
    )
}

/// Gives `web` this pod as its only endpoint.
fn put(cluster: &Cluster, service: &Service, pod: &Pod) {
    cluster.put(service, &[Endpoint::pod(pod)]).unwrap();
    if cluster.agents.is_empty() {
        rules::put(&cluster.lab, service, pod);
    }
}

/// One request that has an answer, or is lost.
fn ask(client: &Worker, proto: Proto, at: SocketAddr) -> Outcome {
    client.probe_with(proto, UdpStyle::Connected, at, None, Duration::from_secs(3)).unwrap()
}

/// The transport header of a first packet of TCP.
const SYN: Transport = Transport::Tcp { flags: 2, seq: 7, ack: 0, options: Vec::new() };

/// A packet as an Ethernet frame whose addresses are still to be set.
fn packet(from: SocketAddr, to: SocketAddr, transport: &Transport) -> Craft {
    Craft {
        eth: [[0; 6]; 2],
        vlan: None,
        src: from.ip(),
        dst: to.ip(),
        sport: from.port(),
        dport: to.port(),
        hop_limit: 64,
        options: Vec::new(),
        fragment: 0x4000,
        extensions: Vec::new(),
        transport: transport.clone(),
        payload: if *transport == Transport::Udp { b"1".to_vec() } else { Vec::new() },
        checksum: Checksum::Complete,
    }
}

/// The flows of a node, a line each.
fn flows(agent: &Agent) -> Vec<String> {
    let flows = agent.commands.json(&["flows", "--limit", "0"]).unwrap();
    let rows = flows.as_array().or_else(|| flows["rows"].as_array()).unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let line = |row| {
        let [from, to] = ["source", "destination"].map(|name| text(row, name));
        let [new_from, new_to] = ["new_source", "new_destination"].map(|name| text(row, name));
        let (program, proto) = (text(row, "program"), text(row, "protocol"));
        format!("{program} {proto} {from} > {to} becomes {new_from} > {new_to}")
    };
    rows.iter().map(line).collect()
}

/// The flows of node 1; none where no agent runs.
fn flows_of_first(cluster: &Cluster) -> Vec<String> {
    cluster.agents.first().map(flows).unwrap_or_default()
}
