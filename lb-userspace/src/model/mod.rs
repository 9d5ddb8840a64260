//! The model: what the cluster wants, kept from events in any order.
//!
//! Invariant: what is desired, and what is wrong, are functions of the objects as they are now. The
//! model does no I/O, reads no clock, and cannot fail: a bad object is a problem, never an error.

mod check;
mod claims;
mod desired;
mod event;
mod external;
mod local;
mod object;
mod problem;
mod select;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

pub use claims::Claim;
use claims::Claims;
pub use desired::{Desired, DesiredBackend, DesiredPort, DesiredService};
pub use event::{Coverage, Event};
pub use external::ExternalIps;
use external::Reduced;
use lb_common::Family;
use local::Local;
pub use local::{HealthCheck, NoLocalEndpoints};
pub use object::{
    Conditions, Endpoint, Exposure, Hints, Node, ObjectName, ProtoName, Service, ServicePort,
    Slice, SlicePort, SourceRanges, TrafficPolicy, family,
};
pub use problem::{Problem, Remark, Severity, Subject};
use select::{Candidates, Here};

/// The Services, their slices, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Model {
    services: HashMap<ObjectName, Arc<Service>>,
    /// What is served of those that are not served as they are.
    reduced: HashMap<ObjectName, Reduced>,
    /// The Service that each slice belongs to, by the name of the slice: when a slice changes its
    /// label, the old Service must lose it.
    owners: HashMap<ObjectName, ObjectName>,
    /// The slices of each Service, there or not, sorted by name.
    slices: HashMap<ObjectName, Vec<Arc<Slice>>>,
    claims: Claims,
    /// What Services have on this node, of those where it matters.
    local: BTreeMap<ObjectName, Local>,
    /// Where the agent is.
    here: Here,
    external_ips: ExternalIps,
    /// The addresses by which the node is known to others.
    primary: BTreeSet<IpAddr>,
    problems: BTreeMap<Subject, Vec<Problem>>,
    node: Option<Node>,
    coverage: Coverage,
}

impl Model {
    /// A model that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says on which node the agent is, by the name that endpoints give it. Call it before the first
    /// events.
    pub fn set_node_name(&mut self, name: &str) {
        self.here.node = name.into();
    }

    /// Says which external IPs are served. Call it before the first events.
    pub fn set_external_ips(&mut self, external_ips: ExternalIps) {
        self.external_ips = external_ips;
    }

