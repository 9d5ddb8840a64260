//! What shall be programmed for a Service: the output of the model, the input of the planner.
//!
//! Invariant: two objects that mean the same give equal values, whatever order their parts came in.

use std::{net::IpAddr, sync::Arc};

use lb_common::Family;

use super::object::ObjectName;

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
    /// The VIP and its port; `None` when an older Service holds them.
    pub vip: Option<(IpAddr, u16)>,
    /// The port of the node addresses; `None` when it has none or an older Service holds it.
    pub node_port: Option<u16>,
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
    /// Whether new flows may select it.
    pub selectable: bool,
}

impl Desired for std::collections::BTreeMap<ObjectName, DesiredService> {
    fn desired(&self, service: &ObjectName) -> DesiredService {
        self.get(service).cloned().unwrap_or_default()
    }
}
