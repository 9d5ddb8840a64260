//! The contract in short over every kind of network: {outside, pod, host process, host process unseen by the socket
//! hooks} × {ClusterIP, NodePort of the client's node and of the other, external IP, load balancer's address} ×
//! {backend on the client's node, on the other, nowhere} × traffic policies × {TCP, UDP} × family, session affinity,
//! and source ranges; with tc, with everything by the stack, and with XDP where there are frames.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

mod table;

use std::thread;

use lb_tests::{
    cluster::Cluster,
    lab::{Agent, Network, Offloads, Setup, service_networks},
};

use table::{Client, affinity, check, put};

/// How agents work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Tc,
    Stack,
    Xdp,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Tc, Self::Stack, Self::Xdp];

    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Tc => &["--xdp=off"],
            Self::Stack => &["--xdp=off", "--forward=stack"],
            Self::Xdp => &["--xdp=native"],
        }
    }

    fn setup(self, network: Network) -> Setup {
        let setup = Setup { network, ..Setup::default() };
        match self {
            Self::Tc | Self::Stack => setup,
            Self::Xdp => Setup { wires: Offloads { tx: false, gro: true }, xdp: true, ..setup },
        }
    }
}

/// Walks the table over a kind of network, in every mode, and tells all that is wrong.
fn holds(network: Network) {
    let mut wrong = String::new();
    for mode in Mode::ALL {
        if mode == Mode::Xdp && !network.has_ethernet() {
            continue;
        }
        let Some(cluster) = Cluster::start_or_skip(mode.setup(network), mode.flags()) else {
            return;
        };
        cluster.lab.serve(table::TARGET).unwrap();
        cluster.lab.route_services_by(0).unwrap();
        put(&cluster);
        let (cells, found) = walk(&cluster);
        println!("{network:?} {mode:?}: {cells} cells, {} wrong", found.len());
        for line in &found {
            wrong += &format!("{network:?} {mode:?}: {line}\n");
        }
        if !found.is_empty() {
            wrong += &cluster.agents.iter().map(devices).collect::<String>();
        }
    }
    assert!(wrong.is_empty(), "wrong cells:\n{wrong}");
}

/// The clients side by side, and then one after the other for session affinity: how many cells they have, and what is wrong of them. What nodes send meanwhile is
/// looked at where it arrives.
fn walk(cluster: &Cluster) -> (usize, Vec<String>) {
    let gateway = &cluster.lab.underlay.worker;
    let captures = ["node1", "node2"].map(|device| gateway.capture(device).unwrap());
    let mut done: Vec<(usize, Vec<String>)> = thread::scope(|threads| {
        let walking = Client::ALL.map(|client| threads.spawn(move || check(cluster, client)));
        walking.into_iter().map(|row| row.join().unwrap()).collect()
    });
    done.extend(Client::ALL.map(|client| affinity(cluster, client)));
    let cells = done.iter().map(|(cells, _)| cells).sum();
    let mut wrong: Vec<String> = done.into_iter().flat_map(|(_, wrong)| wrong).collect();
    for capture in captures {
        let seen = gateway.end_capture(capture).unwrap();
        assert!(!seen.frames.is_empty(), "a capture that sees nothing proves nothing");
        let of_services = |ip| service_networks().into_iter().any(|network| network.contains(ip));
        let mut leaked =
            seen.frames.iter().filter(|frame| !frame.out && of_services(frame.to.ip()));
        wrong.extend(leaked.next().map(|frame| format!("a cluster address left a node: {frame}")));
    }
    (cells, wrong)
}

/// What an agent takes the node's devices to be, for whoever has to find out why a cell is wrong.
fn devices(agent: &Agent) -> String {
    let status = agent.status().map(|status| status["devices"].to_string());
    format!("{}: {}\n", agent.node(), status.unwrap_or_default())
}

#[test]
fn the_contract_holds_with_routed_pods() {
    holds(Network::Routed);
}

#[test]
fn the_contract_holds_with_a_bridge_on_each_node() {
    holds(Network::Bridged);
}

#[test]
fn the_contract_holds_in_a_flat_network_of_bridges_and_vxlan_ports() {
    holds(Network::Flat);
}

#[test]
fn the_contract_holds_over_vxlan() {
    holds(Network::Vxlan);
}

#[test]
fn the_contract_holds_over_an_overlay_without_ethernet_header() {
    holds(Network::Tun);
}

#[test]
fn the_contract_holds_with_pods_whose_links_have_no_ethernet_header() {
    holds(Network::TunPods);
}

#[test]
fn the_contract_holds_with_an_uplink_without_ethernet_header() {
    holds(Network::TunUplink);
}

#[test]
fn the_contract_holds_with_an_unnumbered_uplink() {
    holds(Network::Unnumbered);
}

#[test]
fn the_contract_holds_with_two_nics_and_source_rules() {
    holds(Network::TwoNics);
}

#[test]
fn the_contract_holds_with_everybody_on_the_bridge_of_the_uplink() {
    holds(Network::UplinkBridge);
}
