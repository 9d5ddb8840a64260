//! What the contract says about a world, written down as directly as it reads.
//!
//! Invariant: this shares no code with the agent, keeps nothing between two worlds, and cares for no
//! speed. It starts from the objects of the API. The ids are those of docs/parity.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use crate::{
    endpoints::{Entry, cluster_set, entries, local_set, protocol_number, slices},
    network::{Net, address},
    world::{self, LOCAL, Name, PRIMARY, World},
};

/// An address, port and protocol that clients use.
pub(crate) type Key = (IpAddr, u16, u8);

/// An endpoint: address and port.
pub(crate) type At = (IpAddr, u16);

/// Kinds of frontends, in the order in which they go before each other (SVC-17).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    ClusterIP,
    LoadBalancer,
    ExternalIP,
    NodePort,
}

/// One port of a Service in one family, and who gets what from it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Port {
    pub(crate) service: Name,
    pub(crate) name: String,
    pub(crate) proto: u8,
    pub(crate) v4: bool,
    created: i64,
    number: u16,
    node_port: Option<u16>,
    vip: IpAddr,
    load_balancers: BTreeSet<IpAddr>,
    external_ips: BTreeSet<IpAddr>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) affinity: u32,
    /// Networks that clients of load balancers may be in; none: all may.
    ranges: Option<Vec<Net>>,
    /// Whether hints leave out ready endpoints.
    pub(crate) hinted: bool,
    /// The sets of endpoints that new connections choose from.
    pub(crate) cluster: BTreeSet<At>,
    pub(crate) local: BTreeSet<At>,
    /// All that may keep the flows that they have.
    pub(crate) serving: BTreeSet<At>,
    /// Of those, the ones on this node, and the ones that are known to be on another.
    pub(crate) here: BTreeSet<At>,
    pub(crate) elsewhere: BTreeSet<At>,
}

/// What a frontend is.
#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) kind: Kind,
    pub(crate) port: Port,
    /// The addresses of the load balancer that lead to this port.
    own: BTreeSet<IpAddr>,
}

/// What a load balancer is told: the port, and how many addresses are ready here, by family.
pub(crate) type Check = (Name, u16, [Option<usize>; 2]);

/// Everything about a world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contract {
    pub(crate) frontends: BTreeMap<Key, Frontend>,
    pub(crate) checks: Vec<Check>,
    /// Ports without local endpoints, by family: those of the internal, and of the external policy.
    pub(crate) missing: [(u64, u64); 2],
}

/// Reads a world.
pub(crate) fn read(world: &World) -> Contract {
    let mut contract = Contract::default();
    let mut ports = Vec::new();
    for (name, service) in &world.services {
        if !is_served(service) {
            continue;
        }
        for v4 in [true, false] {
            ports.extend(ports_of(world, name, service, v4));
        }
        contract.checks.extend(check(world, name, service));
    }
    for port in &ports {
        let missing = &mut contract.missing[usize::from(!port.v4)];
        // TP-14.
        if !port.cluster.is_empty() && port.local.is_empty() {
            missing.0 += u64::from(port.internal_local);
            let outside = port.node_port.is_some()
                || !port.load_balancers.is_empty()
                || !port.external_ips.is_empty();
            missing.1 += u64::from(port.external_local && outside);
        }
    }
    contract.frontends = frontends(&ports);
    contract
}

