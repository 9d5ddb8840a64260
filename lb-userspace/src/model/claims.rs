//! Claims: which Service holds a port of an address, or a node port.
//!
//! Invariant: an address that the cluster gave to a Service is not lost to one that only names it: of
//! several Services that want the same, those go first whose cluster IP it is, then those whose load
//! balancer has it, then those with an external IP. Of these the oldest holds it; of those equally
//! old, or of unknown age, the one that holds it already, here or in the maps that an earlier agent
//! left; and else the first by namespace and name. Within a batch the order does not matter, and the
//! next one takes over when the holder goes.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use lb_common::Family;

use super::object::{ObjectName, ProtoName, Service, family};

/// Something that only one Service can have.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Claim {
    /// A port of an address that is not the node's: a VIP, an external IP, a load balancer's.
    Vip {
        /// The address.
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

/// By what right a Service claims something, the best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Right {
    /// It is its cluster IP, or its node port.
    Allocated,
    /// Its load balancer has the address.
    LoadBalancer,
    /// It names the address in its external IPs.
    ExternalIp,
}

impl Claim {
    /// By what right `service` claims this.
    pub(super) fn right(&self, service: &Service) -> Right {
        match self {
            Self::Vip { addr, .. } if service.external_ips.contains(addr) => Right::ExternalIp,
            Self::Vip { addr, .. } if service.load_balancer_ips.contains(addr) => {
                Right::LoadBalancer
            }
            Self::Vip { .. } | Self::NodePort { .. } => Right::Allocated,
        }
    }
}

/// Who claims what.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<Claim, Arc<Service>>,
    /// All claimants, where there are several; the first is the holder.
    contested: HashMap<Claim, Vec<Arc<Service>>>,
    /// Who held what is contested before this batch.
    incumbents: HashMap<Claim, ObjectName>,
    /// What an earlier agent programmed, until everything that exists is known.
    adopted: HashMap<Claim, ObjectName>,
    /// Claims that nobody had before this batch.
    fresh: HashSet<Claim>,
    /// Contested claims to be settled at the end of this batch.
    unsettled: HashSet<Claim>,
}

impl Claims {
    /// The Service that holds `claim`.
    pub(super) fn holder(&self, claim: &Claim) -> Option<&Service> {
        self.holders.get(claim).map(|service| &**service)
    }

    /// Replaces the claims of a Service, and adds to `touched` every Service for which something
    /// may have changed by that.
    pub(super) fn replace(
        &mut self,
        old: Option<&Arc<Service>>,
        new: Option<&Arc<Service>>,
        touched: &mut BTreeSet<ObjectName>,
    ) {
        // What it claims before and after, equally old, it never gave up.
        let claims = |service: Option<&Arc<Service>>| {
            let mut claims = HashSet::new();
            if let Some(service) = service {
                of(service, |claim| {
                    let _new = claims.insert(claim);
                });
            }
            claims
        };
        let kept: HashSet<Claim> = match (old, new) {
            (Some(before), Some(after)) if before.created == after.created => {
                let mut kept = claims(old);
                let asked = claims(new);
                kept.retain(|claim| {
                    asked.contains(claim) && claim.right(before) == claim.right(after)
                });
                kept
            }
            _ => HashSet::new(),
        };
        if let Some(old) = old {
            of(old, |claim| {
                if !kept.contains(&claim) {
                    self.withdraw(claim, old, touched);
                }
            });
        }
        if let Some(new) = new {
            of(new, |claim| match kept.contains(&claim) {
                true => self.renew(claim, new),
                false => self.enter(claim, new, touched),
            });
        }
    }

    /// Says who holds what in the maps of an earlier agent.
    pub(super) fn adopt(&mut self, holders: impl IntoIterator<Item = (Claim, ObjectName)>) {
        self.adopted.extend(holders);
    }

    /// Ends a batch: who holds something now keeps it against those who are equally old.
    pub(super) fn settle(&mut self, complete: bool) {
        self.fresh.clear();
        for claim in std::mem::take(&mut self.unsettled) {
            let _before = match self.contested.get_mut(&claim) {
                Some(claimants) => {
                    let holder = claimants[0].name.clone();
                    claimants.sort_by(|a, b| {
                        let key = |s: &Service| {
                            (claim.right(s), created(s), Reverse(s.name == holder), s.name.clone())
                        };
                        key(a).cmp(&key(b))
                    });
                    self.incumbents.insert(claim, holder)
                }
                None => self.incumbents.remove(&claim),
            };
        }
        if complete {
            self.adopted = HashMap::new();
        }
    }

    /// The Service changed otherwise.
    fn renew(&mut self, claim: Claim, service: &Arc<Service>) {
        let holder = self.holders.get_mut(&claim);
        let claimants = self.contested.get_mut(&claim);
        let all = holder.into_iter().chain(claimants.into_iter().flatten());
        all.filter(|other| other.name == service.name).for_each(|other| *other = service.clone());
    }

    /// Whether a Service had this before others of its age came.
    fn is_incumbent(&self, claim: &Claim, name: &ObjectName) -> bool {
        self.incumbents.get(claim).or_else(|| self.adopted.get(claim)) == Some(name)
    }

    fn enter(&mut self, claim: Claim, service: &Arc<Service>, touched: &mut BTreeSet<ObjectName>) {
        let Some(holder) = self.holders.get(&claim) else {
            let _none = self.holders.insert(claim, service.clone());
            let _new = self.fresh.insert(claim);
            return;
        };
        let mut claimants = self.contested.remove(&claim).unwrap_or_default();
        if claimants.is_empty() {
            if !self.fresh.contains(&claim) {
                let _none = self.incumbents.insert(claim, holder.name.clone());
            }
            claimants.push(holder.clone());
        }
        claimants.push(service.clone());
        claimants.sort_by(|a, b| {
            let key = |s: &Service| {
                let incumbent = self.is_incumbent(&claim, &s.name);
                (claim.right(s), created(s), Reverse(incumbent), s.name.clone())
            };
            key(a).cmp(&key(b))
        });
        touched.extend(claimants.iter().map(|claimant| claimant.name.clone()));
        let _before = self.holders.insert(claim, claimants[0].clone());
        let _none = self.contested.insert(claim, claimants);
        let _new = self.unsettled.insert(claim);
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
        let _new = self.unsettled.insert(claim);
    }
}

fn created(service: &Service) -> i64 {
    service.created.unwrap_or(i64::MAX)
}

/// Calls `each` with every claim of a Service.
pub(super) fn of(service: &Service, mut each: impl FnMut(Claim)) {
    for port in &service.ports {
        for addr in service.external_ips.iter().chain(&service.load_balancer_ips) {
            each(Claim::Vip { addr: *addr, port: port.port, proto: port.proto });
        }
        for addr in service.vips() {
            each(Claim::Vip { addr, port: port.port, proto: port.proto });
            if let Some(node_port) = port.node_port {
                let family = family(addr);
                each(Claim::NodePort { family, port: node_port, proto: port.proto });
            }
        }
    }
}
