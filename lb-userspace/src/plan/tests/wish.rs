//! Random wishes: what a model may ask for, said directly.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU32};

use ipnet::IpNet;
use lb_common::{Family, Location, proto};
use proptest::{prelude::*, sample::subsequence};

use super::addr;
use crate::model::{DesiredBackend, DesiredPort, DesiredService, ObjectName, TrafficPolicy};

/// What is desired, said directly.
pub(super) type Wish = BTreeMap<ObjectName, DesiredService>;

pub(super) fn name(number: u8) -> ObjectName {
    ObjectName::new("default", format!("web-{number}"))
}

/// Service `number` with one port at a cluster IP, and the backends that end in `hosts`.
pub(super) fn web(number: u8, node_port: Option<u16>, hosts: &[u8]) -> DesiredService {
    let backend = |host: &u8| DesiredBackend {
        addr: [10, 244, number, *host].into(),
        port: 8080,
        location: Location::Unknown,
        cluster: true,
        local: false,
    };
    DesiredService {
        ports: vec![DesiredPort {
            name: "http".into(),
            proto: proto::TCP,
            family: Family::V4,
            port: 80,
            vip: Some([10, 96, 0, number].into()),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            node_port,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            source_ranges: None,
            backends: hosts.iter().map(backend).collect(),
        }],
    }
}

/// Up to four Services, among which no claim is open. Their ports may be node ports of others, their
/// addresses those of the node, and either those that another one had in another wish.
pub(super) fn wishes() -> impl Strategy<Value = Wish> {
    let services = proptest::collection::btree_map(0u8..4, port(), 0..5);
    (services, 0u8..4, 0u8..4)
        .prop_map(|(services, shift, port_shift)| wish(services, shift, port_shift))
}

/// Wishes one after the other, which differ little: Services come, go, change their addresses with
/// each other, and have one or the other of two forms.
pub(super) fn histories() -> impl Strategy<Value = Vec<Wish>> {
    let forms = proptest::collection::vec((port(), port()), 4);
    let presence = proptest::collection::vec(proptest::option::weighted(0.8, any::<bool>()), 4);
    let steps = proptest::collection::vec((presence, 0u8..4, 0u8..4), 2..8);
    (forms, steps).prop_map(|(forms, steps)| {
        let step = |(presence, shift, port_shift): &(Vec<Option<bool>>, u8, u8)| {
            let services = (0u8..).zip(forms.iter().zip(presence));
            let services = services.filter_map(|(number, ((one, other), form))| {
                Some((number, if (*form)? { other } else { one }.clone()))
            });
            wish(services, *shift, *port_shift)
        };
        steps.iter().map(step).collect()
    })
}

/// The Services by number, each at the addresses and ports of its place.
fn wish(services: impl IntoIterator<Item = (u8, DesiredPort)>, shift: u8, port_shift: u8) -> Wish {
    let service = |(number, mut port): (u8, DesiredPort)| {
        let place = (number + shift) % 4;
        let own = |addr: &IpAddr| match addr {
            IpAddr::V4(ip) if ip.octets()[3] == 0 => {
                let [a, b, c, _] = ip.octets();
                IpAddr::from([a, b, c, place + 10])
            }
            IpAddr::V4(_) | IpAddr::V6(_) => *addr,
        };
        // Else several might want the same port of one address.
        port.port = if port.port == 80 { 80 } else { 30080 } + u16::from(place);
        port.node_port = port.node_port.map(|base| base + u16::from((number + port_shift) % 4));
        port.vip = port.vip.as_ref().map(own);
        port.external_ips = port.external_ips.iter().map(own).collect();
        port.load_balancer_ips = port.load_balancer_ips.iter().map(own).collect();
        (name(number), DesiredService { ports: vec![port] })
    };
    services.into_iter().map(service).collect()
}

fn port() -> impl Strategy<Value = DesiredPort> {
    let policy = || prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    let some = |from: &[&str]| subsequence(from.iter().map(|a| addr(a)).collect::<Vec<_>>(), 0..=2);
    let addresses = (
        proptest::option::weighted(0.8, Just(IpAddr::from([10, 96, 0, 0]))),
        some(&["192.0.2.1", "192.0.2.2", "203.0.113.0", "203.0.114.0"]),
        some(&["192.0.2.1", "192.0.2.2", "198.51.100.0", "203.0.113.0"]),
        proptest::option::of(Just(30080)),
        prop_oneof![Just(80), Just(30080)],
    );
    let all = ["10.0.0.0/8", "192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32"];
    let all: Vec<IpNet> = all.iter().map(|net| net.parse().expect("a network")).collect();
    let ranges = proptest::option::of(subsequence(all, 0..=3));
    let affinity = prop_oneof![Just(None), Just(NonZeroU32::new(60)), Just(NonZeroU32::new(600))];
    let backends = proptest::collection::btree_map(1u8..6, (0u8..3, 0u8..4), 0..5);
    (addresses, (policy(), policy()), affinity, ranges, backends).prop_map(
        |(addresses, (internal_policy, external_policy), affinity, source_ranges, backends)| {
            let (vip, external_ips, load_balancer_ips, node_port, port) = addresses;
            let backend = |(host, (location, sets)): (u8, (u8, u8))| DesiredBackend {
                addr: [10, 244, 0, host].into(),
                port: 8080,
                location: Location::from_u8(location).expect("a location"),
                cluster: sets & 1 != 0,
                local: location == Location::Here as u8 && sets & 2 != 0,
            };
            DesiredPort {
                name: "http".into(),
                proto: proto::TCP,
                family: Family::V4,
                port,
                vip,
                external_ips,
                load_balancer_ips,
                node_port,
                internal_policy,
                external_policy,
                affinity,
                source_ranges,
                backends: backends.into_iter().map(backend).collect(),
            }
        },
    )
}