/// SVC-15, SVC-17: who gets an address and port that several want.
fn frontends(ports: &[Port]) -> BTreeMap<Key, Frontend> {
    let mut wishes: BTreeMap<Key, Vec<(Kind, &Port)>> = BTreeMap::new();
    for port in ports {
        let mut wish = |kind, addr: IpAddr, number| {
            wishes.entry((addr, number, port.proto)).or_default().push((kind, port));
        };
        wish(Kind::ClusterIP, port.vip, port.number);
        port.load_balancers.iter().for_each(|ip| wish(Kind::LoadBalancer, *ip, port.number));
        port.external_ips.iter().for_each(|ip| wish(Kind::ExternalIP, *ip, port.number));
        // A node port belongs to one Service on all addresses of a family.
        let older = |other: &&Port| {
            (other.v4, other.node_port, other.proto) == (port.v4, port.node_port, port.proto)
                && other.created < port.created
        };
        if let Some(number) = port.node_port
            && ports.iter().find(older).is_none()
        {
            let node = world::addresses(&LOCAL).into_iter();
            let family = node.filter(|ip| ip.is_ipv4() == port.v4);
            family.for_each(|ip| wish(Kind::NodePort, ip, number));
        }
    }
    let best = wishes.iter().map(|(key, wishes)| {
        let (kind, port) =
            wishes.iter().min_by_key(|(kind, port)| (*kind, port.created)).expect("a wish");
        (*key, (*kind, Port::clone(port)))
    });
    let best: BTreeMap<Key, (Kind, Port)> = best.collect();
    let own = |port: &Port| {
        let own = best.iter().filter(|(_, (kind, other))| {
            *kind == Kind::LoadBalancer
                && (&other.service, &other.name) == (&port.service, &port.name)
        });
        own.filter(|(key, (_, other))| key.2 == port.proto && other.v4 == port.v4)
            .map(|(key, _)| key.0)
            .collect()
    };
    best.iter()
        .map(|(key, (kind, port))| {
            (*key, Frontend { kind: *kind, port: port.clone(), own: own(port) })
        })
        .collect()
}

impl Frontend {
    pub(crate) fn is_local(&self) -> bool {
        match self.kind {
            Kind::ClusterIP => self.port.internal_local,
            Kind::LoadBalancer | Kind::ExternalIP | Kind::NodePort => self.port.external_local,
        }
    }

    /// SR-1, SR-2, SR-6: whether a client may use it.
    pub(crate) fn admits(&self, client: IpAddr) -> bool {
        let Some(ranges) = &self.port.ranges else { return true };
        let inside = |ip: IpAddr| ranges.iter().any(|range| range.contains(ip));
        let node_may = world::addresses(&PRIMARY).into_iter().any(inside);
        self.kind != Kind::LoadBalancer
            || inside(client)
            || (node_may && self.own.contains(&client))
    }

    pub(crate) fn is_restricted(&self) -> bool {
        self.kind == Kind::LoadBalancer && self.port.ranges.is_some()
    }
}

/// SVC-4, SVC-5, SVC-6, SVC-9.
fn is_served(service: &Service) -> bool {
    let labels = service.metadata.labels.clone().unwrap_or_default();
    let spec = service.spec.clone().expect("a spec");
    let first = addresses(&spec).into_iter().next();
    !labels.contains_key("service.kubernetes.io/service-proxy-name")
        && spec.type_.as_deref() != Some("ExternalName")
        && first.is_some_and(|ip| ip != "None")
}

fn addresses(spec: &ServiceSpec) -> Vec<String> {
    let one = spec.cluster_ip.clone().into_iter().filter(|ip| !ip.is_empty());
    spec.cluster_ips.clone().filter(|ips| !ips.is_empty()).unwrap_or_else(|| one.collect())
}

/// FAM-6: by the place in `ipFamilies`; of old objects by the address.
fn vip(spec: &ServiceSpec, v4: bool) -> Option<IpAddr> {
    let ips = addresses(spec);
    let family = if v4 { "IPv4" } else { "IPv6" };
    let place = match &spec.ip_families {
        Some(families) => families.iter().position(|other| other == family)?,
        None => 0,
    };
    address(ips.get(place)?).filter(|ip| ip.is_ipv4() == v4)
}

