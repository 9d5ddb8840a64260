//! The objects that sources deliver, in the words of a load balancer, and no larger than needed.
//!
//! Invariant: an object here is well formed. Whatever could not be used was left out by the
//! conversion, which says so in a remark.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

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
    /// The ports, unique by (name, protocol), by (port, protocol) and by (node port, protocol).
    pub ports: Vec<ServicePort>,
    /// What the conversion has to say.
    pub remarks: Vec<Remark>,
}

impl Service {
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
    /// Whether its endpoints carry topology hints, which are not honoured.
    pub hints: bool,
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

/// One endpoint of an EndpointSlice.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub addr: IpAddr,
    /// Its conditions.
    pub conditions: Conditions,
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
