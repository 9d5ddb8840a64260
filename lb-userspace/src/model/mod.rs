//! The model: what the cluster wants, kept from events in any order.
//!
//! Invariant: what is desired, and what is wrong, are functions of the objects as they are now. The
//! model does no I/O, reads no clock, and cannot fail: a bad object is a problem, never an error.

mod check;
mod claims;
mod desired;
mod event;
mod object;
mod problem;
mod select;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

pub use claims::Claim;
use claims::Claims;
pub use desired::{Desired, DesiredBackend, DesiredPort, DesiredService};
pub use event::{Coverage, Event};
use lb_common::Family;
pub use object::{
    Conditions, Endpoint, Exposure, Node, ObjectName, ProtoName, Service, ServicePort, Slice,
    SlicePort, TrafficPolicy, family,
};
pub use problem::{Problem, Remark, Severity, Subject};

/// The Services, their slices, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Model {
    services: HashMap<ObjectName, Arc<Service>>,
    /// The Service that each slice belongs to, by the name of the slice: when a slice changes its
    /// label, the old Service must lose it.
    owners: HashMap<ObjectName, ObjectName>,
    /// The slices of each Service, there or not, sorted by name.
    slices: HashMap<ObjectName, Vec<Arc<Slice>>>,
    claims: Claims,
    problems: BTreeMap<Subject, Vec<Problem>>,
    node: Option<Node>,
    coverage: Coverage,
}

impl Model {
    /// A model that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
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
                Event::PutNode(node) => self.node = Some(node),
                Event::DeleteNode => self.node = None,
                Event::Problems(subject, problems) => self.report(subject, problems),
                Event::Coverage(coverage) => self.coverage = coverage,
            }
        }
        self.claims.settle(self.coverage == Coverage::Full);
        for name in &touched {
            self.check(name);
        }
        touched
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

    fn put_service(&mut self, service: Arc<Service>, touched: &mut BTreeSet<ObjectName>) {
        let name = service.name.clone();
        if self.services.get(&name) == Some(&service) {
            return;
        }
        let old = self.services.insert(name.clone(), service.clone());
        self.claims.replace(old.as_ref(), Some(&service), touched);
        let _new = touched.insert(name);
    }

    fn delete_service(&mut self, name: ObjectName, touched: &mut BTreeSet<ObjectName>) {
        if let Some(old) = self.services.remove(&name) {
            self.claims.replace(Some(&old), None, touched);
            let _new = touched.insert(name);
        }
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
        let service = self.services.get(name).cloned();
        for slice in &slices {
            let problems = check::slice(slice, service.as_deref());
            self.report(Subject::Slice(slice.name.clone()), problems);
        }
        let problems = match &service {
            Some(service) => check::service(service, &slices, &self.claims),
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
        let Some(service) = self.services.get(name) else { return DesiredService::default() };
        let slices = self.slices.get(name).map_or(&[][..], Vec::as_slice);
        let holds = |claim| self.claims.holder(&claim) == Some(name);
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let proto = port.proto;
            for family in [Family::V4, Family::V6] {
                let Some(addr) = service.vip(family) else { continue };
                ports.push(DesiredPort {
                    name: port.name.clone(),
                    proto,
                    family,
                    port: port.port,
                    vip: holds(Claim::Vip { addr, port: port.port, proto }).then_some(addr),
                    external_ips: Vec::new(),
                    load_balancer_ips: Vec::new(),
                    node_port: port
                        .node_port
                        .filter(|port| holds(Claim::NodePort { family, port: *port, proto })),
                    internal_policy: TrafficPolicy::Cluster,
                    external_policy: TrafficPolicy::Cluster,
                    affinity: None,
                    source_ranges: None,
                    backends: select::serving_set(port, family, slices),
                });
            }
        }
        ports.sort_unstable_by(|a, b| {
            (&a.name, a.proto, a.family).cmp(&(&b.name, b.proto, b.family))
        });
        DesiredService { ports }
    }
}
