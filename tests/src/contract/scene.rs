//! The lab of a table: two nodes with agents, pods that serve, clients, and a gateway that answers for
//! whatever leaves the nodes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::Result;

use super::row::{From, Seen};
use crate::{
    cluster::{Cluster, Endpoint},
    lab::{Addresses, Cidr, FAMILIES, Family, Setup},
    worker::{Proto, Worker},
};

/// The port at which everybody serves who can be an endpoint.
const TARGET: u16 = 8080;

/// A lab with agents, ready for tables.
pub struct Scene {
    /// Nodes, pods, clients, agents, objects.
    pub cluster: Cluster,
    number: AtomicU16,
}

impl Scene {
    /// Pods `pod1-1` to `pod1-3` on node 1 and `pod2-1`, `pod2-2` on node 2, each serving at 8080 like
    /// the processes of both nodes; where the machine cannot hold that, says why and returns `None`.
    ///
    /// # Panics
    /// When the machine can hold it and starting fails all the same.
    pub fn start_or_skip(flags: &[&str]) -> Option<Self> {
        let setup = Setup { pods: vec![3, 2], ..Setup::default() };
        let cluster = Cluster::start_or_skip(setup, flags)?;
        let scene = Self { cluster, number: AtomicU16::new(1) };
        scene.prepare().unwrap_or_else(|error| panic!("preparing a scene: {error:#}"));
        Some(scene)
    }

    fn prepare(&self) -> Result<()> {
        let lab = &self.cluster.lab;
        for pod in lab.pods() {
            for family in FAMILIES {
                for proto in Proto::ALL {
                    pod.worker.serve(proto, pod.addresses.at(family, TARGET))?;
                }
            }
        }
        for node in &lab.nodes {
            for family in FAMILIES {
                for proto in Proto::ALL {
                    node.host.serve(proto, node.addresses.at(family, TARGET))?;
                }
            }
        }
        lab.route_services_by(0)?;
        for ip in self.second().both() {
            let length = if ip.is_ipv4() { 24 } else { 64 };
            lab.client.netns.netlink().add_address("eth0", Cidr(ip, length))?;
        }
        Ok(())
    }

    /// Lets the gateway answer, as `gateway`, for addresses and ports that a node lets go.
    pub fn beyond(&self, addresses: Addresses, ports: &[u16]) -> Result<()> {
        let underlay = &self.cluster.lab.underlay;
        for ip in addresses.both() {
            underlay.netns.netlink().add_address("br0", Cidr::host(ip))?;
        }
        for port in ports {
            for family in FAMILIES {
                for proto in Proto::ALL {
                    underlay.worker.serve(proto, addresses.at(family, *port))?;
                }
            }
        }
        Ok(())
    }

    /// The pod of this name as a ready endpoint; `node1` and `node2` are the nodes' own processes.
    ///
    /// # Panics
    /// When there is nobody of this name.
    pub fn endpoint(&self, name: &str) -> Endpoint {
        let lab = &self.cluster.lab;
        if let Some(node) = lab.nodes.iter().find(|node| node.name() == name) {
            return Endpoint::host(node);
        }
        Endpoint::pod(lab.pod(name).expect("a pod of the scene"))
    }

    /// These as ready endpoints.
    pub fn endpoints(&self, names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|name| self.endpoint(name)).collect()
    }

    /// Node 1's addresses.
    pub fn node1(&self) -> Addresses {
        self.cluster.lab.nodes[0].addresses
    }

    /// Node 2's addresses.
    pub fn node2(&self) -> Addresses {
        self.cluster.lab.nodes[1].addresses
    }

    /// The first address of the machine outside.
    pub fn outside(&self) -> Addresses {
        self.cluster.lab.client.addresses
    }

    /// Its second address.
    pub fn second(&self) -> Addresses {
        Addresses { v4: [10, 0, 0, 101].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, 0x101].into() }
    }

    /// Who asks for a kind of client, and by which address of its own.
    pub(super) fn client(&self, from: From) -> (&Worker, Addresses) {
        let [one, two] = &self.cluster.lab.nodes[..] else { unreachable!("a scene has two nodes") };
        match from {
            From::Pod => (&one.pods[0].worker, one.pods[0].addresses),
            From::Host => (&one.host, one.addresses),
            From::Unhooked => (&one.unhooked, one.addresses),
            From::Outside => (&self.cluster.lab.client.worker, self.outside()),
            From::OutsideToo => (&self.cluster.lab.client.worker, self.second()),
            From::Pod2 => (&two.pods[0].worker, two.pods[0].addresses),
            From::Host2 => (&two.host, two.addresses),
        }
    }

    /// From where a request is made, where that must not be left to the kernel.
    pub(super) fn source(&self, from: From, family: Family) -> Option<SocketAddr> {
        match from {
            // It has two addresses in each family.
            From::Outside | From::OutsideToo => {
                Some(SocketAddr::new(self.client(from).1.ip(family), 0))
            }
            // Sockets that hooks see and those that none sees talk to the same endpoints by the same
            // address. The kernel would give both the same ports, one after the other, while the node
            // still has a flow by that port for the other.
            From::Unhooked => {
                let port = 20_000 + self.next_number() % 10_000;
                Some(match family {
                    Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
                    Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
                })
            }
            From::Pod | From::Host | From::Pod2 | From::Host2 => None,
        }
    }

    /// The address that a backend must see; none where any will do.
    pub(super) fn seen(&self, seen: Seen, from: From, family: Family) -> Option<IpAddr> {
        match seen {
            Seen::Client => Some(self.client(from).1.ip(family)),
            Seen::Node1 => Some(self.node1().ip(family)),
            Seen::Node2 => Some(self.node2().ip(family)),
            Seen::Masqueraded if from.is_pod() => Some(self.client(from).1.ip(family)),
            Seen::Masqueraded => Some(self.node1().ip(family)),
            Seen::Any => None,
        }
    }

    /// A number that was not given out before.
    pub(super) fn next_number(&self) -> u16 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }
}
