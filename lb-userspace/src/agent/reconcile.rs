//! One pass of the agent: what changed → model → plan → maps.
//!
//! Generic over the maps and given the time, so that it is tested without a kernel. Invariants:
//! nothing is written before the source has delivered its first listing, nothing that was there
//! before is removed before the source has delivered everything, and what failed is planned again,
//! never replayed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::BackendState;

use crate::{
    cli::ops,
    maps::{ApplyError, Contents, Maps, MapsError},
    model::{Claim, Coverage, Event, Model, ObjectName, Problem},
    plan::{BackendId, Limits, NodeAddresses, Op, Planner},
};

/// Shortest and longest pause before what failed is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The model, the planner and the maps, together.
#[derive(Debug)]
pub struct Reconciler<M> {
    limits: Limits,
    node: NodeAddresses,
    model: Model,
    planner: Planner,
    maps: Counted<M>,
    /// How long to wait after the next failure.
    pause: Duration,
    /// When to try again what failed.
    retry: Option<Instant>,
    node_known: bool,
}

/// What came of a pass.
#[derive(Debug)]
pub struct Pass {
    /// Writes that took effect, by kind.
    pub ops: BTreeMap<&'static str, u64>,
    /// Time in the planner and the maps together.
    pub took: Duration,
    /// Time in the maps.
    pub applying: Duration,
    /// Whether backends left.
    pub left: bool,
    /// What stopped it.
    pub error: Option<ApplyError>,
}

impl Pass {
    /// How many writes took effect.
    pub fn writes(&self) -> u64 {
        self.ops.values().sum()
    }
}

impl<M: Maps> Reconciler<M> {
    /// Takes over maps that hold `contents`.
    pub fn adopt(maps: M, contents: &Contents, limits: Limits, now: Instant) -> Self {
        let planner = Planner::adopt(contents, limits, now);
        let mut model = Model::new();
        model.adopt(planner.holders());
        Self {
            limits,
            node: NodeAddresses::default(),
            model,
            planner,
            maps: Counted { maps, written: Written::default(), batches: 0 },
            pause: PAUSE.0,
            retry: None,
            node_known: false,
        }
    }

    /// Takes in what the source says.
    pub fn events(&mut self, events: impl IntoIterator<Item = Event>) {
        let changed = self.model.apply(events);
        self.planner.mark(changed);
        if self.model.coverage() == Coverage::Full {
            self.planner.prune();
        }
    }

    /// Takes in which addresses the node has.
    pub fn node(&mut self, node: NodeAddresses) {
        self.planner.set_node(node.clone());
        self.node = node;
        self.node_known = true;
    }

    /// How often the maps were written to: contents that were read before and after the same number
    /// of writes can be [compared](Self::compare).
    pub fn written(&self) -> u64 {
        self.maps.batches
    }

    /// Compares the maps with what was written to them. Where somebody else changed something, the
    /// maps are taken over anew as at a start, so that the next pass repairs them; returns how many
    /// entries of each map are concerned.
    pub fn compare(&mut self, contents: &Contents, now: Instant) -> BTreeMap<&'static str, usize> {
        let differences = self.planner.differences(contents);
        if !differences.is_empty() {
            self.planner = Planner::adopt(contents, self.limits, now);
            self.planner.set_node(self.node.clone());
            self.planner.mark(self.model.service_names());
            if self.model.coverage() == Coverage::Full {
                self.planner.prune();
            }
        }
        differences
    }

    /// Backends that left before `instant`, whose ids may be used again once no flow names them.
    pub fn gone_before(&self, instant: Instant) -> Vec<BackendId> {
        self.planner.gone_before(instant)
    }

    /// No flow names these any more, as of a look that began at `instant`.
    pub fn release(&mut self, ids: Vec<BackendId>, instant: Instant) {
        self.planner.release(ids, instant);
    }

    /// Plans and writes what changed; `None` when there is nothing to do, or it is too early.
    pub fn pass(&mut self, now: Instant) -> Option<Pass> {
        let early = self.model.coverage() == Coverage::None || !self.node_known;
        let resting = self.retry.is_some_and(|retry| now < retry);
        let waking = self.planner.wake().is_some_and(|wake| wake <= now);
        if early || resting || (self.planner.is_idle() && !waking) {
            return None;
        }
        let begin = Instant::now();
        let result = self.planner.execute(&self.model, &mut self.maps, now);
        let took = begin.elapsed();
        let Written { ops, applying, left } = std::mem::take(&mut self.maps.written);
        let error = result.err();
        if error.is_some() {
            self.retry = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE.1);
        } else {
            self.retry = None;
            self.pause = PAUSE.0;
        }
        Some(Pass { ops, took, applying, left, error })
    }

    /// When to make a pass although nothing changed.
    pub fn wake(&self) -> Option<Instant> {
        match (self.retry, self.planner.wake()) {
            (Some(retry), Some(wake)) => Some(retry.max(wake)),
            (one, other) => one.or(other),
        }
    }

    /// Whether the maps follow everything that the source said.
    pub fn settled(&self) -> bool {
        let early = self.model.coverage() == Coverage::None || !self.node_known;
        !early && self.retry.is_none() && self.planner.is_idle()
    }

    /// The model, to look at.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Which Service holds which VIP's port and which node port in the maps.
    pub fn holders(&self) -> Vec<(Claim, ObjectName)> {
        let mut holders = self.planner.holders();
        holders.sort_by_cached_key(|(claim, _)| claim.to_string());
        holders.dedup();
        holders
    }

    /// Everything that is wrong: with objects, and with what fits.
    pub fn problems(&self) -> Vec<Problem> {
        self.model.problems().cloned().chain(self.planner.problems()).collect()
    }
}

