//! A pod: a namespace joined to its node by a veth pair, and by routes or a bridge.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use anyhow::Result;

use super::{
    Addresses, Cidr, FAMILIES, Setup,
    netlink::End,
    netns::Netns,
    network::{Pods, Uplink},
    offload,
    place::Place,
    scope::Scope,
    tun::Carrier,
    underlay::{digits, mac, underlay_addresses},
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
    /// Who carries the packets of its link, where a thread must.
    _carrier: Option<Carrier>,
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
        let pods = setup.network.parts().pods;
        let carrier = if pods == Pods::Tun {
            Some(Carrier::wire((node, &device), (&netns, "eth0"))?)
        } else {
            let here = End { name: &device, mac: mac(16 + node_number, number, 0) };
            let there = End { name: "eth0", mac: mac(16 + node_number, number, 1) };
            node.netlink().veth(&here, &there, netns.as_fd())?;
            node.run(|| offload::set(&device, setup.pod_links))?;
            netns.run(|| offload::set("eth0", setup.pod_links))?;
            None
        };
        let mtu = setup.pod_mtu.unwrap_or(setup.network.pod_mtu());
        for (netns, device) in [(node, device.as_str()), (&netns, "eth0")] {
            netns.netlink().set_mtu(device, mtu)?;
            netns.netlink().up(device)?;
        }
        let addresses = addresses(pods, node_number, number);
        match pods {
            Pods::Routes => route(node, &netns, &device, addresses)?,
            Pods::Tun => wire(node, &netns, &device, addresses)?,
            Pods::Bridge | Pods::Flat | Pods::Uplink => {
                bridge(node, &netns, &device, addresses, (pods, node_number))?;
            }
        }

        let place = Place::new(&netns, cgroup)?;
        let worker = Worker::start(executable, &place, name)?;
        let node = format!("node{node_number}");
        Ok(Self { worker, place, netns, addresses, device, node, _carrier: carrier })
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

/// Addresses of a node's pod `number`, counted from 1.
fn addresses(pods: Pods, node: u8, number: u8) -> Addresses {
    match pods {
        // Up to nine pods a node, below the client's number.
        Pods::Uplink => underlay_addresses(10 * node + number),
        Pods::Routes | Pods::Tun | Pods::Bridge | Pods::Flat => numbered(pods, node, 10 + number),
    }
}

/// Address `number` of a node's pod networks, in decimal digits also in IPv6.
fn numbered(pods: Pods, node: u8, number: u8) -> Addresses {
    let (second, first) = if pods == Pods::Flat { (32, 0xfd32) } else { (244, 0xfd44) };
    Addresses {
        v4: [10, second, node, number].into(),
        v6: [first, 0, 0, u16::from(node), 0, 0, 0, digits(number)].into(),
    }
}

/// The networks of a node's pods, without their lengths.
pub(super) fn network(pods: Pods, node: u8) -> Addresses {
    match pods {
        Pods::Uplink => underlay_addresses(0),
        Pods::Routes | Pods::Tun | Pods::Bridge | Pods::Flat => numbered(pods, node, 0),
    }
}

/// Addresses of a node on the bridge of its pods.
pub(super) fn gateway(pods: Pods, node: u8) -> Addresses {
    match pods {
        Pods::Uplink => underlay_addresses(node),
        Pods::Routes | Pods::Tun | Pods::Bridge | Pods::Flat => numbered(pods, node, 1),
    }
}

/// How long the prefixes are that bridged pods take to be on the link.
pub(super) const fn lengths(pods: Pods) -> [u8; 2] {
    if matches!(pods, Pods::Flat) { [16, 48] } else { [24, 64] }
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

/// Both ends of a link that has no neighbours, only another end.
fn wire(node: &Netns, pod: &Netns, device: &str, addresses: Addresses) -> Result<()> {
    for ip in addresses.both() {
        pod.netlink().add_address("eth0", Cidr::host(ip))?;
        pod.netlink().add_route(Cidr::any(ip), None, "eth0")?;
        node.netlink().add_route(Cidr::host(ip), None, device)?;
    }
    Ok(())
}

fn bridge(
    node: &Netns,
    pod: &Netns,
    device: &str,
    addresses: Addresses,
    (pods, number): (Pods, u8),
) -> Result<()> {
    let bridge = if pods == Pods::Uplink { Uplink::Bridge.device() } else { BRIDGE };
    node.netlink().enslave(device, bridge)?;
    for (ip, length) in addresses.both().into_iter().zip(lengths(pods)) {
        pod.netlink().add_address("eth0", Cidr(ip, length))?;
    }
    for gateway in gateway(pods, number).both() {
        pod.netlink().add_route(Cidr::any(gateway), Some(gateway), "eth0")?;
    }
    Ok(())
}
