//! The lab: nodes, pods and a client outside, each a network namespace, both address families.
//!
//! ```text
//!   client ──┐                       ┌── pod (eth0)
//!            ├── bridge ── eth0 node ─┤     workload device on the node
//!   gateway ─┘  (underlay)           └── pod
//! ```
//! That is the plain kind of network, in which nodes have direct routes to each other's pods; [`Network`] has the
//! others. A lab is a library value: whoever holds it may start agents and
//! workers in it; dropping it, also while a panic unwinds, removes all of it.

mod agent;
mod between;
pub(crate) mod bpf;
mod datagram;
mod machine;
pub mod netlink;
pub(crate) mod netns;
mod network;
mod node;
pub mod offload;
mod place;
mod pod;
pub(crate) mod scope;
mod support;
mod tool;
mod tun;
mod underlay;
mod wait;
mod wire;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};

pub use agent::{Agent, Commands, binary};
pub use bpf::Tagging;
pub use datagram::Datagrams;
pub use machine::Machine;
pub use netlink::Cidr;
pub use netns::Netns;
pub use network::Network;
pub use node::Node;
pub use offload::Offloads;
pub use place::Place;
pub use pod::Pod;
pub use support::{missing, start_or_skip};
pub use underlay::Underlay;
pub use wait::{PATIENCE, until};
pub use wire::Wire;

use scope::Scope;
use tun::Carrier;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One address of each family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: IpAddr,
    /// The IPv6 address.
    pub v6: IpAddr,
}

impl Addresses {
    /// The address of a family.
    pub const fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Address and port, in a family.
    pub const fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// Both addresses.
    pub const fn both(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }
}

/// What a lab is to look like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Number of pods on each node; one entry a node, at most nine nodes.
    pub pods: Vec<u8>,
    /// What joins pods, nodes and client.
    pub network: Network,
    /// Offloads of the links between nodes, client and underlay, at both ends.
    pub wires: Offloads,
    /// Whether the wires carry XDP: their far ends get what it needs of them.
    pub xdp: bool,
    /// Offloads of pod links, at both ends.
    pub pod_links: Offloads,
    /// MTU of pod links, where it is not what the network carries.
    pub pod_mtu: Option<u32>,
    /// Offloads of the client's own end, where they differ from the other wires'.
    pub client: Option<Offloads>,
    /// `rp_filter` of the nodes; 2 (loose) is what systemd sets.
    pub rp_filter: u8,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            pods: vec![2, 2],
            network: Network::Routed,
            wires: Offloads::default(),
            xdp: false,
            pod_links: Offloads::default(),
            pod_mtu: None,
            client: None,
            rp_filter: 2,
        }
    }
}

/// A running lab.
///
/// Fields drop in order: processes first, then namespaces, then what the lab owns on the machine.
pub struct Lab {
    /// The nodes, `node1` first.
    pub nodes: Vec<Node>,
    /// A machine outside, on the same link as the nodes.
    pub client: Machine,
    /// The link between all of them, and the gateway of their default routes.
    pub underlay: Underlay,
    setup: Setup,
    executable: PathBuf,
    _carriers: Vec<Carrier>,
    scope: Scope,
}

