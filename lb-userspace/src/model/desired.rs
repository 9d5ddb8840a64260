//! What shall be programmed for a Service: the output of the model, the input of the planner.
//!
//! Invariant: two objects that mean the same give equal values, whatever order their parts came in.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc};

use ipnet::IpNet;
use lb_common::{Family, Location};

use super::object::{ObjectName, TrafficPolicy};

/// Something that knows what shall be programmed.
pub trait Desired {
    /// What shall be programmed for this Service; nothing when there is no such Service.
    fn desired(&self, service: &ObjectName) -> DesiredService;
}

/// What shall be programmed for one Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredService {
    /// Its ports, one per name, protocol and family, sorted by them.
    pub ports: Vec<DesiredPort>,
}

/// What shall be programmed for one port of a Service in one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DesiredPort {
    /// Name of the port.
    pub name: Arc<str>,
    /// IANA protocol number.
    pub proto: u8,
    /// The family.
    pub family: Family,
    /// The port of all addresses except the node's.
    pub port: u16,
    /// The cluster IP; `None` when an older Service holds its port.
    pub vip: Option<IpAddr>,
    /// The external IPs whose port no older Service holds, sorted.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses of mode VIP whose port no older Service holds, sorted.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The port of the node addresses; `None` when it has none or an older Service holds it.
    pub node_port: Option<u16>,
    /// Which backends a client of the cluster IP gets.
    pub internal_policy: TrafficPolicy,
    /// Which backends a client outside gets by any other address.
    pub external_policy: TrafficPolicy,
    /// Seconds for which a client keeps its backend; `None` without session affinity.
    pub affinity: Option<NonZeroU32>,
    /// The ranges, sorted, from which the load balancer's addresses may be used; `None` for all.
    pub source_ranges: Option<Vec<IpNet>>,
    /// The serving set, sorted by address and port, each once.
    pub backends: Vec<DesiredBackend>,
}

/// One member of the serving set.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DesiredBackend {
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// Where it is.
    pub location: Location,
    /// Whether it is a member of the cluster set.
    pub cluster: bool,
    /// Whether it is a member of the local set. Not every member of the local set is one of the
    /// cluster set: each falls back to endpoints that terminate on its own.
    pub local: bool,
}

impl Desired for std::collections::BTreeMap<ObjectName, DesiredService> {
    fn desired(&self, service: &ObjectName) -> DesiredService {
        self.get(service).cloned().unwrap_or_default()
    }
}
