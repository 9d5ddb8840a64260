//! A pod: a namespace joined to its node by a veth pair, and by routes or a bridge.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use anyhow::Result;

use super::{
    Addresses, Cidr, FAMILIES, PodNetwork, Setup, netlink::End, netns::Netns, offload,
    place::Place, scope::Scope, underlay::mac,
};
use crate::worker::{Proto, Worker};

/// The bridge of a node whose pods are bridged.
pub(super) const BRIDGE: &str = "cni0";
/// A routed pod's IPv4 gateway: no machine has it, the node answers for it by proxy ARP.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// A routed pod's IPv6 gateway: the node's end of the link.
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// A pod of the lab.
pub struct Pod {
    /// Its process.
    pub worker: Worker,
    /// Where further processes of the pod start.
    pub place: Place,
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses on `eth0`.
    pub addresses: Addresses,
    /// The node's end of its link.
    pub device: String,
    /// Name of its node.
    pub node: String,
}

impl Pod {
    pub(super) fn create(
        scope: &Scope,
        executable: &Path,
        node: &Netns,
        cgroup: &Path,
        name: &str,
        (node_number, number): (u8, u8),
        setup: &Setup,
    ) -> Result<Self> {
        let netns = Netns::create(&scope.netns_name(name))?;
        let device = format!("veth{node_number:02x}{number:02x}a5ce");
        let here = End { name: &device, mac: mac(16 + node_number, number, 0) };
        let there = End { name: "eth0", mac: mac(16 + node_number, number, 1) };
        node.netlink().veth(&here, &there, netns.as_fd())?;
        node.run(|| offload::set(&device, setup.pod_links))?;
        netns.run(|| offload::set("eth0", setup.pod_links))?;
        node.netlink().up(&device)?;
        netns.netlink().up("eth0")?;
        let addresses = addresses(node_number, 10 + number);
        match setup.pod_network {
            PodNetwork::Routed => route(node, &netns, &device, addresses)?,
            PodNetwork::Bridged => bridge(node, &netns, &device, addresses, node_number)?,
        }

        let place = Place::new(&netns, cgroup)?;
        let worker = Worker::start(executable, &place, name)?;
        Ok(Self { worker, place, netns, addresses, device, node: format!("node{node_number}") })
    }

    /// Serves TCP, UDP and SCTP of both families at a port, answering with the pod's name.
    pub fn serve(&self, port: u16) -> Result<()> {
        for family in FAMILIES {
            for proto in Proto::ALL {
                self.worker.serve(proto, self.addresses.at(family, port))?;
            }
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.worker.name()
    }
}

/// Address `number` of a node's pod networks, in decimal digits also in IPv6.
fn addresses(node: u8, number: u8) -> Addresses {
    let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or(0);
    Addresses {
        v4: [10, 244, node, number].into(),
        v6: [0xfd44, 0, 0, u16::from(node), 0, 0, 0, digits].into(),
    }
}

/// Addresses of a node on the bridge of its pods.
pub(super) fn gateway(node: u8) -> Addresses {
    addresses(node, 1)
}

fn route(node: &Netns, pod: &Netns, device: &str, addresses: Addresses) -> Result<()> {
    node.sysctl(&[
        (&format!("ipv4/conf/{device}/proxy_arp"), "1"),
        // Without this the kernel answers for the gateway after a random delay.
        (&format!("ipv4/neigh/{device}/proxy_delay"), "0"),
    ])?;
    node.netlink().add_address(device, Cidr(GATEWAY_V6, 64))?;
    for ip in addresses.both() {
        pod.netlink().add_address("eth0", Cidr::host(ip))?;
        node.netlink().add_route(Cidr::host(ip), None, device)?;
    }
    pod.netlink().add_route(Cidr::host(GATEWAY_V4), None, "eth0")?;
    for gateway in [GATEWAY_V4, GATEWAY_V6] {
        pod.netlink().add_route(Cidr::any(gateway), Some(gateway), "eth0")?;
    }
    Ok(())
}

fn bridge(node: &Netns, pod: &Netns, device: &str, addresses: Addresses, number: u8) -> Result<()> {
    node.netlink().enslave(device, BRIDGE)?;
    for (ip, length) in addresses.both().into_iter().zip([24, 64]) {
        pod.netlink().add_address("eth0", Cidr(ip, length))?;
    }
    for gateway in gateway(number).both() {
        pod.netlink().add_route(Cidr::any(gateway), Some(gateway), "eth0")?;
    }
    Ok(())
}
