//! A pod: a namespace joined to its node by a veth pair and host routes, as Calico does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use anyhow::Result;

use super::{
    Addresses, Cidr, FAMILIES, Offloads, netlink::End, netns::Netns, offload, place::Place,
    scope::Scope, underlay::mac,
};
use crate::worker::{Proto, Worker};

/// The pod's IPv4 gateway: no machine has it, the node answers for it by proxy ARP.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The pod's IPv6 gateway: the node's end of the link.
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
        offloads: Offloads,
    ) -> Result<Self> {
        let netns = Netns::create(&scope.netns_name(name))?;
        let device = format!("veth{node_number:02x}{number:02x}a5ce");
        let here = End { name: &device, mac: mac(16 + node_number, number, 0) };
        let there = End { name: "eth0", mac: mac(16 + node_number, number, 1) };
        node.netlink().veth(&here, &there, netns.as_fd())?;
        node.run(|| offload::set(&device, offloads))?;
        netns.run(|| offload::set("eth0", offloads))?;
        node.sysctl(&[
            (&format!("ipv4/conf/{device}/proxy_arp"), "1"),
            // Without this the kernel answers for the gateway after a random delay.
            (&format!("ipv4/neigh/{device}/proxy_delay"), "0"),
        ])?;
        node.netlink().add_address(&device, Cidr(GATEWAY_V6, 64))?;
        node.netlink().up(&device)?;
        netns.netlink().up("eth0")?;

        let addresses = Addresses {
            v4: [10, 244, node_number, 10 + number].into(),
            v6: {
                let digits = u16::from_str_radix(&(10 + number).to_string(), 16).unwrap_or(0);
                [0xfd44, 0, 0, u16::from(node_number), 0, 0, 0, digits].into()
            },
        };
        for ip in addresses.both() {
            netns.netlink().add_address("eth0", Cidr::host(ip))?;
            node.netlink().add_route(Cidr::host(ip), None, &device)?;
        }
        netns.netlink().add_route(Cidr::host(GATEWAY_V4), None, "eth0")?;
        for gateway in [GATEWAY_V4, GATEWAY_V6] {
            netns.netlink().add_route(Cidr::any(gateway), Some(gateway), "eth0")?;
        }

        let place = Place::new(&netns, cgroup)?;
        let worker = Worker::start(executable, &place, name)?;
        Ok(Self { worker, place, netns, addresses, device, node: format!("node{node_number}") })
    }

    /// Serves TCP and UDP of both families at a port, answering with the pod's name.
    pub fn serve(&self, port: u16) -> Result<()> {
        for family in FAMILIES {
            for proto in [Proto::Tcp, Proto::Udp] {
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