    /// Says by which addresses the node is known to others; returns the Services for which something
    /// may have changed.
    pub fn set_primary(&mut self, primary: BTreeSet<IpAddr>) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        if self.primary == primary {
            return touched;
        }
        self.primary = primary;
        let named = self.services.values().filter(|service| !service.external_ips.is_empty());
        for service in named.cloned().collect::<Vec<_>>() {
            self.claim(&service.name, Some(&service), self.served(&service.name), &mut touched);
        }
        self.settle(touched)
    }

    /// Says which Service has which VIP's port and which node port in the maps of an earlier agent:
    /// it keeps them against Services that are not older. Call it before the first events.
    pub fn adopt(&mut self, holders: impl IntoIterator<Item = (Claim, ObjectName)>) {
        self.claims.adopt(holders);
    }

    /// Takes in a batch of events; returns the Services for which something may have changed.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for event in events {
            match event {
                Event::PutService(service) => self.put_service(service, &mut touched),
                Event::DeleteService(name) => self.delete_service(name, &mut touched),
                Event::PutSlice(slice) => {
                    self.remove_slice(&slice.name, &mut touched);
                    self.put_slice(slice, &mut touched);
                }
                Event::DeleteSlice(name) => self.remove_slice(&name, &mut touched),
                Event::PutNode(node) => self.put_node(Some(node), &mut touched),
                Event::DeleteNode => self.put_node(None, &mut touched),
                Event::Problems(subject, problems) => self.report(subject, problems),
                Event::Coverage(coverage) => self.coverage = coverage,
            }
        }
        self.settle(touched)
    }

    /// How much of what the source has is known.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// The node that the agent runs on, once the source told.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(|service| &**service)
    }

    /// A slice, if it belongs to a Service.
    pub fn slice(&self, name: &ObjectName) -> Option<&Slice> {
        let slices = self.slices.get(self.owners.get(name)?)?;
        slices.iter().find(|slice| slice.name == *name).map(|slice| &**slice)
    }

    /// Names of all Services, sorted.
    pub fn service_names(&self) -> BTreeSet<ObjectName> {
        self.services.keys().cloned().collect()
    }

    /// Everything that is wrong, sorted by subject.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// What the health checks of load balancers are to be told, sorted by Service.
    pub fn health_checks(&self) -> impl Iterator<Item = HealthCheck<'_>> {
        self.local.iter().filter_map(|(name, local)| local.check(name))
    }

    /// How many ports of Services serve nobody in one family because of a policy `Local`.
    pub fn no_local_endpoints(&self, family: Family) -> NoLocalEndpoints {
        let mut sum = NoLocalEndpoints::default();
        for local in self.local.values() {
            let NoLocalEndpoints { internal, external } = local.missing(family);
            sum.internal += internal;
            sum.external += external;
        }
        sum
    }

    /// The zone of the node is all of it that decides who is served by what.
    fn put_node(&mut self, node: Option<Node>, touched: &mut BTreeSet<ObjectName>) {
        let zone = node.as_ref().and_then(|node| node.zone.clone());
        if self.here.zone != zone {
            self.here.zone = zone;
            let slices = self.slices.iter();
            let mut concerned =
                slices.filter(|(_, slices)| slices.iter().any(|slice| select::has_zones(slice)));
            touched.extend(concerned.by_ref().map(|(service, _)| service.clone()));
        }
        self.node = node;
    }

    fn put_service(&mut self, service: Arc<Service>, touched: &mut BTreeSet<ObjectName>) {
        let name = service.name.clone();
        if self.services.get(&name) == Some(&service) {
            return;
        }
        let old = self.served(&name);
        self.claim(&name, Some(&service), old, touched);
        let _before = self.services.insert(name.clone(), service);
        let _new = touched.insert(name);
    }

    fn delete_service(&mut self, name: ObjectName, touched: &mut BTreeSet<ObjectName>) {
        let old = self.served(&name);
        if self.services.remove(&name).is_some() {
            self.claim(&name, None, old, touched);
            let _new = touched.insert(name);
        }
    }

    /// What is served of a Service.
    fn served(&self, name: &ObjectName) -> Option<Arc<Service>> {
        let reduced = self.reduced.get(name).map(|reduced| &reduced.service);
        reduced.or_else(|| self.services.get(name)).cloned()
    }

    /// A Service of which `old` was served is `service` now.
    fn claim(
        &mut self,
        name: &ObjectName,
        service: Option<&Arc<Service>>,
        old: Option<Arc<Service>>,
        touched: &mut BTreeSet<ObjectName>,
    ) {
        let reduced = |service| Reduced::new(service, self.external_ips, &self.primary);
        let reduced = service.and_then(reduced);
        let new = reduced.as_ref().map(|reduced| &reduced.service).or(service);
        if old.as_ref() != new {
            self.claims.replace(old.as_ref(), new, touched);
            let _new = touched.insert(name.clone());
        }
        let _before = match reduced {
            Some(reduced) => self.reduced.insert(name.clone(), reduced),
            None => self.reduced.remove(name),
        };
    }

    /// Ends a batch.
    fn settle(&mut self, touched: BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        self.claims.settle(self.coverage == Coverage::Full);
        for name in &touched {
            self.check(name);
        }
        touched
    }

    fn put_slice(&mut self, slice: Arc<Slice>, touched: &mut BTreeSet<ObjectName>) {
        let Some(owner) = slice.owner() else {
            let problems = check::slice(&slice, None);
            self.report(Subject::Slice(slice.name.clone()), problems);
            return;
        };
        let _none = self.owners.insert(slice.name.clone(), owner.clone());
        let slices = self.slices.entry(owner.clone()).or_insert_with(|| Vec::with_capacity(1));
        let place = slices.partition_point(|other| other.name < slice.name);
        slices.insert(place, slice);
        let _new = touched.insert(owner);
    }

    fn remove_slice(&mut self, name: &ObjectName, touched: &mut BTreeSet<ObjectName>) {
        self.report(Subject::Slice(name.clone()), Vec::new());
        let Some(owner) = self.owners.remove(name) else { return };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.retain(|slice| slice.name != *name);
            if slices.is_empty() {
                let _empty = self.slices.remove(&owner);
            }
        }
        let _new = touched.insert(owner);
    }

    /// Renews the problems of a Service and of its slices.
    fn check(&mut self, name: &ObjectName) {
        let slices = self.slices.get(name).cloned().unwrap_or_default();
        let service = self.served(name);
        for slice in &slices {
            let problems = check::slice(slice, service.as_deref());
            self.report(Subject::Slice(slice.name.clone()), problems);
        }
        let local = service.as_ref().and_then(|service| Local::of(service, &slices, &self.here));
        let _before = match local {
            Some(local) => self.local.insert(name.clone(), local),
            None => self.local.remove(name),
        };
        let problems = match &service {
            Some(service) => {
                let refused = self.reduced.get(name).into_iter().flat_map(Reduced::remarks);
                check::service(service, refused, &slices, &self.claims)
            }
            None => Vec::new(),
        };
        self.report(Subject::Service(name.clone()), problems);
    }

    fn report(&mut self, subject: Subject, problems: Vec<Problem>) {
        let _before = match problems.is_empty() {
            true => self.problems.remove(&subject),
            false => self.problems.insert(subject, problems),
        };
    }
}

impl Desired for Model {
    fn desired(&self, name: &ObjectName) -> DesiredService {
        let Some(service) = self.served(name) else { return DesiredService::default() };
        let slices = self.slices.get(name).map_or(&[][..], Vec::as_slice);
        let holds = |claim| self.claims.holder(&claim).is_some_and(|holder| holder.name == *name);
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let proto = port.proto;
            for of in [Family::V4, Family::V6] {
                let Some(vip) = service.vip(of) else { continue };
                let held =
                    |addr: &IpAddr| holds(Claim::Vip { addr: *addr, port: port.port, proto });
                let held_of = |addrs: &[IpAddr]| {
                    addrs.iter().copied().filter(|addr| family(*addr) == of && held(addr)).collect()
                };
                ports.push(DesiredPort {
                    name: port.name.clone(),
                    proto,
                    family: of,
                    port: port.port,
                    vip: held(&vip).then_some(vip),
                    external_ips: held_of(&service.external_ips),
                    load_balancer_ips: held_of(&service.load_balancer_ips),
                    node_port: port
                        .node_port
                        .filter(|port| holds(Claim::NodePort { family: of, port: *port, proto })),
                    internal_policy: service.internal_policy,
                    external_policy: service.external_policy,
                    affinity: service.affinity,
                    source_ranges: service.source_ranges.of(of).cloned(),
                    backends: Candidates::new(&port.name, proto, of, slices, &self.here).sets(),
                });
            }
        }
        ports.sort_unstable_by(|a, b| {
            (&a.name, a.proto, a.family).cmp(&(&b.name, b.proto, b.family))
        });
        DesiredService { ports }
    }
}
