//! One pass of the agent: what changed → model → plan → maps.
//!
//! Generic over the maps and given the time, so that it is tested without a kernel. Invariants:
//! nothing is written before the source has delivered its first listing, nothing that was there
//! before is removed before the source has delivered everything, and what failed is planned again,
//! never replayed.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::{BackendState, Family};

use crate::{
    cli::ops,
    maps::{ApplyError, Contents, Maps, MapsError},
    model::{Claim, Coverage, Event, ExternalIps, Model, ObjectName, Problem},
    plan::{BackendId, FAMILIES, Limits, NodeAddresses, Op, Planner},
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
    /// Whether something came since the last attempt.
    changed: bool,
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
            changed: true,
        }
    }

    /// Says on which node this is. Call it before the first events.
    pub fn set_node_name(&mut self, name: &str) {
        self.model.set_node_name(name);
    }

    /// Takes in what the source says.
    pub fn events(&mut self, events: impl IntoIterator<Item = Event>) {
        let changed = self.model.apply(events);
        self.planner.mark(changed);
        if self.model.coverage() == Coverage::Full {
            self.planner.prune();
        }
        self.changed = true;
    }

    /// Takes in which addresses the node has.
    pub fn node(&mut self, node: NodeAddresses) {
        let changed = self.model.set_primary(node.primary.clone());
        self.planner.mark(changed);
        self.planner.set_node(node.clone());
        self.node = node;
        self.node_known = true;
        self.changed = true;
    }

    /// Says which external IPs are served. Call it before the first events.
    pub fn external_ips(&mut self, external_ips: ExternalIps) {
        self.model.set_external_ips(external_ips);
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
            self.changed = true;
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
    ///
    /// After a failure a family that failed rests for a while; what comes meanwhile is written for
    /// the other.
    pub fn pass(&mut self, now: Instant) -> Option<Pass> {
        let waking = self.planner.wake().is_some_and(|wake| wake <= now);
        if self.is_early() {
            return None;
        }
        if self.planner.is_idle() && !waking {
            self.changed = false;
            return None;
        }
        let resting = self.retry.is_some_and(|retry| now < retry);
        let mut families = FAMILIES.to_vec();
        families.retain(|of| !resting || (self.changed && !self.planner.is_behind(*of)));
        if families.is_empty() {
            return None;
        }
        self.changed = false;
        let begin = Instant::now();
        let result = self.planner.execute_for(&families, &self.model, &mut self.maps, now);
        let took = begin.elapsed();
        let Written { ops, applying, left } = std::mem::take(&mut self.maps.written);
        let error = result.err();
        // What was written one by one after all waits for nothing.
        if error.is_some() && !self.planner.is_idle() {
            self.retry = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE.1);
        } else if !FAMILIES.into_iter().any(|of| self.planner.is_behind(of)) {
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
        !self.is_early() && self.retry.is_none() && self.planner.is_idle()
    }

    /// Whether those of one family do, whatever holds up the other.
    pub fn follows(&self, family: Family) -> bool {
        let tried = self.retry.is_some() && !self.changed && !self.is_early();
        self.settled() || (tried && !self.planner.is_behind(family))
    }

    /// Whether it is not known yet what is to be written.
    fn is_early(&self) -> bool {
        self.model.coverage() == Coverage::None || !self.node_known
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
