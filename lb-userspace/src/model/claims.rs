//! Claims: which Service holds a VIP's port or a node port.
//!
//! Invariant: of several Services that want the same, the oldest holds it; of those equally old, or
//! of unknown age, the first by namespace and name. Arrival order does not matter, and the next one
//! takes over when the holder goes.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use lb_common::Family;

use super::object::{ObjectName, ProtoName, Service, family};

/// Something that only one Service can have.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Claim {
    /// A port of a VIP.
    Vip {
        /// The VIP.
        addr: IpAddr,
        /// The port.
        port: u16,
        /// IANA protocol number.
        proto: u8,
    },
    /// A node port in one family.
    NodePort {
        /// The family.
        family: Family,
        /// The port.
        port: u16,
        /// IANA protocol number.
        proto: u8,
    },
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Vip { addr, port, proto } => {
                let frontend = std::net::SocketAddr::new(addr, port);
                write!(f, "{frontend}/{}", ProtoName(proto))
            }
            Self::NodePort { family: _, port, proto } => {
                write!(f, "node port {port}/{}", ProtoName(proto))
            }
        }
    }
}

/// Who claims what.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<Claim, Arc<Service>>,
    /// All claimants, where there are several; the first is the holder.
    contested: HashMap<Claim, Vec<Arc<Service>>>,
}

impl Claims {
    /// The Service that holds `claim`.
    pub(super) fn holder(&self, claim: &Claim) -> Option<&ObjectName> {
        self.holders.get(claim).map(|service| &service.name)
    }

    /// Replaces the claims of a Service, and adds to `touched` every Service for which something
    /// may have changed by that.
    pub(super) fn replace(
        &mut self,
        old: Option<&Arc<Service>>,
        new: Option<&Arc<Service>>,
        touched: &mut BTreeSet<ObjectName>,
    ) {
        if let Some(old) = old {
            of(old, |claim| self.withdraw(claim, old, touched));
        }
        if let Some(new) = new {
            of(new, |claim| self.enter(claim, new, touched));
        }
    }

    fn enter(&mut self, claim: Claim, service: &Arc<Service>, touched: &mut BTreeSet<ObjectName>) {
        let Some(holder) = self.holders.get_mut(&claim) else {
            let _none = self.holders.insert(claim, service.clone());
            return;
        };
        let claimants = self.contested.entry(claim).or_insert_with(|| vec![holder.clone()]);
        let place = claimants.partition_point(|other| precedence(other) < precedence(service));
        claimants.insert(place, service.clone());
        *holder = claimants[0].clone();
        touched.extend(claimants.iter().map(|claimant| claimant.name.clone()));
    }

    fn withdraw(
        &mut self,
        claim: Claim,
        service: &Arc<Service>,
        touched: &mut BTreeSet<ObjectName>,
    ) {
        let Some(claimants) = self.contested.get_mut(&claim) else {
            let _service = self.holders.remove(&claim);
            return;
        };
        claimants.retain(|claimant| claimant.name != service.name);
        touched.extend(claimants.iter().map(|claimant| claimant.name.clone()));
        if let Some(first) = claimants.first() {
            let _before = self.holders.insert(claim, first.clone());
        }
        if claimants.len() <= 1 {
            let _claimants = self.contested.remove(&claim);
        }
    }
}

fn precedence(service: &Service) -> (i64, &ObjectName) {
    (service.created.unwrap_or(i64::MAX), &service.name)
}

/// Calls `each` with every claim of a Service.
pub(super) fn of(service: &Service, mut each: impl FnMut(Claim)) {
    for port in &service.ports {
        for addr in service.vips() {
            each(Claim::Vip { addr, port: port.port, proto: port.proto });
            if let Some(node_port) = port.node_port {
                let family = family(addr);
                each(Claim::NodePort { family, port: node_port, proto: port.proto });
            }
        }
    }
}
