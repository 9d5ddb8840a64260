//! The devices and addresses of this node, as they come and go.
//!
//! Invariant: everything downstream sees one consistent [`NodeState`] at a time; what a device is
//! to us is decided by [`role::classify`], a pure function, and nowhere else.

mod glob;
mod netdev;
mod netlink;
pub(crate) mod raw;
pub mod role;
pub mod routing;
pub mod runtime;
pub mod settle;
pub mod shortcut;
pub mod table;
pub mod watch;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{DeviceRole, MacAddr};

pub use role::Rules;

/// A network device and what it is to us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// What it is to us.
    pub role: DeviceRole,
    /// Its addresses, in the order of the kernel: of IPv4 the primary one first, of IPv6 the newest.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address; `None` when it has none.
    pub mac: Option<MacAddr>,
    /// Whether its packets have an Ethernet header.
    pub ethernet: bool,
    /// Whether it is a physical device (or a virtual machine's): it hangs on a bus.
    pub physical: bool,
    /// Whether its driver transmits what XDP redirects to it.
    pub transmits: bool,
    /// Whether a route leads over it.
    pub routed: bool,
    /// Why it has its role, for people.
    pub why: &'static str,
}

impl Device {
    /// A device of which nothing but the name is known.
    pub fn named(name: &str, ifindex: u32) -> Self {
        Self {
            ifindex,
            name: name.to_owned(),
            role: DeviceRole::Other,
            addresses: Vec::new(),
            mac: None,
            ethernet: true,
            physical: false,
            transmits: false,
            routed: false,
            why: "",
        }
    }

    /// Whether something depends on its programs: a pod, the node's own traffic, an address or a
    /// route.
    pub fn is_needed(&self) -> bool {
        let always = matches!(self.role, DeviceRole::Workload | DeviceRole::Loopback);
        always || self.routed || self.addresses.iter().any(|ip| is_global(*ip))
    }

    /// The first IPv4 address that others can reach.
    pub fn primary4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) if is_global4(*ip) => Some(*ip),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
    }

    /// The oldest IPv6 address that others can reach: one that is added later, a load balancer's say,
    /// does not take its place.
    pub fn primary6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().rev().find_map(|ip| match ip {
            IpAddr::V6(ip) if is_global6(*ip) => Some(*ip),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
    }
}

/// The devices and addresses of this node at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeState {
    /// All devices, by interface index.
    pub devices: Vec<Device>,
    /// All addresses of the node, loopback included, sorted; none that is still tentative.
    pub addresses: Vec<IpAddr>,
    /// The IPv4 address by which the node is known: the given node address, or the first one of
    /// the device of the default route.
    pub primary4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub primary6: Option<Ipv6Addr>,
}

/// What netlink says of one link, its addresses and the routes over it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LinkFacts {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Kind of virtual device (`veth`, `bridge`, …); `None` for real ones.
    pub kind: Option<String>,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Whether it carries Ethernet frames.
    pub ethernet: bool,
    /// Whether no IP packet can pass it.
    pub without_ip: bool,
    /// Kind of the device that it is enslaved to, if it is; empty when that is unknown.
    pub master: Option<String>,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
    /// Whether its other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// Whether it hangs on a bus.
    pub physical: bool,
    /// Whether its driver transmits what XDP redirects to it.
    pub transmits: bool,
    /// Addresses in the order of the kernel, none that is still tentative.
    pub addresses: Vec<IpAddr>,
    /// Whether one of them is global and has a network on the link, rather than standing alone.
    pub on_network: bool,
    /// Whether a route leads over it, other than those that every device has.
    pub routed: bool,
    /// Whether one of these leads to a network rather than to a single address.
    pub to_network: bool,
    /// Metric of the best IPv4 default route over it.
    pub default4: Option<u32>,
    /// Metric of the best IPv6 default route over it.
    pub default6: Option<u32>,
}

impl LinkFacts {
    /// Whether it is a network interface of the node, a part or a sum of them, or what has a default
    /// route in their place.
    fn is_uplink(&self) -> bool {
        let kind = self.kind.as_deref();
        let made_of = matches!(kind, Some("bond" | "team" | "vlan" | "macvlan" | "ipvlan"));
        let given = kind == Some("veth") && self.peer_elsewhere;
        let default = self.default4.is_some() || self.default6.is_some();
        self.physical || made_of || given || default
    }

    /// Whether what it is to us, or whether something depends on it, is told by its routes alone.
    fn minds_routes(&self) -> bool {
        let tun = self.kind.as_deref() == Some("tun") && !self.ethernet;
        tun || !(self.routed || self.addresses.iter().any(|ip| is_global(*ip)))
    }
}

/// What each of these links is by itself, by interface index.
pub fn classify(links: &[LinkFacts], rules: &Rules) -> Vec<Device> {
    let mut devices: Vec<Device> = links.iter().map(|link| role::classify(link, rules)).collect();
    devices.sort_by_key(|device| device.ifindex);
    devices
}

