//! The objects that sources deliver, in the words of a load balancer, and no larger than needed.
//!
//! Invariant: an object here is well formed. Whatever could not be used was left out by the
//! conversion, which says so in a remark.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    path::Path,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{Family, proto};

use super::problem::Remark;

/// Namespace and name of an object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The name `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// The file that it came from; `None` when from the API.
    pub file: Option<Arc<Path>>,
    /// When it was created, in seconds since 1970.
    pub created: Option<i64>,
    /// By what the API tells it from others of its name.
    pub uid: Option<Arc<str>>,
    /// Whether it has VIPs at all, and if not, why.
    pub exposure: Exposure,
    /// The IPv4 VIP.
    pub vip4: Option<Ipv4Addr>,
    /// The IPv6 VIP.
    pub vip6: Option<Ipv6Addr>,
    /// The external IPs of the families of its VIPs, sorted, each once; none is a VIP of its own or
    /// an address of its load balancer.
    pub external_ips: Vec<IpAddr>,
    /// The addresses of its load balancer whose traffic is ours, of the families of its VIPs,
    /// sorted, each once; none is a VIP of its own.
    pub load_balancer_ips: Vec<IpAddr>,
    /// From where the addresses of its load balancer may be used.
    pub source_ranges: SourceRanges,
    /// Which endpoints a client of a VIP gets.
    pub internal_policy: TrafficPolicy,
    /// Which endpoints a client outside gets by any other address; `Cluster` where there is none.
    pub external_policy: TrafficPolicy,
    /// Seconds for which a client keeps its endpoint; `None` without session affinity.
    pub affinity: Option<NonZeroU32>,
    /// Where its load balancer asks whether this node has endpoints of it.
    pub health_check_node_port: Option<u16>,
    /// The ports, unique by (name, protocol), by (port, protocol) and by (node port, protocol).
    pub ports: Vec<ServicePort>,
    /// What the conversion has to say.
    pub remarks: Vec<Remark>,
}

impl Service {
    /// A Service with VIPs that are not known, and nothing else.
    pub const fn new(name: ObjectName) -> Self {
        Self {
            name,
            file: None,
            created: None,
            uid: None,
            exposure: Exposure::Vips,
            vip4: None,
            vip6: None,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: SourceRanges { v4: None, v6: None },
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            health_check_node_port: None,
            ports: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// The VIPs, IPv4 first.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.vip4.map(IpAddr::V4).into_iter().chain(self.vip6.map(IpAddr::V6))
    }

    /// The VIP of one family.
    pub fn vip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.vip4.map(IpAddr::V4),
            Family::V6 => self.vip6.map(IpAddr::V6),
        }
    }

    /// Whether it has addresses of a family for clients outside, apart from those of the nodes.
    pub fn is_exposed(&self, of: Family) -> bool {
        self.external_ips.iter().chain(&self.load_balancer_ips).any(|addr| family(*addr) == of)
    }
}

/// From where something may be used, by family: sorted ranges, each once, or `None` for everywhere.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct SourceRanges {
    /// By IPv4.
    pub v4: Option<Vec<IpNet>>,
    /// By IPv6.
    pub v6: Option<Vec<IpNet>>,
}

impl SourceRanges {
    /// Those of one family.
    pub const fn of(&self, family: Family) -> Option<&Vec<IpNet>> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

/// Whether a Service has VIPs that are ours.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Exposure {
    /// It has.
    Vips,
    /// `clusterIP: None`.
    Headless,
    /// Type ExternalName, whatever its cluster IP says.
    ExternalName,
    /// No cluster IP yet, or none that could be used.
    Unallocated,
    /// The label `service.kubernetes.io/service-proxy-name` gives it to another proxy.
    OtherProxy,
}

/// Which endpoints a Service's clients get.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TrafficPolicy {
    /// All of the cluster.
    #[default]
    Cluster,
    /// Only those on the client's node, or on the node that the client's packets reach.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ServicePort {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// IANA protocol number.
    pub proto: u8,
    /// The port of the VIPs.
    pub port: u16,
    /// The port of the node addresses.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Slice {
    /// Its name.
    pub name: ObjectName,
    /// The file that it came from; `None` when from the API.
    pub file: Option<Arc<Path>>,
    /// The Service that it belongs to, in the same namespace; `None` when it says none.
    pub service: Option<Arc<str>>,
    /// The family of its addresses; `None` for names (`FQDN`), which are not used.
    pub family: Option<Family>,
    /// The label `service.kubernetes.io/headless`: nothing of it is used.
    pub headless: bool,
    /// When what led to its last change happened, in microseconds since 1970, if it says so.
    pub triggered: Option<i64>,
    /// The ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// The endpoints, all of its family.
    pub endpoints: Vec<Endpoint>,
    /// What the conversion has to say.
    pub remarks: Vec<Remark>,
}

impl Slice {
    /// A slice without anything.
    pub const fn new(name: ObjectName, family: Family) -> Self {
        Self {
            name,
            file: None,
            service: None,
            family: Some(family),
            headless: false,
            triggered: None,
            ports: Vec::new(),
            endpoints: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// The name of the Service that it belongs to.
    pub fn owner(&self) -> Option<ObjectName> {
        let service = self.service.clone()?;
        Some(ObjectName { namespace: self.name.namespace.clone(), name: service })
    }
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SlicePort {
    /// Its name, which joins it with a port of the Service.
    pub name: Arc<str>,
    /// IANA protocol number, which must be the same too.
    pub proto: u8,
    /// The port of the endpoints.
    pub port: u16,
}

/// One endpoint of an EndpointSlice. There may be very many.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub addr: IpAddr,
    /// Its conditions.
    pub conditions: Conditions,
    /// The name of the node that it is on, if it says so.
    pub node: Option<Arc<str>>,
    /// For whose clients it is meant, if it says so.
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    /// An endpoint that does not say where it is.
    pub const fn new(addr: IpAddr, conditions: Conditions) -> Self {
        Self { addr, conditions, node: None, hints: None }
    }
}

/// For whose clients an endpoint is meant. Each list may be empty.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Hints {
    /// Those on these nodes, by name.
    pub nodes: Vec<Arc<str>>,
    /// Those in these zones, by name.
    pub zones: Vec<Arc<str>>,
}

/// The conditions of an endpoint.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Conditions {
    /// It takes new connections.
    pub ready: bool,
    /// It answers, whether or not it is terminating.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
}

/// The node that the agent runs on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its internal addresses, then its external ones.
    pub addresses: Vec<IpAddr>,
    /// The zone that it is in, if it says so.
    pub zone: Option<Arc<str>>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The keys of its taints.
    pub taints: Vec<Arc<str>>,
}

/// The family of an address.
pub const fn family(addr: IpAddr) -> Family {
    match addr {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// A protocol number that prints as its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProtoName(pub u8);

impl fmt::Display for ProtoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            proto::TCP => f.write_str("TCP"),
            proto::UDP => f.write_str("UDP"),
            proto::SCTP => f.write_str("SCTP"),
            other => write!(f, "protocol-{other}"),
        }
    }
}
