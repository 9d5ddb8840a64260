//! What a Service has on this node: what health checks of load balancers are told, and which ports
//! with a policy `Local` have no endpoint to give.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::Family;

use super::{
    object::{Exposure, ObjectName, Service, Slice, TrafficPolicy},
    select::{Candidates, Here, is_used},
};

/// What the health check of a load balancer is to be told about this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthCheck<'a> {
    /// The Service.
    pub service: &'a ObjectName,
    /// The port of the node where it is asked.
    pub port: u16,
    /// How many IPv4 addresses of this node's ready endpoints there are; `None` when the Service
    /// has no IPv4 VIP.
    pub v4: Option<u32>,
    /// The same for IPv6.
    pub v6: Option<u32>,
}

impl HealthCheck<'_> {
    /// The count of one family.
    pub const fn count(&self, family: Family) -> Option<u32> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// How many ports of Services have endpoints, but none for a policy `Local` on this node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NoLocalEndpoints {
    /// By the internal traffic policy.
    pub internal: u64,
    /// By the external traffic policy.
    pub external: u64,
}

/// What one Service has here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Local {
    /// The health check node port, with the counts of each family.
    check: Option<(u16, [Option<u32>; 2])>,
    missing: [NoLocalEndpoints; 2],
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Local {
    /// What `service` has; nothing where nobody asks.
    pub(super) fn of(service: &Service, slices: &[Arc<Slice>], here: &Here) -> Option<Self> {
        if service.exposure != Exposure::Vips {
            return None;
        }
        let has = |family: &Family| service.vip(*family).is_some();
        let mut this = Self::default();
        if let Some(port) = service.health_check_node_port {
            let count = |family| has(&family).then(|| ready_here(family, slices, here));
            this.check = Some((port, FAMILIES.map(count)));
        }
        let (internal, external) = (service.internal_policy, service.external_policy);
        if internal == TrafficPolicy::Local || external == TrafficPolicy::Local {
            for (missing, family) in this.missing.iter_mut().zip(FAMILIES) {
                if has(&family) {
                    *missing = missing_here(service, family, slices, here);
                }
            }
        }
        (this != Self::default()).then_some(this)
    }

    pub(super) fn check<'a>(&self, service: &'a ObjectName) -> Option<HealthCheck<'a>> {
        let (port, [v4, v6]) = self.check?;
        Some(HealthCheck { service, port, v4, v6 })
    }

    pub(super) const fn missing(&self, family: Family) -> NoLocalEndpoints {
        match family {
            Family::V4 => self.missing[0],
            Family::V6 => self.missing[1],
        }
    }
}

/// How many addresses the ready endpoints on this node have, by whatever port of the slices.
fn ready_here(family: Family, slices: &[Arc<Slice>], here: &Here) -> u32 {
    let used = slices.iter().filter(|slice| is_used(slice) && slice.family == Some(family));
    let ports: BTreeSet<(&str, u8)> =
        used.flat_map(|slice| &slice.ports).map(|port| (&*port.name, port.proto)).collect();
    let mut addresses: HashSet<IpAddr> = HashSet::new();
    for (name, proto) in ports {
        let candidates = Candidates::new(name, proto, family, slices, here);
        addresses.extend(candidates.ready_here().map(|candidate| candidate.addr));
    }
    u32::try_from(addresses.len()).unwrap_or(u32::MAX)
}

fn missing_here(
    service: &Service,
    family: Family,
    slices: &[Arc<Slice>],
    here: &Here,
) -> NoLocalEndpoints {
    let mut missing = NoLocalEndpoints::default();
    for port in &service.ports {
        let sets = Candidates::new(&port.name, port.proto, family, slices, here).sets();
        let elsewhere = sets.iter().any(|one| one.cluster) && !sets.iter().any(|one| one.local);
        let outside = port.node_port.is_some() || service.is_exposed(family);
        missing.internal += u64::from(elsewhere && service.internal_policy == TrafficPolicy::Local);
        missing.external +=
            u64::from(elsewhere && outside && service.external_policy == TrafficPolicy::Local);
    }
    missing
}
