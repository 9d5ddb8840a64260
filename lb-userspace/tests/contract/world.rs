//! Random objects as an API server, or a careless user, may hold them.
//!
//! Everything is drawn from small pools, so that Services meet: at addresses, ports, node ports, and
//! in slices that name them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::{
        core::v1::{
            ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServicePort,
            ServiceSpec, ServiceStatus, SessionAffinityConfig,
        },
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};

use lb_userspace::{model::Event, source::convert};

use crate::{random::Random, slices};

/// Namespace and name.
pub(crate) type Name = (&'static str, String);

/// Everything that the cluster holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) zone: Option<&'static str>,
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) slices: BTreeMap<Name, EndpointSlice>,
}

/// The node that the agent is on.
pub(crate) const NODE: &str = "n1";
/// Addresses by which the node is known, which external IPs may not be.
pub(crate) const PRIMARY: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Addresses of the node, all of which serve node ports.
pub(crate) const LOCAL: [&str; 6] =
    ["192.0.2.1", "192.0.2.50", "127.0.0.1", "2001:db8::1", "2001:db8::50", "::1"];

const NAMESPACES: [&str; 2] = ["default", "other"];
pub(crate) const SERVICES: [&str; 2] = ["a", "b"];
const VIPS4: [&str; 4] = ["10.96.0.1", "10.96.0.2", "010.096.0.3", "192.0.2.50"];
const VIPS6: [&str; 3] = ["fd96::1", "fd96:0:0::2", "2001:db8::50"];
const OUTSIDE: [&str; 15] = [
    "203.0.113.1",
    "203.0.113.2",
    "203.0.113.002",
    "192.0.2.1",
    "192.0.2.50",
    "10.96.0.1",
    "10.96.0.2",
    "2001:db8:1::1",
    "2001:db8:1::2",
    "2001:db8::1",
    "2001:db8::50",
    "fd96::1",
    "::ffff:203.0.113.1",
    "nonsense",
    "127.0.0.1",
];
const RANGES: [&str; 12] = [
    "10.0.0.0/8",
    " 192.0.2.0/24",
    "203.0.113.7/32",
    "198.51.100.9/25\t",
    "010.1.0.0/16",
    "0.0.0.0/0",
    "fd00::/8",
    "2001:db8::/32",
    "::/0",
    "garbage",
    "10.0.0.0/40",
    "::ffff:10.0.0.0/104",
];
/// Clients to ask with, in and out of all ranges.
pub(crate) const CLIENTS: [&str; 15] = [
    "10.0.0.1",
    "10.1.2.3",
    "192.0.2.1",
    "192.0.2.255",
    "203.0.113.1",
    "203.0.113.2",
    "203.0.113.7",
    "198.51.100.1",
    "198.51.100.200",
    "fd00::1",
    "fd96::1",
    "2001:db8::1",
    "2001:db8:1::1",
    "2001:db9::1",
    "fe00::1",
];
pub(crate) const PORT_NAMES: [&str; 4] = ["", "", "", "http"];
pub(crate) const PROTOCOLS: [Option<&str>; 5] =
    [None, Some("TCP"), Some("TCP"), Some("UDP"), Some("SCTP")];
const PORTS: [i32; 3] = [80, 443, 30080];
const NODE_PORTS: [i32; 2] = [30080, 30443];
const POLICIES: [Option<&str>; 4] = [None, Some("Cluster"), Some("Local"), Some("Local")];

/// Addresses, as such.
pub(crate) fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

/// All names of Services that may be.
pub(crate) fn service_names() -> Vec<Name> {
    let names = NAMESPACES
        .iter()
        .flat_map(|namespace| SERVICES.iter().map(|name| (*namespace, (*name).to_owned())));
    names.collect()
}

/// All names of slices that may be.
pub(crate) fn slice_names() -> Vec<Name> {
    let names =
        NAMESPACES.iter().flat_map(|namespace| (0..4).map(|n| (*namespace, format!("s{n}"))));
    names.collect()
}

pub(crate) fn owned(text: &str) -> String {
    text.to_owned()
}

/// A Service. No two Services are of one age, so that age decides.
pub(crate) fn service(random: &mut Random, name: &Name) -> Service {
    let index = service_names().iter().position(|other| other == name).expect("it is one of them");
    let second = 1_700_000_000 + i64::try_from(random.below(4) * 16 + index).expect("it is small");
    let mut metadata = ObjectMeta {
        namespace: Some(owned(name.0)),
        name: Some(name.1.clone()),
        creation_timestamp: Some(Time(Timestamp::from_second(second).expect("a time"))),
        ..ObjectMeta::default()
    };
    if random.percent(3) {
        let label = "service.kubernetes.io/service-proxy-name";
        metadata.labels = Some([(owned(label), String::new())].into());
    }
    let kind = random.pick(&[
        None,
        Some("ClusterIP"),
        Some("NodePort"),
        Some("NodePort"),
        Some("LoadBalancer"),
        Some("LoadBalancer"),
        Some("LoadBalancer"),
        Some("ExternalName"),
    ]);
    let outside = matches!(kind, Some("NodePort" | "LoadBalancer"));
    let (cluster_ip, cluster_ips, ip_families) = cluster_ips(random);
    let list = |list: Vec<&str>| (!list.is_empty()).then(|| list.into_iter().map(owned).collect());
    let ranges = if random.percent(40) { random.some(&RANGES, 4) } else { Vec::new() };
    let external = if random.percent(40) { random.some(&OUTSIDE, 3) } else { Vec::new() };
    let affinity = random.pick(&[None, Some("None"), Some("ClientIP")]);
    let timeout = random.pick(&[
        None,
        Some(None),
        Some(Some(1)),
        Some(Some(86_400)),
        Some(Some(0)),
        Some(Some(99_999)),
    ]);
    let config = timeout.map(|timeout_seconds| SessionAffinityConfig {
        client_ip: Some(ClientIPConfig { timeout_seconds }),
    });
    let spec = ServiceSpec {
        type_: kind.map(owned),
        cluster_ip,
        cluster_ips,
        ip_families,
        ports: Some(service_ports(random, outside)),
        external_ips: list(external),
        load_balancer_source_ranges: list(ranges),
        internal_traffic_policy: random.pick(&POLICIES).map(owned),
        external_traffic_policy: random.pick(&POLICIES).map(owned),
        health_check_node_port: random.pick(&[None, Some(0), Some(32_000), Some(32_001)]),
        session_affinity: affinity.map(owned),
        session_affinity_config: config,
        ..ServiceSpec::default()
    };
    let status = (kind == Some("LoadBalancer") && random.percent(80)).then(|| status(random));
    Service { metadata, spec: Some(spec), status }
}

