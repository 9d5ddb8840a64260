//! What a device is to us, decided from what netlink says of it.
//!
//! Pure. The rules in their order: the loopback device; what the operator named; what carries the
//! node's address or a default route; the host's end of a pod's link; a tunnel; an uplink with an
//! address. Everything else carries no program of ours.

use std::net::IpAddr;

use lb_common::DeviceRole;

use super::{Device, LinkFacts, glob, is_global};

/// What the operator, or the cluster, says of the devices.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// Globs of `--external-devices`; when given, no other device is external.
    pub external: Vec<String>,
    /// Globs of `--workload-devices`; when given, no other device is a workload's.
    pub workload: Vec<String>,
    /// Addresses by which the node is known.
    pub node_ips: Vec<IpAddr>,
}

/// What a device is, and why.
pub fn classify(link: &LinkFacts, rules: &Rules) -> Device {
    let (mut role, mut why) = role(link, rules);
    if matches!(role, DeviceRole::External | DeviceRole::Workload) && !link.ethernet {
        (role, why) = (DeviceRole::Other, "not an Ethernet device: unsupported");
    }
    Device {
        ifindex: link.ifindex,
        name: link.name.clone(),
        role,
        addresses: link.addresses.clone(),
        mac: link.mac,
        physical: link.physical,
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
        (Workload, _) if !rules.workload.is_empty() => (Other, "not in --workload-devices"),
        found => found,
    }
}

fn found(link: &LinkFacts, rules: &Rules) -> (DeviceRole, &'static str) {
    use DeviceRole::{External, Other, Workload};
    let kind = link.kind.as_deref();
    if link.addresses.iter().any(|ip| rules.node_ips.contains(ip)) {
        return (External, "carries a node address");
    }
    if link.default4.is_some() || link.default6.is_some() {
        return (External, "carries a default route");
    }
    match kind {
        Some("veth") if link.peer_elsewhere => {
            return (Workload, "veth with its peer in another namespace");
        }
        Some("netkit") if link.peer_elsewhere => {
            return (Workload, "netkit with its peer in another namespace");
        }
        Some("tun") => return (Workload, "tap device"),
        Some("vxlan" | "geneve" | "gretap" | "ip6gretap" | "bareudp") => {
            return (External, "tunnel to other nodes");
        }
        Some("ipip" | "sit" | "ip6tnl" | "gre" | "ip6gre" | "wireguard" | "xfrm") => {
            // Said to be external, so that its missing Ethernet header is reported.
            return (External, "tunnel to other nodes");
        }
        Some(_) | None => {}
    }
    let uplink = link.physical || matches!(kind, Some("bond" | "team" | "vlan" | "macvlan"));
    if uplink && link.addresses.iter().any(|ip| is_global(*ip)) {
        return (External, "network interface with an address");
    }
    match kind {
        Some("bridge") => (Other, "bridge"),
        Some("veth") => (Other, "veth within this namespace"),
        Some("dummy") => (Other, "dummy device"),
        Some("ifb") => (Other, "ifb device"),
        _ if link.physical => (Other, "network interface without an address"),
        _ => (Other, "neither leads out of the node nor to a pod"),
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

    /// HOST-1, TP-5.
    #[test]
    fn devices_are_told_apart() {
        use DeviceRole::{External, Loopback, Other, Workload};
        let node = Rules { node_ips: vec![[192, 0, 2, 1].into()], ..Rules::default() };
        let physical = LinkFacts { physical: true, ..link("eth0", None) };
        let pod = LinkFacts { peer_elsewhere: true, ..link("cali1", Some("veth")) };
        let lo = LinkFacts { loopback: true, ethernet: false, ..link("lo", None) };
        let no_ethernet = |kind| LinkFacts { ethernet: false, ..link("t0", Some(kind)) };
        let cases = [
            (addressed(lo, "192.0.2.1"), Loopback, "the loopback device"),
            (LinkFacts { default4: Some(0), ..pod.clone() }, External, "carries a default route"),
            (LinkFacts { default6: Some(9), ..pod.clone() }, External, "carries a default route"),
            (addressed(pod.clone(), "192.0.2.1"), External, "carries a node address"),
            (
                addressed(pod.clone(), "192.0.2.7"),
                Workload,
                "veth with its peer in another namespace",
            ),
            (pod, Workload, "veth with its peer in another namespace"),
            (link("v0", Some("veth")), Other, "veth within this namespace"),
            (link("tap0", Some("tun")), Workload, "tap device"),
            (no_ethernet("tun"), Other, "not an Ethernet device: unsupported"),
            (link("vx", Some("vxlan")), External, "tunnel to other nodes"),
            (no_ethernet("wireguard"), Other, "not an Ethernet device: unsupported"),
            (
                addressed(physical.clone(), "192.0.2.9"),
                External,
                "network interface with an address",
            ),
            (addressed(physical.clone(), "fe80::9"), Other, "network interface without an address"),
            (physical, Other, "network interface without an address"),
            (
                addressed(link("bond0", Some("bond")), "2001:db8::1"),
                External,
                "network interface with an address",
            ),
            (addressed(link("br0", Some("bridge")), "192.0.2.9"), Other, "bridge"),
            (
                addressed(link("br0", Some("bridge")), "192.0.2.1"),
                External,
                "carries a node address",
            ),
            (addressed(link("d0", Some("dummy")), "192.0.2.9"), Other, "dummy device"),
            (link("x0", Some("strange")), Other, "neither leads out of the node nor to a pod"),
        ];
        for (facts, role, why) in cases {
            let device = classify(&facts, &node);
            assert_eq!((device.role, device.why), (role, why), "{facts:?}");
        }
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
        assert_eq!(classify(&tun, &rules).why, "not an Ethernet device: unsupported");
    }
}