fn ports_of(world: &World, name: &Name, service: &Service, v4: bool) -> Vec<Port> {
    let spec = service.spec.clone().expect("a spec");
    let Some(vip) = vip(&spec, v4) else { return Vec::new() };
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    // LB-1 to LB-4.
    let status = service.status.clone().unwrap_or_default().load_balancer.unwrap_or_default();
    let mut load_balancers = BTreeSet::new();
    for ingress in status.ingress.unwrap_or_default() {
        if balanced && ingress.ip_mode.as_deref() != Some("Proxy") {
            load_balancers.extend(address(&ingress.ip.unwrap_or_default()));
        }
    }
    // FAM-7.
    load_balancers.retain(|ip| ip.is_ipv4() == v4 && *ip != vip);
    let texts = spec.external_ips.clone().unwrap_or_default();
    let mut external_ips: BTreeSet<IpAddr> = texts.iter().filter_map(|ip| address(ip)).collect();
    external_ips.retain(|ip| ip.is_ipv4() == v4 && *ip != vip && !load_balancers.contains(ip));
    // EIP-5: not the node's own addresses.
    let refused = world::addresses(&PRIMARY);
    external_ips.retain(|ip| !refused.contains(ip));
    let created = service.metadata.creation_timestamp.clone().expect("a time").0.as_second();
    let ports = spec.ports.iter().flatten().map(|port| {
        let ServicePort { name: port_name, protocol, port: number, node_port, .. } = port.clone();
        let (port_name, proto) = (port_name.unwrap_or_default(), protocol_number(protocol));
        let entries = entries(world, name, &port_name, proto, v4);
        let chosen = |of: &dyn Fn(&Entry) -> bool| {
            entries.iter().filter(|entry| of(entry)).map(|entry| entry.at).collect()
        };
        Port {
            service: name.clone(),
            proto,
            v4,
            created,
            number: u16::try_from(number).expect("a port"),
            node_port: node_port.filter(|n| *n != 0).map(|n| u16::try_from(n).expect("a port")),
            vip,
            load_balancers: load_balancers.clone(),
            external_ips: external_ips.clone(),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: is_external_local(&spec),
            affinity: affinity(&spec),
            ranges: if balanced { ranges(&spec, v4) } else { None },
            hinted: cluster_set(&entries, world.zone).len()
                < entries.iter().filter(|entry| entry.ready).count(),
            cluster: cluster_set(&entries, world.zone),
            local: local_set(&entries),
            // ES-7.
            serving: chosen(&|entry| entry.ready || entry.serving),
            here: chosen(&|entry| (entry.ready || entry.serving) && entry.here),
            elsewhere: chosen(&|entry| (entry.ready || entry.serving) && entry.elsewhere),
            name: port_name,
        }
    });
    ports.collect()
}

/// TP-3.
fn is_external_local(spec: &ServiceSpec) -> bool {
    let reachable = match spec.type_.as_deref() {
        Some("NodePort" | "LoadBalancer") => true,
        _ => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
    };
    reachable && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// AFF-2.
fn affinity(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.clone().and_then(|config| config.client_ip);
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(10_800);
    seconds.clamp(1, 86_400).unsigned_abs()
}

/// HC-1, HC-5, EP-8.
fn check(world: &World, name: &Name, service: &Service) -> Option<Check> {
    let spec = service.spec.clone().expect("a spec");
    let port = spec.health_check_node_port.filter(|port| *port != 0)?;
    if spec.type_.as_deref() != Some("LoadBalancer") || !is_external_local(&spec) {
        return None;
    }
    let counts = [true, false].map(|v4| {
        let _vip = vip(&spec, v4)?;
        let ports = slices(world, name, v4).flat_map(|slice| slice.ports.iter().flatten());
        let names: BTreeSet<(String, u8)> = ports
            .filter_map(|port| Some((port.name.clone()?, protocol_number(port.protocol.clone()))))
            .collect();
        let entries = names.iter().flat_map(|(port, proto)| entries(world, name, port, *proto, v4));
        let ready = entries.filter(|entry| entry.here && entry.ready);
        Some(ready.map(|entry| entry.at.0).collect::<BTreeSet<IpAddr>>().len())
    });
    (counts != [None, None]).then(|| (name.clone(), u16::try_from(port).expect("a port"), counts))
}

/// SR-4, SR-5, SR-10, FAM-7.
fn ranges(spec: &ServiceSpec, v4: bool) -> Option<Vec<Net>> {
    let texts = spec.load_balancer_source_ranges.clone().unwrap_or_default();
    let nets: Vec<Net> = texts.iter().filter_map(|text| Net::parse(text)).collect();
    if !texts.is_empty() && nets.is_empty() {
        return Some(Vec::new());
    }
    let nets: Vec<Net> = nets.into_iter().filter(|net| net.v4 == v4).collect();
    (!nets.is_empty() && nets.iter().all(|net| net.len != 0)).then_some(nets)
}