/// Maps that note what was written to them.
#[derive(Debug)]
struct Counted<M> {
    maps: M,
    written: Written,
    /// How often something was written.
    batches: u64,
}

/// What was written since somebody asked.
#[derive(Debug, Default)]
struct Written {
    /// Writes by kind.
    ops: BTreeMap<&'static str, u64>,
    /// Time that they took.
    applying: Duration,
    /// Whether backends left.
    left: bool,
}

impl<M: Maps> Maps for Counted<M> {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        let begin = Instant::now();
        let result = self.maps.apply(ops);
        self.batches += 1;
        self.written.applying += begin.elapsed();
        let applied = result.as_ref().map_or_else(|error| error.applied, |()| ops.len());
        for op in ops.iter().take(applied) {
            tracing::debug!(%op, "written");
            *self.written.ops.entry(ops::kind(op)).or_default() += 1;
            if let Op::PutBackend(_, backend) = op {
                self.written.left |= backend.state == BackendState::Gone;
            }
        }
        result
    }

    fn contents(&self) -> Result<Contents, MapsError> {
        self.maps.contents()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_common::proto;

    use super::*;
    use crate::{
        maps::{Fault, FaultyMaps, MemoryMaps},
        model::{Exposure, Service, ServicePort},
    };

    type Memory = FaultyMaps<MemoryMaps>;

    fn service(name: &str, last: u8) -> Event {
        Event::PutService(Arc::new(Service {
            name: ObjectName::new("default", name),
            file: None,
            created: None,
            uid: None,
            exposure: Exposure::Vips,
            vip4: Some([10, 96, 0, last].into()),
            vip6: None,
            ports: vec![ServicePort {
                name: "".into(),
                proto: proto::TCP,
                port: 80,
                node_port: None,
            }],
            remarks: Vec::new(),
        }))
    }

    fn reconciler(contents: Contents, now: Instant) -> Reconciler<Memory> {
        let maps = FaultyMaps::new(MemoryMaps::holding(contents.clone(), Limits::default()));
        let mut reconciler = Reconciler::adopt(maps, &contents, Limits::default(), now);
        reconciler.node(NodeAddresses::default());
        reconciler
    }

    fn contents_with(name: &str, last: u8) -> Contents {
        let now = Instant::now();
        let mut reconciler = reconciler(Contents::default(), now);
        reconciler.events([service(name, last), Event::Coverage(Coverage::Full)]);
        assert!(reconciler.pass(now).unwrap().error.is_none());
        reconciler.maps.contents().unwrap()
    }

    #[test]
    fn nothing_is_written_before_the_first_listing() {
        let now = Instant::now();
        let mut reconciler = reconciler(Contents::default(), now);
        reconciler.events([service("vote", 10)]);
        assert!(reconciler.pass(now).is_none());
        reconciler.events([Event::Coverage(Coverage::Partial)]);
        let pass = reconciler.pass(now).unwrap();
        assert_eq!(pass.ops["put-frontend"], 2, "the VIP's port, and its marker");
        assert!(reconciler.pass(now).is_none(), "all is done");
    }

    #[test]
    fn what_was_there_is_only_removed_when_all_is_known() {
        let now = Instant::now();
        let mut reconciler = reconciler(contents_with("old", 9), now);
        reconciler.events([service("new", 10), Event::Coverage(Coverage::Partial)]);
        let pass = reconciler.pass(now).unwrap();
        assert!(!pass.ops.contains_key("delete-frontend"), "{pass:?}");
        reconciler.events([Event::Coverage(Coverage::Full)]);
        let pass = reconciler.pass(now).unwrap();
        assert_eq!(pass.ops["delete-frontend"], 2, "{pass:?}");
    }

    /// SYNC-6: whatever somebody does to the entries, the next comparison finds and repairs it.
    #[test]
    fn what_others_did_to_the_maps_is_found_and_repaired() {
        let now = Instant::now();
        let mut reconciler = reconciler(Contents::default(), now);
        reconciler.events([service("vote", 10), service("shop", 11)]);
        reconciler.events([Event::Coverage(Coverage::Full)]);
        assert!(reconciler.pass(now).unwrap().error.is_none());
        let good = reconciler.maps.contents().unwrap();
        assert!(reconciler.compare(&good, now).is_empty(), "nobody did anything");
        assert!(reconciler.pass(now).is_none());
        type Damage = fn(&mut Contents);
        let damages: [(&str, Damage); 5] = [
            ("frontends", |contents| {
                let _first = contents.frontends.pop_first();
            }),
            ("frontends", |contents| {
                let (frontend, value) = contents.frontends.first_key_value().unwrap();
                let foreign = crate::plan::Frontend { port: 99, ..*frontend };
                let value = *value;
                let _none = contents.frontends.insert(foreign, value);
            }),
            ("LB_SERVICES", |contents| {
                let _last = contents.services.pop_last();
            }),
            ("LB_VIP_FILTER", |contents| contents.filter.clear()),
            ("LB_VIP_FILTER", |contents| {
                let _before = contents.filter.insert(3, 7);
            }),
        ];
        for (map, damage) in damages {
            let mut contents = good.clone();
            damage(&mut contents);
            reconciler.maps.maps =
                FaultyMaps::new(MemoryMaps::holding(contents.clone(), Limits::default()));
            let found = reconciler.compare(&contents, now);
            assert!(found.contains_key(map), "{map}: {found:?}");
            assert!(reconciler.pass(now).unwrap().error.is_none());
            let repaired = reconciler.maps.contents().unwrap();
            let frontends =
                |contents: &Contents| -> Vec<_> { contents.frontends.keys().copied().collect() };
            assert_eq!(frontends(&repaired), frontends(&good), "{map}");
            assert_eq!(repaired.filter, good.filter, "{map}");
            assert_eq!(repaired.services.len(), good.services.len(), "{map}");
        }
    }

    /// SVC-15: the Service that has a VIP or a node port keeps it against one that is not older,
    /// also when the agent starts anew.
    #[test]
    fn what_a_service_has_it_keeps() {
        let now = Instant::now();
        let claims_both = |name: &str| {
            let Event::PutService(service) = service(name, 10) else { panic!("it is one") };
            let mut service = Service::clone(&service);
            service.ports[0].node_port = Some(30000);
            Event::PutService(service.into())
        };
        let start = |contents| {
            let mut reconciler = reconciler(contents, now);
            let node_port = [std::net::IpAddr::from([192, 0, 2, 1])].into();
            reconciler.node(NodeAddresses { node_port, ..NodeAddresses::default() });
            reconciler
        };
        let mut reconciler = start(Contents::default());
        reconciler.events([claims_both("zoo"), Event::Coverage(Coverage::Full)]);
        assert!(reconciler.pass(now).unwrap().error.is_none());
        let before = reconciler.maps.contents().unwrap();
        let holder = |reconciler: &Reconciler<Memory>, name| {
            let name = ObjectName::new("default", name);
            let ports = crate::model::Desired::desired(reconciler.model(), &name).ports;
            ports.iter().all(|port| port.vip.is_some() && port.node_port.is_some())
        };
        reconciler.events([claims_both("ape")]);
        assert!(holder(&reconciler, "zoo") && !holder(&reconciler, "ape"));
        // The holder is changed otherwise, and changes nothing of this.
        reconciler.events([claims_both("zoo"), claims_both("ape")]);
        assert!(holder(&reconciler, "zoo") && !holder(&reconciler, "ape"));
        // A new agent sees both at once, and what is in the maps.
        let mut next = start(before);
        next.events([claims_both("ape"), claims_both("zoo"), Event::Coverage(Coverage::Full)]);
        assert!(holder(&next, "zoo") && !holder(&next, "ape"));
        next.events([Event::DeleteService(ObjectName::new("default", "zoo"))]);
        assert!(holder(&next, "ape"));
        // And now that one has it.
        next.events([claims_both("zoo")]);
        assert!(holder(&next, "ape") && !holder(&next, "zoo"));
    }

    #[test]
    fn what_failed_is_planned_again_after_a_growing_pause() {
        let now = Instant::now();
        let mut reconciler = reconciler(Contents::default(), now);
        reconciler.maps.maps.set_fault(Some(Fault::Always(lb_common::names::LB4_FRONTENDS)));
        reconciler.events([service("vote", 10), Event::Coverage(Coverage::Full)]);
        let mut then = now;
        let mut pauses = Vec::new();
        for _ in 0..3 {
            assert!(reconciler.pass(then).unwrap().error.is_some());
            assert!(reconciler.pass(then).is_none(), "resting");
            let wake = reconciler.wake().unwrap();
            pauses.push(wake - then);
            then = wake;
        }
        assert!(pauses.is_sorted() && pauses[0] == PAUSE.0 && pauses[2] > pauses[1], "{pauses:?}");
        reconciler.maps.maps.set_fault(None);
        assert!(reconciler.pass(then).unwrap().error.is_none());
        assert_eq!(reconciler.maps.contents().unwrap().frontends.len(), 2);
        assert_eq!(reconciler.wake(), None);
    }
}
