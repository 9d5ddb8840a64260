//! What a device is to us, decided from what netlink says of it.
//!
//! Pure. The rules in their order: the loopback device; what the operator named; what carries the
//! node's address or a default route; what carries no IP, or has another device carry the programs;
//! the host's end of a pod's link. Everything else is external: the kernel may route there.

use std::net::IpAddr;

use lb_common::DeviceRole;

use super::{Device, LinkFacts, glob};

/// What the operator, or the cluster, says of the devices.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// Globs of `--external-devices`; when given, no other device is external.
    pub external: Vec<String>,
    /// Globs of `--workload-devices`; when given, no other device is a workload's, and a link that
    /// looks like a pod's is external.
    pub workload: Vec<String>,
    /// Addresses by which the node is known.
    pub node_ips: Vec<IpAddr>,
}

/// What a device is, and why.
pub fn classify(link: &LinkFacts, rules: &Rules) -> Device {
    let (role, why) = role(link, rules);
    Device {
        ifindex: link.ifindex,
        name: link.name.clone(),
        role,
        addresses: link.addresses.clone(),
        mac: link.mac,
        ethernet: link.ethernet,
        physical: link.physical,
        transmits: link.transmits,
        routed: link.routed,
        why,
    }
}

fn role(link: &LinkFacts, rules: &Rules) -> (DeviceRole, &'static str) {
    use DeviceRole::{External, Loopback, Other, Workload};
    let named = |globs: &[String]| globs.iter().any(|glob| glob::matches(glob, &link.name));
    if link.loopback {
        return (Loopback, "the loopback device");
    }
    if named(&rules.external) {
        return (External, "named by --external-devices");
    }
    if named(&rules.workload) {
        return (Workload, "named by --workload-devices");
    }
    match found(link, rules) {
        (External, _) if !rules.external.is_empty() => (Other, "not in --external-devices"),
        (Workload, _) if !rules.workload.is_empty() && !rules.external.is_empty() => {
            (Other, "neither in --workload-devices nor in --external-devices")
        }
        (Workload, _) if !rules.workload.is_empty() => (External, "not in --workload-devices"),
        found => found,
    }
}

fn found(link: &LinkFacts, rules: &Rules) -> (DeviceRole, &'static str) {
    use DeviceRole::{External, Workload};
    if link.addresses.iter().any(|ip| rules.node_ips.contains(ip)) {
        return (External, "carries a node address");
    }
    if link.default4.is_some() || link.default6.is_some() {
        return (External, "carries a default route");
    }
    if let Some(why) = without_programs(link) {
        return (DeviceRole::Other, why);
    }
    match link.kind.as_deref() {
        Some("veth" | "netkit") if link.peer_elsewhere && link.on_network => {
            (External, "network interface with an address in a network")
        }
        Some("veth") if link.peer_elsewhere => {
            (Workload, "veth with its peer in another namespace")
        }
        Some("netkit") if link.peer_elsewhere => {
            (Workload, "netkit with its peer in another namespace")
        }
        Some("tun") if link.ethernet => (Workload, "tap device"),
        Some("tun") if link.to_network => (External, "tun device that leads to networks"),
        Some("tun") => (Workload, "tun device that leads to single addresses"),
        kind => (External, outward(link, kind)),
    }
}

/// Why a device needs no programs of ours, if it needs none.
fn without_programs(link: &LinkFacts) -> Option<&'static str> {
    if link.without_ip {
        return Some("carries no IP");
    }
    match link.master.as_deref() {
        Some("bond" | "team") => return Some("in a bond or team, which carries the programs"),
        // The flows of the switch match what is on the wire.
        Some("openvswitch") => return Some("port of an Open vSwitch, which decides by itself"),
        Some(_) | None => {}
    }
    match link.kind.as_deref() {
        Some("dummy") => Some("dummy device"),
        Some("ifb") => Some("ifb device"),
        Some("vrf") => Some("VRF, whose devices carry the programs"),
        Some(_) | None => None,
    }
}

