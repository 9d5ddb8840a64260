//! The network of a cluster: a bridge that joins the control plane, the nodes and a client.
//!
//! ```text
//!   control ──┐
//!   client  ──┼── bridge (lan) ── eth0 node ── pods (by the CNI plugin)
//!             └── eth0 node ── pods
//! ```
//! Everybody has a route to the pods of every node, and a default route that ends at the bridge:
//! nothing leads out of these namespaces.

use std::os::fd::AsFd;

use anyhow::Result;

use super::{
    plan::{self, CLIENT, CONTROL, GATEWAY, Plan},
    record::{Owned, Record},
};
use crate::lab::{
    Cidr, Netns, Offloads, bpf,
    netlink::{End, Mac},
    offload,
};

const BRIDGE: &str = "br0";

/// Makes the namespaces and links.
pub(super) fn build(plan: &Plan, record: &Record, nodes: u8) -> Result<()> {
    let create = |place: &str| {
        let name = plan.netns(place);
        record.add(&Owned::Netns(name.clone()))?;
        Netns::create(&name)
    };
    let lan = create("lan")?;
    lan.netlink().bridge(BRIDGE, mac(0, GATEWAY))?;
    for address in on_link(GATEWAY) {
        lan.netlink().add_address(BRIDGE, address)?;
    }
    lan.netlink().up(BRIDGE)?;
    lan.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;

    let mut places = Vec::new();
    for (name, number) in [("control", CONTROL), ("client", CLIENT)] {
        let netns = create(name)?;
        connect(&lan, &netns, name, number)?;
        places.push((0, netns));
    }
    for number in 1..=nodes {
        let name = node_name(number);
        let netns = create(&name)?;
        // What systemd sets on the machines of most clusters.
        netns.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "2"),
            ("ipv4/conf/default/rp_filter", "2"),
        ])?;
        connect(&lan, &netns, &name, number)?;
        places.push((number, netns));
    }
    for number in 1..=nodes {
        let networks = plan::pod_networks(number);
        for (network, via) in networks.into_iter().zip(plan::addresses(number).both()) {
            lan.netlink().add_route(network, Some(via), BRIDGE)?;
            for (_, other) in places.iter().filter(|(other, _)| *other != number) {
                other.netlink().add_route(network, Some(via), "eth0")?;
            }
        }
    }
    for (_, netns) in places {
        netns.leave();
    }
    lan.leave();
    Ok(())
}

/// `node1`, `node2`, …
pub(super) fn node_name(number: u8) -> String {
    format!("node{number}")
}

/// Gives `netns` an `eth0` with the addresses of `number` and a default route.
fn connect(lan: &Netns, netns: &Netns, name: &str, number: u8) -> Result<()> {
    let here = End { name, mac: mac(1, number) };
    let there = End { name: "eth0", mac: mac(2, number) };
    lan.netlink().veth(&here, &there, netns.as_fd())?;
    // Sums are made by the sender and checked by the receiver, as behind a real wire.
    lan.run(|| offload::set(name, Offloads::default()))?;
    netns.run(|| offload::set("eth0", Offloads::default()))?;
    lan.netlink().enslave(name, BRIDGE)?;
    lan.netlink().up(name)?;
    netns.netlink().up("eth0")?;
    // What an XDP program at the other end sends back arrives only where there is one at this end.
    lan.netlink().attach_xdp(name, bpf::pass()?.as_fd())?;
    for address in on_link(number) {
        netns.netlink().add_address("eth0", address)?;
    }
    for gateway in plan::addresses(GATEWAY).both() {
        netns.netlink().add_route(Cidr::any(gateway), Some(gateway), "eth0")?;
    }
    Ok(())
}

fn on_link(number: u8) -> [Cidr; 2] {
    let addresses = plan::addresses(number);
    [Cidr(addresses.v4, 24), Cidr(addresses.v6, 64)]
}

/// A locally administered address, unique in one cluster.
const fn mac(kind: u8, number: u8) -> Mac {
    [0x02, 0x1b, 0x4b, kind, 0, number]
}