impl Lab {
    /// Builds a lab.
    pub fn start(setup: Setup) -> Result<Self> {
        let executable = executable()?;
        let scope = Scope::create()?;
        let underlay = Underlay::create(&scope, &executable, &setup)?;
        let client = Machine::client(&scope, &executable, &underlay, &setup)?;
        let numbers: Vec<(u8, u8)> = (1..).zip(setup.pods.iter().copied()).collect();
        let nodes = thread::scope(|threads| {
            let making: Vec<_> = numbers
                .iter()
                .map(|(number, _)| {
                    threads.spawn(|| Node::create(&scope, &executable, &underlay, &setup, *number))
                })
                .collect();
            making
                .into_iter()
                .map(|node| node.join().map_err(|_panic| anyhow!("making a node panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        let carriers = between::join(&nodes, setup.network)?;
        between::tell(&underlay, &client, &nodes, setup.network)?;
        let mut lab =
            Self { nodes, client, underlay, setup, executable, _carriers: carriers, scope };
        for (number, pods) in numbers {
            for _ in 0..pods {
                let _ = lab.add_pod(usize::from(number) - 1, None)?;
            }
        }
        Ok(lab)
    }

    /// Adds a pod to the node at `node` (counted from 0) and returns its place among that node's.
    /// Without a name it is called after the node: `pod1-1`.
    pub fn add_pod(&mut self, node: usize, name: Option<&str>) -> Result<usize> {
        let node = self.nodes.get_mut(node).context("no such node")?;
        node.add_pod(&self.scope, &self.executable, &self.setup, name)
    }

    /// A directory for files of this lab, removed with it.
    pub fn dir(&self) -> &Path {
        self.scope.dir()
    }

    /// Every pod, node by node.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }

    /// The pod of this name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods().find(|pod| pod.name() == name).with_context(|| format!("no pod {name}"))
    }

    /// Lets every pod serve TCP, UDP and SCTP of both families at a port.
    pub fn serve(&self, port: u16) -> Result<()> {
        self.pods().try_for_each(|pod| pod.serve(port))
    }

    /// Lets the client send packets for all addresses of Services to a node, as a router outside would
    /// that has a static route for them.
    pub fn route_services_by(&self, node: usize) -> Result<()> {
        let node = self.nodes.get(node).context("no such node")?;
        let uplink = self.setup.network.parts().uplink;
        for network in service_networks().into_iter().chain(outside_networks()) {
            if uplink.behind_gateway() {
                let (name, number) = (node.name(), node.number);
                self.underlay.route_to(network, name, number, node.addresses, uplink)?;
            } else {
                let Addresses { v4, v6 } = node.addresses;
                let via = if network.0.is_ipv4() { v4 } else { v6 };
                self.client.netns.netlink().add_route(network, Some(via), "eth0")?;
            }
        }
        Ok(())
    }

    /// What joins pods, nodes and client.
    pub const fn network(&self) -> Network {
        self.setup.network
    }
}

/// The networks of Service addresses: `10.96.0.0/16` and `fd96::/112`.
pub fn service_networks() -> [Cidr; 2] {
    [Cidr([10, 96, 0, 0].into(), 16), Cidr([0xfd96, 0, 0, 0, 0, 0, 0, 0].into(), 112)]
}

/// The networks of external IPs, `10.97.0.0/16` and `fd97::/112`, and of a load balancer's addresses,
/// `10.98.0.0/16` and `fd98::/112`: nobody has one of them, and nodes send them to their gateway.
pub fn outside_networks() -> [Cidr; 4] {
    [
        Cidr([10, 97, 0, 0].into(), 16),
        Cidr([0xfd97, 0, 0, 0, 0, 0, 0, 0].into(), 112),
        Cidr([10, 98, 0, 0].into(), 16),
        Cidr([0xfd98, 0, 0, 0, 0, 0, 0, 0].into(), 112),
    ]
}

/// `10.97.0.N` and `fd97::N` (in decimal digits): an external IP of each family.
pub fn external_address(number: u8) -> Addresses {
    numbered(97, 0xfd97, number)
}

/// `10.98.0.N` and `fd98::N` (in decimal digits): an address of a load balancer of each family.
pub fn load_balancer_address(number: u8) -> Addresses {
    numbered(98, 0xfd98, number)
}

fn numbered(second: u8, first: u16, number: u8) -> Addresses {
    let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or(0);
    Addresses { v4: [10, second, 0, number].into(), v6: [first, 0, 0, 0, 0, 0, 0, digits].into() }
}

/// The `lb-lab` binary: `LB_LAB_BIN`, the running program, or the one built beside it.
pub(crate) fn executable() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LB_LAB_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("finding the running program")?;
    if own.file_stem().is_some_and(|stem| stem == "lb-lab") {
        return Ok(own);
    }
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("lb-lab"))
        .find(|path| path.exists())
        .context("no lb-lab beside the running program: build it or name it in LB_LAB_BIN")
}
