//! The tunnel: a vxlan device on either node, as flannel makes them, and the routes that lead through it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Addresses, Lab, Node};

/// 1500 less the headers of IPv4, UDP, VXLAN and Ethernet.
const MTU: u32 = 1450;

/// Lets the first node reach the second one's pods by a tunnel only, the client by the first node only, and
/// everything go back the same way.
pub(super) fn dig(lab: &Lab) -> Result<()> {
    let [one, two] = lab.nodes.as_slice() else {
        anyhow::bail!("the tunnel is between two nodes");
    };
    for (node, other) in [(one, two), (two, one)] {
        device(node, other)?;
        for (to, via) in other.pod_networks().into_iter().zip(other.addresses.both()) {
            node.netns.netlink().delete_route(to, Some(via), "eth0")?;
        }
        for (to, via) in other.pod_networks().into_iter().zip(end(other).both()) {
            ip(node, &format!("route add {}/{} via {via} dev vx0 onlink", to.0, to.1))?;
        }
    }
    for (client, via) in lab.client.addresses.both().into_iter().zip(end(one).both()) {
        ip(two, &format!("route add {client} via {via} dev vx0 onlink"))?;
    }
    for (to, via) in two.pod_networks().into_iter().zip(one.addresses.both()) {
        lab.client.netns.netlink().add_route(to, Some(via), "eth0")?;
    }
    Ok(())
}

/// Everything is written down, nothing is learned or asked for.
fn device(node: &Node, other: &Node) -> Result<()> {
    let local = node.addresses.v4;
    ip(
        node,
        &format!(
            "link add vx0 address {} mtu {MTU} type vxlan id 1 local {local} dstport 8472 dev eth0 nolearning",
            mac(node)
        ),
    )?;
    let Addresses { v4, v6 } = end(node);
    ip(node, &format!("address add {v4}/32 dev vx0"))?;
    ip(node, &format!("address add {v6}/128 dev vx0 nodad"))?;
    ip(node, "link set vx0 up")?;
    for end in end(other).both() {
        ip(node, &format!("neighbour replace {end} lladdr {} dev vx0 nud permanent", mac(other)))?;
    }
    let to = other.addresses.v4;
    tool(node, "bridge", &format!("fdb append {} dev vx0 dst {to}", mac(other)))
}

/// The node's own addresses in the tunnel: the first of its pods' networks.
fn end(node: &Node) -> Addresses {
    let [v4, v6] = node.pod_networks().map(|network| network.0);
    Addresses { v4, v6 }
}

fn mac(node: &Node) -> String {
    format!("02:1b:0e:00:00:{:02x}", node.number)
}

fn ip(node: &Node, words: &str) -> Result<()> {
    tool(node, "ip", words)
}

fn tool(node: &Node, program: &str, words: &str) -> Result<()> {
    node.netns.run(|| {
        let ran = Command::new(program)
            .args(words.split_whitespace())
            .output()
            .with_context(|| format!("starting {program} (package iproute2)"))?;
        let said = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "{program} {words} on {}: {said}", node.name());
        Ok(())
    })
}