impl NodeState {
    /// What these links, which are these devices, make of the node.
    pub fn assemble(links: &[LinkFacts], devices: Vec<Device>, rules: &Rules) -> Self {
        let best = |metric: fn(&LinkFacts) -> Option<u32>| {
            let with_route = links.iter().filter(|link| metric(link).is_some());
            with_route.min_by_key(|link| metric(link)).map(|link| link.ifindex)
        };
        let (default4, default6) = (best(|link| link.default4), best(|link| link.default6));
        let addresses: BTreeSet<IpAddr> =
            links.iter().flat_map(|link| link.addresses.iter().copied()).collect();
        // Where a default route is missing, network interfaces stand in for it; bridges and tunnels
        // behind which pods are do not: their addresses are not those by which others know the node.
        let stands_in = |device: &Device| {
            let link = links.iter().find(|link| link.ifindex == device.ifindex);
            let named = !rules.external.is_empty();
            device.role == DeviceRole::External && (named || link.is_some_and(LinkFacts::is_uplink))
        };
        let uplinks: Vec<&Device> = devices.iter().filter(|device| stands_in(device)).collect();
        let ranked = |default: Option<u32>| {
            let first = devices.iter().filter(move |device| Some(device.ifindex) == default);
            first.chain(uplinks.iter().copied())
        };
        let given4 = rules.node_ips.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let given6 = rules.node_ips.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        });
        let primary4 = given4.or_else(|| ranked(default4).find_map(Device::primary4));
        let primary6 = given6.or_else(|| ranked(default6).find_map(Device::primary6));
        Self { addresses: addresses.into_iter().collect(), primary4, primary6, devices }
    }
}

/// Whether others can reach this address.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global4(ip),
        IpAddr::V6(ip) => is_global6(ip),
    }
}

fn is_global4(ip: Ipv4Addr) -> bool {
    !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast())
}

fn is_global6(ip: Ipv6Addr) -> bool {
    !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str, addresses: &[&str]) -> LinkFacts {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        LinkFacts { ifindex, name: name.into(), ethernet: true, addresses, ..LinkFacts::default() }
    }

    fn assemble(links: &[LinkFacts], rules: &Rules) -> NodeState {
        NodeState::assemble(links, classify(links, rules), rules)
    }

    #[test]
    fn the_best_default_route_tells_the_primary_address_of_each_family() {
        let links = vec![
            LinkFacts { default6: Some(1), ..link(3, "b", &["fe80::1", "2001:db8::3"]) },
            LinkFacts { default4: Some(100), ..link(2, "a", &["192.0.2.2", "2001:db8::2"]) },
            LinkFacts { default4: Some(50), ..link(4, "c", &["169.254.0.4", "192.0.2.4"]) },
        ];
        let state = assemble(&links, &Rules::default());
        assert_eq!(state.primary4, Some([192, 0, 2, 4].into()));
        assert_eq!(state.primary6, Some("2001:db8::3".parse().expect("an address")));
        assert_eq!(state.devices.iter().map(|d| d.ifindex).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(state.addresses.len(), 6);
        let given = Rules { node_ips: vec![[192, 0, 2, 2].into()], ..Rules::default() };
        assert_eq!(assemble(&links, &given).primary4, Some([192, 0, 2, 2].into()));
    }

    /// The kernel lists IPv6 addresses from the newest to the oldest.
    #[test]
    fn an_address_that_is_added_does_not_become_the_primary_one() {
        let addresses = ["192.0.2.1", "192.0.2.9", "2001:db8::9", "2001:db8::1", "fe80::1"];
        let eth0 =
            LinkFacts { default4: Some(0), default6: Some(0), ..link(2, "eth0", &addresses) };
        let state = assemble(&[eth0], &Rules::default());
        assert_eq!(state.primary4, Some([192, 0, 2, 1].into()));
        assert_eq!(state.primary6, Some("2001:db8::1".parse().expect("an address")));
    }

    #[test]
    fn a_device_is_needed_when_something_depends_on_it() {
        let role = |role| Device { role, ..Device::named("x", 2) };
        let external = role(DeviceRole::External);
        let addressed = |ip: &str| {
            let addresses = vec![ip.parse().expect("an address")];
            Device { addresses, ..external.clone() }
        };
        assert!(!external.is_needed());
        assert!(!addressed("fe80::1").is_needed(), "every device has such an address");
        assert!(addressed("192.0.2.1").is_needed());
        assert!(Device { routed: true, ..external.clone() }.is_needed());
        assert!(role(DeviceRole::Workload).is_needed() && role(DeviceRole::Loopback).is_needed());
    }

    #[test]
    fn without_a_default_route_a_network_interface_gives_the_address_and_no_bridge() {
        let bridge = LinkFacts { kind: Some("bridge".into()), ..link(2, "br0", &["192.0.2.1"]) };
        let nic = LinkFacts { physical: true, ..link(3, "nic", &["192.0.2.3"]) };
        let primary = |links: &[LinkFacts], rules: &Rules| {
            let state = assemble(links, rules);
            (state.primary4.map(|ip| ip.to_string()), state.primary6)
        };
        let rules = Rules::default();
        assert_eq!(primary(&[bridge.clone(), nic], &rules), (Some("192.0.2.3".into()), None));
        assert_eq!(primary(std::slice::from_ref(&bridge), &rules), (None, None));
        let other_family = LinkFacts { default6: Some(0), ..bridge.clone() };
        assert_eq!(primary(&[other_family], &rules), (Some("192.0.2.1".into()), None));
        let named = Rules { external: vec!["br0".into()], ..rules };
        assert_eq!(primary(&[bridge], &named), (Some("192.0.2.1".into()), None));
    }
}