type ClusterIps = (Option<String>, Option<Vec<String>>, Option<Vec<String>>);

fn cluster_ips(random: &mut Random) -> ClusterIps {
    let four = random.pick(&VIPS4);
    let six = random.pick(&VIPS6);
    let (ips, families): (&[&str], &[&str]) = match random.below(20) {
        0 => return (Some(owned("None")), Some(vec![owned("None")]), None),
        1 => return (random.pick(&[None, Some("")]).map(owned), None, Some(vec![owned("IPv4")])),
        // As before there were lists.
        2 => return (Some(owned(four)), None, None),
        3 => return (Some(owned(six)), None, None),
        4..8 => (&[four], &["IPv4"]),
        8..10 => (&[six], &["IPv6"]),
        10..16 => (&[four, six], &["IPv4", "IPv6"]),
        _ => (&[six, four], &["IPv6", "IPv4"]),
    };
    let list = |list: &[&str]| Some(list.iter().copied().map(owned).collect());
    (Some(owned(ips[0])), list(ips), list(families))
}

/// Ports as the API server admits them: each name, number and node port once a protocol.
fn service_ports(random: &mut Random, outside: bool) -> Vec<ServicePort> {
    let (mut names, mut numbers, mut node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for _ in 0..=random.below(3) {
        let (name, protocol) = (random.pick(&PORT_NAMES), random.pick(&PROTOCOLS));
        let number = random.pick(&PORTS);
        let proto = protocol.unwrap_or("TCP");
        if !names.insert((name, proto)) || !numbers.insert((number, proto)) {
            continue;
        }
        let node_port = (outside && random.percent(75)).then(|| random.pick(&NODE_PORTS));
        let node_port = node_port.filter(|number| node_ports.insert((*number, proto)));
        ports.push(ServicePort {
            name: (!name.is_empty() || random.percent(50)).then(|| owned(name)),
            protocol: protocol.map(owned),
            port: number,
            node_port: node_port.or_else(|| random.pick(&[None, Some(0)])),
            ..ServicePort::default()
        });
    }
    ports
}

fn status(random: &mut Random) -> ServiceStatus {
    let ingress = random.some(&OUTSIDE, 3).into_iter().map(|ip| LoadBalancerIngress {
        ip: (!random.percent(10)).then(|| owned(ip)),
        ip_mode: random.pick(&[None, Some("VIP"), Some("VIP"), Some("Proxy")]).map(owned),
        hostname: random.percent(10).then(|| owned("lb.example")),
        ports: None,
    });
    let ingress = Some(ingress.collect());
    ServiceStatus {
        load_balancer: Some(LoadBalancerStatus { ingress }),
        ..ServiceStatus::default()
    }
}

impl World {
    /// Changes a few objects; sometimes many.
    pub(crate) fn change(&mut self, random: &mut Random) {
        let changes = if random.percent(20) { 12 } else { 1 + random.below(3) };
        for _ in 0..changes {
            match random.below(20) {
                0 => self.zone = random.pick(&[None, Some("z1"), Some("z2")]),
                1..9 => {
                    let names = service_names();
                    let name = &names[random.below(names.len())];
                    if random.percent(15) {
                        let _before = self.services.remove(name);
                    } else {
                        let service = service(random, name);
                        let _before = self.services.insert(name.clone(), service);
                    }
                }
                _ => {
                    let names = slice_names();
                    let name = &names[random.below(names.len())];
                    if random.percent(15) {
                        let _before = self.slices.remove(name);
                    } else {
                        let slice = slices::slice(random, name);
                        let _before = self.slices.insert(name.clone(), slice);
                    }
                }
            }
        }
    }

    /// What the source tells of the node.
    pub(crate) fn node(&self) -> Event {
        let zone = self.zone.map(|zone| ("topology.kubernetes.io/zone".to_owned(), owned(zone)));
        let metadata = ObjectMeta {
            name: Some(owned(NODE)),
            labels: zone.map(|zone| [zone].into()),
            ..ObjectMeta::default()
        };
        Event::PutNode(convert::node(&Node { metadata, ..Node::default() }))
    }

    /// The same with one object, endpoint or list less.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut less = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            all.push(world);
        };
        for name in self.services.keys() {
            less(&|world| drop(world.services.remove(name)));
        }
        for (name, slice) in &self.slices {
            less(&|world| drop(world.slices.remove(name)));
            for i in 0..slice.endpoints.as_ref().map_or(0, Vec::len) {
                less(&|world| {
                    let slice = world.slices.get_mut(name).and_then(|s| s.endpoints.as_mut());
                    drop(slice.map(|endpoints| endpoints.remove(i)));
                });
            }
        }
        all
    }
}
