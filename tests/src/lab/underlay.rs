//! The link between nodes and client: a bridge in a namespace that is also everybody's gateway.

use std::{os::fd::AsFd, path::Path};

use anyhow::Result;

use super::{
    Addresses, Cidr, Setup, bpf,
    netlink::{End, Mac},
    netns::Netns,
    network::{TUN_MTU, Uplink},
    offload,
    place::Place,
    scope::Scope,
    tun::Carrier,
};
use crate::worker::Worker;

/// The bridge's name.
pub(super) const BRIDGE: &str = "br0";
/// The bridge of the second network.
const SECOND: &str = "br1";

/// The underlay.
pub struct Underlay {
    /// A worker at the gateway; what VIPs leak from a node arrives here.
    pub worker: Worker,
    /// Its namespace: a device named after each node and the client, ports of the bridge unless the node
    /// is behind the gateway.
    pub netns: Netns,
    /// The gateway's addresses.
    pub addresses: Addresses,
}

/// A machine that has been joined to the underlay.
pub(super) struct Joined {
    pub(super) addresses: Addresses,
    /// Its addresses in the second network.
    pub(super) second: Option<Addresses>,
    pub(super) carrier: Option<Carrier>,
}

impl Underlay {
    pub(super) fn create(scope: &Scope, executable: &Path, setup: &Setup) -> Result<Self> {
        let netns = Netns::create(&scope.netns_name("underlay"))?;
        let addresses = underlay_addresses(254);
        let mut bridges = vec![(BRIDGE, addresses, mac(0, 254, 0))];
        if setup.network.parts().uplink == Uplink::TwoNics {
            bridges.push((SECOND, second_addresses(254), mac(0, 254, 1)));
        }
        for (bridge, addresses, mac) in bridges {
            netns.netlink().bridge(bridge, mac)?;
            on_link(&netns, bridge, addresses)?;
            netns.netlink().up(bridge)?;
        }
        netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let place = Place::new(&netns, &scope.cgroup("underlay")?)?;
        let worker = Worker::start(executable, &place, "gateway")?;
        Ok(Self { worker, netns, addresses })
    }

    /// Connects `netns` as `name`, with the addresses of `number` and a default route.
    pub(super) fn connect(
        &self,
        netns: &Netns,
        name: &str,
        number: u8,
        uplink: Uplink,
        setup: &Setup,
    ) -> Result<Joined> {
        let addresses = underlay_addresses(number);
        let mut joined = Joined { addresses, second: None, carrier: None };
        match uplink {
            Uplink::Nic | Uplink::TwoNics => {
                self.port(netns, name, (number, 1), ("eth0", BRIDGE), setup)?;
                on_link(netns, "eth0", addresses)?;
                self.default_by(netns, "eth0")?;
                if uplink == Uplink::TwoNics {
                    joined.second = Some(self.second(netns, name, number, setup)?);
                }
            }
            Uplink::Bridge => {
                self.port(netns, name, (number, 1), ("eth0", BRIDGE), setup)?;
                netns.netlink().bridge(uplink.device(), mac(1, number, 4))?;
                netns.netlink().enslave("eth0", uplink.device())?;
                netns.netlink().up(uplink.device())?;
                on_link(netns, uplink.device(), addresses)?;
                self.default_by(netns, uplink.device())?;
            }
            Uplink::Tun => {
                let device = uplink.device();
                joined.carrier = Some(Carrier::wire((&self.netns, name), (netns, device))?);
                for (netns, device) in [(&self.netns, name), (netns, device)] {
                    netns.netlink().set_mtu(device, TUN_MTU)?;
                    netns.netlink().up(device)?;
                }
                for ip in addresses.both() {
                    netns.netlink().add_address(device, Cidr::host(ip))?;
                    netns.netlink().add_route(Cidr::any(ip), None, device)?;
                    self.netns.netlink().add_route(Cidr::host(ip), None, name)?;
                }
                self.answer_for(addresses)?;
            }
            Uplink::Unnumbered => {
                self.wire(netns, name, (number, 1), "eth0", setup)?;
                for (netns, device, end) in [(&self.netns, name, 254), (netns, "eth0", number)] {
                    netns.ip(&format!("address add {}/64 dev {device} nodad", link_local(end)))?;
                }
                for ip in addresses.both() {
                    netns.netlink().add_address("lo", Cidr::host(ip))?;
                    let (family, gateway) = (option(ip.is_ipv6()), link_local(254));
                    netns.ip(&format!(
                        "{family} route add default via inet6 {gateway} dev eth0 src {ip}"
                    ))?;
                    self.route_to(Cidr::host(ip), name, number, addresses, uplink)?;
                }
                self.answer_for(addresses)?;
            }
        }
        Ok(joined)
    }

