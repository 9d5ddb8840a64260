//! Executing a plan: each family by itself, and where that fails, Service by Service.
//!
//! Invariant: what cannot be written holds up nothing else: not the other family of the same
//! Service, and not other Services. What was not written is planned again.

use std::{collections::BTreeSet, time::Instant};

use lb_common::Family;

use super::{
    op::Op,
    planner::{Plan, Planner},
};
use crate::{
    maps::{ApplyError, Maps},
    model::Desired,
};

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How many Services may fail one by one in a family before the rest is left for the next attempt:
/// where the fault is not with a Service, thousands of failing calls would tell nothing new.
const MAX_FAILURES: usize = 8;

/// How many turns the Services get that are tried one by one: the second is for those that waited for
/// one of the first. Longer chains are left for the next attempt.
const MAX_TURNS: usize = 2;

/// The ops of a plan, or how many of them took effect: what comes before both families, each of
/// them, and what comes after both.
pub(super) type Parts<T> = [T; 4];

/// What came of writing a plan.
#[derive(Debug, Default)]
struct Written {
    done: Parts<usize>,
    /// The families in which something failed.
    failed: Vec<Family>,
    /// The first error.
    error: Option<ApplyError>,
}

impl Written {
    /// Writes what `plan` has for `families`, and what they share.
    fn new(plan: &Plan, families: &[Family], maps: &mut impl Maps) -> Self {
        let mut this = Self::default();
        let [before, v4, v6, after] = plan.parts();
        if !this.put(0, before, maps) {
            this.failed = FAMILIES.to_vec();
            return this;
        }
        let mut complete = true;
        for (index, (family, part)) in FAMILIES.into_iter().zip([v4, v6]).enumerate() {
            if part.is_empty() {
                continue;
            }
            let tried = families.contains(&family);
            let done = tried && this.put(1 + index, part, maps);
            complete &= done;
            if tried && !done {
                this.failed.push(family);
            }
        }
        if complete && !this.put(3, after, maps) {
            this.failed = FAMILIES.to_vec();
        }
        this
    }

    /// Whether all of a part took effect.
    fn put(&mut self, part: usize, ops: &[Op], maps: &mut impl Maps) -> bool {
        if ops.is_empty() {
            return true;
        }
        match maps.apply(ops) {
            Ok(()) => {
                self.done[part] = ops.len();
                true
            }
            Err(error) => {
                self.done[part] = error.applied;
                let _first = self.error.get_or_insert(error);
                false
            }
        }
    }
}

impl Planner {
    /// Plans, executes and commits; returns the number of ops.
    ///
    /// Where the maps refuse an op, the other family goes on, and then the Services are tried one by
    /// one, so that one that cannot be written does not hold up the others. What failed is planned
    /// again by the next call.
    ///
    /// # Errors
    ///
    /// The first error of the maps; `applied` says how many ops took effect before the Services were
    /// tried one by one.
    pub fn execute(
        &mut self,
        desired: &impl Desired,
        maps: &mut impl Maps,
        now: Instant,
    ) -> Result<usize, ApplyError> {
        self.execute_for(&FAMILIES, desired, maps, now)
    }

    /// The same for some families; what the others have to write is planned again.
    ///
    /// # Errors
    ///
    /// As [`Planner::execute`].
    pub fn execute_for(
        &mut self,
        families: &[Family],
        desired: &impl Desired,
        maps: &mut impl Maps,
        now: Instant,
    ) -> Result<usize, ApplyError> {
        let plan = self.plan(desired, now);
        let Written { done, failed, error } = Written::new(&plan, families, maps);
        self.note(plan, done, now);
        let applied = done.iter().sum();
        let Some(error) = error else {
            // A family that has nothing left to write is not behind, tried or not.
            let idle = self.is_idle();
            self.behind.retain(|family| !idle && !families.contains(family));
            return Ok(applied);
        };
        let failed = self.execute_each(families, &failed, desired, maps, now);
        self.behind.retain(|family| !families.contains(family));
        self.behind.extend(failed);
        Err(ApplyError { applied, ..error })
    }

    /// Whether something of a family could not be written when it was tried last.
    pub fn is_behind(&self, family: Family) -> bool {
        self.behind.contains(&family)
    }

    /// Tries the Services one by one, of which `troubled` families could not be written together;
    /// returns those that cannot be written one by one either.
    ///
    /// One that was written may free a frontend for which another waits that was tried before it, so
    /// those that wait get another turn.
    fn execute_each(
        &mut self,
        families: &[Family],
        troubled: &[Family],
        desired: &impl Desired,
        maps: &mut impl Maps,
        now: Instant,
    ) -> Vec<Family> {
        let mut failures: Vec<Family> = Vec::new();
        let mut unwritten = BTreeSet::new();
        for _ in 0..MAX_TURNS {
            let names: Vec<_> = self.pending.difference(&unwritten).cloned().collect();
            for name in names {
                let hopeless = |family: &Family| {
                    failures.iter().filter(|other| *other == family).count() >= MAX_FAILURES
                };
                if troubled.iter().all(hopeless) {
                    let _new = unwritten.insert(name);
                    continue;
                }
                let mut families = families.to_vec();
                families.retain(|family| !hopeless(family));
                let _was = self.pending.remove(&name);
                let plan = self.plan_services(BTreeSet::from([name.clone()]), desired, now);
                let Written { done, failed, .. } = Written::new(&plan, &families, maps);
                if done != plan.lens {
                    let _new = unwritten.insert(name);
                }
                failures.extend(failed);
                self.note(plan, done, now);
            }
        }
        if self.pending.difference(&unwritten).next().is_some() {
            failures.extend(troubled);
        }
        FAMILIES.into_iter().filter(|family| failures.contains(family)).collect()
    }
}
