//! The link between nodes and client: a bridge in a namespace that is also everybody's gateway.

use std::{os::fd::AsFd, path::Path};

use anyhow::Result;

use super::{
    Addresses, Cidr, Offloads,
    netlink::{End, Mac},
    netns::Netns,
    offload,
    place::Place,
    scope::Scope,
    xdp,
};
use crate::worker::Worker;

/// The bridge's name.
pub(super) const BRIDGE: &str = "br0";

/// The underlay.
pub struct Underlay {
    /// A worker at the gateway; what VIPs leak from a node arrives here.
    pub worker: Worker,
    /// Its namespace: a device named after each node and the client, all ports of the bridge.
    pub netns: Netns,
    /// The gateway's addresses.
    pub addresses: Addresses,
}

impl Underlay {
    pub(super) fn create(scope: &Scope, executable: &Path) -> Result<Self> {
        let netns = Netns::create(&scope.netns_name("underlay"))?;
        let addresses = underlay_addresses(254);
        netns.netlink().bridge(BRIDGE, mac(0, 254, 0))?;
        for (ip, length) in addresses.both().into_iter().zip([24, 64]) {
            netns.netlink().add_address(BRIDGE, Cidr(ip, length))?;
        }
        netns.netlink().up(BRIDGE)?;
        netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let place = Place::new(&netns, &scope.cgroup("underlay")?)?;
        let worker = Worker::start(executable, &place, "gateway")?;
        Ok(Self { worker, netns, addresses })
    }

    /// Connects `netns` as `name`: an `eth0` with the addresses of `number` and a default route.
    pub(super) fn connect(
        &self,
        netns: &Netns,
        name: &str,
        number: u8,
        near: Offloads,
        far: Offloads,
        xdp: bool,
    ) -> Result<Addresses> {
        let here = End { name, mac: mac(1, number, 0) };
        let there = End { name: "eth0", mac: mac(1, number, 1) };
        self.netns.netlink().veth(&here, &there, netns.as_fd())?;
        self.netns.run(|| offload::set(name, far))?;
        netns.run(|| offload::set("eth0", near))?;
        self.netns.netlink().enslave(name, BRIDGE)?;
        self.netns.netlink().up(name)?;
        netns.netlink().up("eth0")?;
        if xdp {
            self.netns.netlink().attach_xdp(name, xdp::pass()?.as_fd())?;
        }
        let addresses = underlay_addresses(number);
        for (ip, length) in addresses.both().into_iter().zip([24, 64]) {
            netns.netlink().add_address("eth0", Cidr(ip, length))?;
        }
        for gateway in self.addresses.both() {
            netns.netlink().add_route(Cidr::any(gateway), Some(gateway), "eth0")?;
        }
        Ok(addresses)
    }
}

/// The addresses of machine `number` on the underlay: `10.0.0.N` and `fd00::N` (in decimal digits).
fn underlay_addresses(number: u8) -> Addresses {
    let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or(0);
    Addresses { v4: [10, 0, 0, number].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, digits].into() }
}

/// A locally administered address, unique among the links of one lab.
pub(super) const fn mac(kind: u8, number: u8, end: u8) -> Mac {
    [0x02, 0x1b, kind, number, 0, end]
}
