//! The node's devices, routes and neighbours, in a network namespace that lives as long as a thread.

use std::{
    fs::{self, File},
    net::IpAddr,
    os::fd::AsFd as _,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use lb_common::{Addr4, Addr6, MacAddr};
use nix::sched::{CloneFlags, unshare};

use super::scene::addr;
use crate::lab::{
    Cidr,
    netlink::{End, Netlink},
};

/// Interface indexes, and Ethernet addresses of devices and neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// The external device.
    pub external: u32,
    /// The device of `pod`.
    pub pod: u32,
    /// The device of `other-pod`.
    pub other_pod: u32,
}

impl Ground {
    /// The loopback device.
    pub const LOOPBACK: u32 = 1;
    /// The external device's address.
    pub const OWN: MacAddr = mac(0x01);
    /// The router behind it.
    pub const ROUTER: MacAddr = mac(0x0a);
    /// The node's end of the pod's link.
    pub const POD_OWN: MacAddr = mac(0x05);
    /// The pod.
    pub const POD: MacAddr = mac(0x55);
    /// The node's end of the other pod's link.
    pub const OTHER_POD_OWN: MacAddr = mac(0x06);
    /// The other pod.
    pub const OTHER_POD: MacAddr = mac(0x66);

    /// The Ethernet address of a device.
    pub fn mac_of(&self, ifindex: u32) -> MacAddr {
        match ifindex {
            _ if ifindex == self.external => Self::OWN,
            _ if ifindex == self.pod => Self::POD_OWN,
            _ if ifindex == self.other_pod => Self::OTHER_POD_OWN,
            _ => MacAddr::default(),
        }
    }
}

const fn mac(last: u8) -> MacAddr {
    MacAddr { octets: [2, 0, 0, 0, 0, last] }
}

/// Runs `work` on a thread in a new network namespace, which ends with it.
///
/// # Errors
/// When the namespace cannot be made, or `work` fails.
///
/// # Panics
/// When `work` does.
pub fn inside<T: Send>(work: impl FnOnce(Ground) -> Result<T> + Send) -> Result<T> {
    let done = thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).context("unsharing the network namespace")?;
                work(lay()?)
            })
            .join()
    });
    match done {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn lay() -> Result<Ground> {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ] {
        let path = format!("/proc/sys/net/{key}");
        fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    let netlink = Netlink::open()?;
    netlink.up("lo")?;
    let here = File::open("/proc/thread-self/ns/net").context("opening the namespace")?;
    let mut devices = Vec::new();
    for (name, peer, own) in [
        ("ext", "ext-peer", Ground::OWN),
        ("pod", "pod-peer", Ground::POD_OWN),
        ("pod2", "pod2-peer", Ground::OTHER_POD_OWN),
    ] {
        let peer_mac = MacAddr { octets: [2, 0, 0, 0, 1, own.octets[5]] };
        netlink.veth(
            &End { name, mac: own.octets },
            &End { name: peer, mac: peer_mac.octets },
            here.as_fd(),
        )?;
        netlink.up(name)?;
        netlink.up(peer)?;
        devices.push(netlink.index(name)?);
    }
    for named in [ip4, ip6] {
        let prefix = if named("node").is_ipv4() { 24 } else { 64 };
        netlink.add_address("ext", Cidr(named("node"), prefix))?;
        netlink.add_address("pod", Cidr::host(named("node-at-pods")))?;
        netlink.add_neighbour("ext", named("router"), Ground::ROUTER.octets)?;
        for far in ["remote-pod", "client"] {
            netlink.add_route(Cidr::host(named(far)), Some(named("router")), "ext")?;
        }
        // Everybody else outside, so that only the node's own addresses are local.
        let everybody = if prefix == 24 { "0.0.0.0" } else { "::" }.parse()?;
        netlink.add_route(Cidr(everybody, 0), Some(named("router")), "ext")?;
        for (pod, device, mac) in
            [("pod", "pod", Ground::POD), ("other-pod", "pod2", Ground::OTHER_POD)]
        {
            netlink.add_route(Cidr::host(named(pod)), None, device)?;
            netlink.add_neighbour(device, named(pod), mac.octets)?;
        }
    }
    match devices[..] {
        [external, pod, other_pod] => Ok(Ground { external, pod, other_pod }),
        _ => Err(anyhow!("three devices were made")),
    }
}

fn ip4(name: &str) -> IpAddr {
    lb_common::Address::ip(&addr::<Addr4>(name))
}

fn ip6(name: &str) -> IpAddr {
    lb_common::Address::ip(&addr::<Addr6>(name))
}
