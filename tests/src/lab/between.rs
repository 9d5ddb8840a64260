//! The ways from the pods of one node to those of another.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::{
    Cidr, Node, Underlay,
    network::{Between, Network, Pods, TUN_MTU, Uplink, VXLAN_MTU},
    pod,
    tun::Carrier,
    underlay::mac,
};

/// The vxlan device of a node.
const VXLAN: &str = "vx0";
/// The tun device of a node that leads to the others.
const TUN: &str = "tun1";
/// The UDP port of the vxlan devices.
const VXLAN_PORT: u16 = 8472;
/// The UDP port by which the packets of tun devices travel.
const TUN_PORT: u16 = 51_820;
/// The number that marks the addresses of vxlan devices.
const KIND: u8 = 14;

/// Lets the pods of every node reach those of the others, and returns who has to live for that.
pub(super) fn join(nodes: &[Node], network: Network) -> Result<Vec<Carrier>> {
    let parts = network.parts();
    let mut carriers = Vec::new();
    for node in nodes {
        match parts.between {
            Between::Underlay => {}
            Between::Vxlan => routed_vxlan(node, nodes)?,
            Between::Port => vxlan_port(node, nodes)?,
            Between::Tun => carriers.push(tun(node, nodes)?),
        }
        for other in others(node, nodes) {
            for (to, via) in other.pod_networks().into_iter().zip(other.addresses.both()) {
                let end = if to.0.is_ipv4() { end(other).v4 } else { end(other).v6 };
                let netlink = node.netns.netlink();
                match (parts.between, parts.uplink) {
                    (Between::Underlay, Uplink::Nic | Uplink::TwoNics) => {
                        netlink.add_route(to, Some(via), "eth0")?;
                    }
                    (Between::Vxlan, _) => netlink.add_route(to, Some(end), VXLAN)?,
                    (Between::Tun, _) => netlink.add_route(to, None, TUN)?,
                    // On the link, or by the default route.
                    (Between::Port, _)
                    | (Between::Underlay, Uplink::Bridge | Uplink::Tun | Uplink::Unnumbered) => {}
                }
            }
        }
    }
    Ok(carriers)
}

/// Tells the gateway, and the client where it does not ask the gateway, the way to every node's pods.
pub(super) fn tell(
    underlay: &Underlay,
    client: &super::Machine,
    nodes: &[Node],
    network: Network,
) -> Result<()> {
    let parts = network.parts();
    if parts.pods == Pods::Uplink {
        return Ok(());
    }
    for node in nodes {
        for (to, via) in node.pod_networks().into_iter().zip(node.addresses.both()) {
            underlay.route_to(to, node.name(), node.number, node.addresses, parts.uplink)?;
            if !parts.uplink.behind_gateway() {
                client.netns.netlink().add_route(to, Some(via), "eth0")?;
            }
        }
    }
    Ok(())
}

/// As flannel does it: everything is written down, nothing is learned or asked for.
fn routed_vxlan(node: &Node, nodes: &[Node]) -> Result<()> {
    let netlink = node.netns.netlink();
    vxlan(node, "nolearning")?;
    for ip in end(node).both() {
        netlink.add_address(VXLAN, Cidr::host(ip))?;
    }
    netlink.up(VXLAN)?;
    for other in others(node, nodes) {
        let theirs = mac(KIND, other.number, 0);
        for ip in end(other).both() {
            netlink.add_neighbour(VXLAN, ip, theirs)?;
        }
        forward(node, theirs, other)?;
    }
    Ok(())
}

/// A port of the pods' bridge that floods to all other nodes and learns.
fn vxlan_port(node: &Node, nodes: &[Node]) -> Result<()> {
    vxlan(node, "learning")?;
    node.netns.netlink().enslave(VXLAN, pod::BRIDGE)?;
    node.netns.netlink().up(VXLAN)?;
    others(node, nodes).try_for_each(|other| forward(node, [0; 6], other))
}

fn vxlan(node: &Node, learning: &str) -> Result<()> {
    let (local, [a, b, c, d, e, f]) = (node.addresses.v4, mac(KIND, node.number, 0));
    node.netns.ip(&format!(
        "link add {VXLAN} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {VXLAN_MTU} \
         type vxlan id 1 local {local} dstport {VXLAN_PORT} dev eth0 {learning}"
    ))
}

/// Tells the vxlan device behind which node an Ethernet address is.
fn forward(node: &Node, [a, b, c, d, e, f]: [u8; 6], other: &Node) -> Result<()> {
    let words = format!(
        "fdb append {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} dev {VXLAN} dst {}",
        other.addresses.v4
    );
    node.netns.tool("bridge", &words, "").map(drop)
}

fn tun(node: &Node, nodes: &[Node]) -> Result<Carrier> {
    let peers: Vec<(u8, SocketAddr)> = others(node, nodes)
        .map(|other| (other.number, SocketAddr::new(other.addresses.v4, TUN_PORT)))
        .collect();
    let peer_of = move |to: IpAddr| {
        let number = match to {
            IpAddr::V4(to) => u16::from(to.octets()[2]),
            IpAddr::V6(to) => to.segments()[3],
        };
        peers.iter().find(|(peer, _)| u16::from(*peer) == number).map(|(_, at)| *at)
    };
    let own = SocketAddr::new(node.addresses.v4, TUN_PORT);
    let carrier = Carrier::overlay((&node.netns, TUN), own, peer_of)?;
    let netlink = node.netns.netlink();
    netlink.set_mtu(TUN, TUN_MTU)?;
    for ip in end(node).both() {
        netlink.add_address(TUN, Cidr::host(ip))?;
    }
    netlink.up(TUN)?;
    Ok(carrier)
}

/// The node's own addresses on the device that leads to the others: the first of its pods' networks.
fn end(node: &Node) -> super::Addresses {
    let [v4, v6] = node.pod_networks().map(|network| network.0);
    super::Addresses { v4, v6 }
}

fn others<'a>(node: &'a Node, nodes: &'a [Node]) -> impl Iterator<Item = &'a Node> {
    nodes.iter().filter(|other| other.number != node.number)
}