    /// Lets the gateway send `network` to the node `name`.
    pub(super) fn route_to(
        &self,
        network: Cidr,
        name: &str,
        number: u8,
        node: Addresses,
        uplink: Uplink,
    ) -> Result<()> {
        let netlink = self.netns.netlink();
        let via = if network.0.is_ipv4() { node.v4 } else { node.v6 };
        match uplink {
            Uplink::Nic | Uplink::TwoNics | Uplink::Bridge => {
                netlink.add_route(network, Some(via), BRIDGE)
            }
            Uplink::Tun => netlink.add_route(network, None, name),
            Uplink::Unnumbered => {
                let (family, Cidr(ip, length)) = (option(network.0.is_ipv6()), network);
                let via = link_local(number);
                self.netns
                    .ip(&format!("{family} route replace {ip}/{length} via inet6 {via} dev {name}"))
            }
        }
    }

    /// Lets the gateway answer on the bridge for addresses that are behind it.
    fn answer_for(&self, addresses: Addresses) -> Result<()> {
        self.netns.sysctl(&[
            (&format!("ipv4/conf/{BRIDGE}/proxy_arp"), "1"),
            (&format!("ipv4/neigh/{BRIDGE}/proxy_delay"), "0"),
            (&format!("ipv6/conf/{BRIDGE}/proxy_ndp"), "1"),
            (&format!("ipv6/neigh/{BRIDGE}/proxy_delay"), "0"),
        ])?;
        self.netns.ip(&format!("-6 neigh add proxy {} dev {BRIDGE}", addresses.v6))
    }

    /// A second NIC, with a default route of its own for what has its address.
    fn second(&self, netns: &Netns, name: &str, number: u8, setup: &Setup) -> Result<Addresses> {
        self.port(netns, &format!("{name}-2"), (number, 3), ("eth1", SECOND), setup)?;
        let addresses = second_addresses(number);
        on_link(netns, "eth1", addresses)?;
        for (ip, gateway) in addresses.both().into_iter().zip(second_addresses(254).both()) {
            let family = option(ip.is_ipv6());
            netns.ip(&format!("{family} rule add from {ip} table 1"))?;
            netns.ip(&format!("{family} route add default via {gateway} dev eth1 table 1"))?;
        }
        Ok(addresses)
    }

    /// A wire to `device` of `netns` whose near end is a port of `bridge`.
    fn port(
        &self,
        netns: &Netns,
        name: &str,
        end: (u8, u8),
        (device, bridge): (&str, &str),
        setup: &Setup,
    ) -> Result<()> {
        self.wire(netns, name, end, device, setup)?;
        self.netns.netlink().enslave(name, bridge)
    }

    /// A wire from `name` here to `device` of `netns`.
    fn wire(
        &self,
        netns: &Netns,
        name: &str,
        (number, end): (u8, u8),
        device: &str,
        setup: &Setup,
    ) -> Result<()> {
        let here = End { name, mac: mac(1, number, end - 1) };
        let there = End { name: device, mac: mac(1, number, end) };
        self.netns.netlink().veth(&here, &there, netns.as_fd())?;
        let near = if name == "client" { setup.client.unwrap_or(setup.wires) } else { setup.wires };
        self.netns.run(|| offload::set(name, setup.wires))?;
        netns.run(|| offload::set(device, near))?;
        self.netns.netlink().up(name)?;
        netns.netlink().up(device)?;
        if setup.xdp {
            self.netns.netlink().attach_xdp(name, bpf::pass()?.as_fd())?;
        }
        Ok(())
    }

    fn default_by(&self, netns: &Netns, device: &str) -> Result<()> {
        self.addresses.both().into_iter().try_for_each(|gateway| {
            netns.netlink().add_route(Cidr::any(gateway), Some(gateway), device)
        })
    }
}

fn on_link(netns: &Netns, device: &str, addresses: Addresses) -> Result<()> {
    addresses
        .both()
        .into_iter()
        .zip([24, 64])
        .try_for_each(|(ip, length)| netns.netlink().add_address(device, Cidr(ip, length)))
}

/// How `ip` is told the family.
pub(super) const fn option(v6: bool) -> &'static str {
    if v6 { "-6" } else { "-4" }
}

/// The addresses of machine `number` on the underlay: `10.0.0.N` and `fd00::N` (in decimal digits).
pub(super) fn underlay_addresses(number: u8) -> Addresses {
    Addresses {
        v4: [10, 0, 0, number].into(),
        v6: [0xfd00, 0, 0, 0, 0, 0, 0, digits(number)].into(),
    }
}

/// The addresses in the second network: `10.1.0.N` and `fd01::N` (in decimal digits).
fn second_addresses(number: u8) -> Addresses {
    Addresses {
        v4: [10, 1, 0, number].into(),
        v6: [0xfd01, 0, 0, 0, 0, 0, 0, digits(number)].into(),
    }
}

fn link_local(number: u8) -> std::net::Ipv6Addr {
    [0xfe80, 0, 0, 0, 0, 0, 1, digits(number)].into()
}

/// A number whose hexadecimal digits are the decimal ones of another.
pub(super) fn digits(number: u8) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).unwrap_or(0)
}

/// A locally administered address, unique among the links of one lab.
pub(super) const fn mac(kind: u8, number: u8, end: u8) -> Mac {
    [0x02, 0x1b, kind, number, 0, end]
}