/// What sort of external device it is, for people.
fn outward(link: &LinkFacts, kind: Option<&str>) -> &'static str {
    match kind {
        Some(
            "vxlan" | "geneve" | "gretap" | "ip6gretap" | "erspan" | "ip6erspan" | "bareudp"
            | "ipip" | "sit" | "ip6tnl" | "gre" | "ip6gre" | "vti" | "vti6" | "wireguard" | "xfrm",
        ) => "tunnel",
        Some("bridge") => "bridge",
        // Past the bridge device go the answers of pods that are on the same bridge.
        _ if link.master.as_deref() == Some("bridge") => "port of a bridge",
        Some("openvswitch") => "internal port of an Open vSwitch",
        Some("bond" | "team") => "bond or team",
        Some("vlan" | "macvlan" | "ipvlan") => "part of a network interface",
        Some("veth" | "netkit") => "link within this namespace",
        _ if link.physical => "network interface",
        _ => "may lead out of the node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Option<&str>) -> LinkFacts {
        LinkFacts {
            ifindex: 2,
            name: name.into(),
            kind: kind.map(Into::into),
            ethernet: true,
            ..LinkFacts::default()
        }
    }

    fn addressed(link: LinkFacts, ip: &str) -> LinkFacts {
        LinkFacts { addresses: vec![ip.parse().expect("an address")], ..link }
    }

    fn check(cases: impl IntoIterator<Item = (LinkFacts, DeviceRole, &'static str)>) {
        let node = Rules { node_ips: vec![[192, 0, 2, 1].into()], ..Rules::default() };
        for (facts, role, why) in cases {
            let device = classify(&facts, &node);
            assert_eq!((device.role, device.why), (role, why), "{facts:?}");
            assert_eq!(device.ethernet, facts.ethernet);
        }
    }

    /// HOST-1, TP-5.
    #[test]
    fn links_of_pods_are_told_from_network_interfaces() {
        use DeviceRole::{External, Loopback, Workload};
        let pod = LinkFacts { peer_elsewhere: true, ..link("cali1", Some("veth")) };
        let netkit = LinkFacts { peer_elsewhere: true, ..link("nk1", Some("netkit")) };
        let lo = LinkFacts { loopback: true, ethernet: false, ..link("lo", None) };
        let on_bridge = LinkFacts { master: Some("bridge".into()), ..pod.clone() };
        let in_vrf = LinkFacts { master: Some("vrf".into()), ..pod.clone() };
        let tun = LinkFacts { ethernet: false, ..link("t0", Some("tun")) };
        let nic = |link: LinkFacts| LinkFacts { on_network: true, ..addressed(link, "10.9.0.2") };
        let veth = "veth with its peer in another namespace";
        let interface = "network interface with an address in a network";
        let single = "tun device that leads to single addresses";
        check([
            (addressed(lo, "192.0.2.1"), Loopback, "the loopback device"),
            (LinkFacts { default4: Some(0), ..pod.clone() }, External, "carries a default route"),
            (LinkFacts { default6: Some(9), ..pod.clone() }, External, "carries a default route"),
            (addressed(pod.clone(), "192.0.2.1"), External, "carries a node address"),
            (addressed(pod.clone(), "192.0.2.7"), Workload, veth),
            (LinkFacts { routed: true, to_network: true, ..pod.clone() }, Workload, veth),
            (nic(pod.clone()), External, interface),
            (nic(netkit.clone()), External, interface),
            (pod, Workload, veth),
            (on_bridge, Workload, veth),
            (in_vrf, Workload, veth),
            (netkit, Workload, "netkit with its peer in another namespace"),
            (link("tap0", Some("tun")), Workload, "tap device"),
            (LinkFacts { routed: true, ..tun.clone() }, Workload, single),
            (LinkFacts { default4: Some(0), ..tun.clone() }, External, "carries a default route"),
            (
                LinkFacts { routed: true, to_network: true, ..tun.clone() },
                External,
                "tun device that leads to networks",
            ),
            (tun, Workload, single),
        ]);
    }

    #[test]
    fn everything_that_may_carry_packets_elsewhere_is_external() {
        use DeviceRole::External;
        let physical = LinkFacts { physical: true, ..link("eth0", None) };
        let of =
            |master: &str, facts: LinkFacts| LinkFacts { master: Some(master.into()), ..facts };
        let no_ethernet = |kind| LinkFacts { ethernet: false, ..link("t0", Some(kind)) };
        let part = "part of a network interface";
        let ovs = "internal port of an Open vSwitch";
        check([
            (addressed(physical.clone(), "192.0.2.9"), External, "network interface"),
            (addressed(physical.clone(), "fe80::9"), External, "network interface"),
            (of("bridge", physical.clone()), External, "port of a bridge"),
            (of("vrf", physical.clone()), External, "network interface"),
            (
                addressed(of("bond", physical.clone()), "192.0.2.1"),
                External,
                "carries a node address",
            ),
            (physical, External, "network interface"),
            (link("v0", Some("veth")), External, "link within this namespace"),
            (of("bridge", link("v0", Some("veth"))), External, "port of a bridge"),
            (link("bond0", Some("bond")), External, "bond or team"),
            (link("team0", Some("team")), External, "bond or team"),
            (addressed(link("br0", Some("bridge")), "192.0.2.9"), External, "bridge"),
            (
                addressed(link("br0", Some("bridge")), "192.0.2.1"),
                External,
                "carries a node address",
            ),
            (link("eth0.5", Some("vlan")), External, part),
            (link("mv0", Some("macvlan")), External, part),
            (link("iv0", Some("ipvlan")), External, part),
            (link("br-ex", Some("openvswitch")), External, ovs),
            (link("x0", Some("strange")), External, "may lead out of the node"),
            (link("x0", None), External, "may lead out of the node"),
        ]);
        for kind in ["vxlan", "geneve", "gretap", "ip6gretap"] {
            check([(link("t0", Some(kind)), External, "tunnel")]);
        }
        check([(of("bridge", link("vx0", Some("vxlan"))), External, "tunnel")]);
        for kind in ["ipip", "sit", "ip6tnl", "gre", "ip6gre", "wireguard", "xfrm", "bareudp"] {
            check([(no_ethernet(kind), External, "tunnel")]);
        }
    }

    #[test]
    fn devices_without_programs_say_why() {
        use DeviceRole::Other;
        let of = |master: &str, kind| LinkFacts { master: Some(master.into()), ..link("p0", kind) };
        let pod = LinkFacts { peer_elsewhere: true, ..of("openvswitch", Some("veth")) };
        let can = LinkFacts { without_ip: true, ethernet: false, ..link("can0", Some("can")) };
        let bond = "in a bond or team, which carries the programs";
        let ovs = "port of an Open vSwitch, which decides by itself";
        check([
            (addressed(link("d0", Some("dummy")), "192.0.2.9"), Other, "dummy device"),
            (link("ifb0", Some("ifb")), Other, "ifb device"),
            (link("red", Some("vrf")), Other, "VRF, whose devices carry the programs"),
            (of("bond", None), Other, bond),
            (of("team", Some("veth")), Other, bond),
            (of("openvswitch", None), Other, ovs),
            (of("openvswitch", Some("vxlan")), Other, ovs),
            (pod, Other, ovs),
            (can, Other, "carries no IP"),
        ]);
    }

    #[test]
    fn what_the_operator_names_overrides_what_is_found() {
        use DeviceRole::{External, Other, Workload};
        let rules = Rules {
            external: vec!["eth*".into()],
            workload: vec!["tap?".into()],
            node_ips: Vec::new(),
        };
        let role = |facts: &LinkFacts| classify(facts, &rules).role;
        assert_eq!(role(&link("eth7", Some("dummy"))), External);
        assert_eq!(role(&link("tap1", Some("dummy"))), Workload);
        let uplink = LinkFacts { default4: Some(0), ..link("ens3", None) };
        assert_eq!(role(&uplink), Other);
        let pod = LinkFacts { peer_elsewhere: true, ..link("cali1", Some("veth")) };
        assert_eq!(role(&pod), Other);
        let only_external = Rules { workload: Vec::new(), ..rules.clone() };
        assert_eq!(classify(&pod, &only_external).role, Workload);
        let tun = LinkFacts { ethernet: false, ..link("eth1", Some("tun")) };
        assert_eq!(role(&tun), External);
    }
}
