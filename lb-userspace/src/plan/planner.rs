//! The planner: keeps what the maps hold, and plans what changes.
//!
//! Invariant: a plan costs as much as the Services that changed, however many there are; and what
//! the planner believes of the maps is what they accepted, never what they were asked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Instant,
};

use lb_common::Family;

use super::{
    actual::{Actual, object_name},
    build::{Build, Reserved},
    draft::Drafts,
    execute::Parts,
    limits::{Full, Limits},
    op::{BackendId, Frontend, Op},
};
use crate::{
    maps::Contents,
    model::{Desired, ObjectName},
};

/// The addresses of this node, as far as they matter here.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeAddresses {
    /// All of them: a VIP that is also one of these gets no marker.
    pub local: BTreeSet<IpAddr>,
    /// Those that serve NodePorts.
    pub node_port: BTreeSet<IpAddr>,
    /// Those by which the node is known to others.
    pub primary: BTreeSet<IpAddr>,
}

/// Ops to execute, and what to remember until they are.
#[derive(Debug)]
#[must_use = "a plan that is not committed keeps its ids and forgets its Services"]
pub struct Plan {
    /// The ops, in order: each prefix of them may be executed, see [`Planner::commit`].
    pub ops: Vec<Op>,
    /// How many of them there are of each part.
    pub(super) lens: Parts<usize>,
    names: BTreeSet<ObjectName>,
    unfit: BTreeMap<ObjectName, Full>,
    losers: BTreeMap<Frontend, BTreeSet<ObjectName>>,
    reserved: Reserved,
    recheck: BTreeSet<IpAddr>,
    recheck_words: BTreeSet<u32>,
    released: BTreeSet<BackendId>,
}

impl Plan {
    /// The ops, by part.
    pub(super) fn parts(&self) -> Parts<&[Op]> {
        let mut rest = &*self.ops;
        self.lens.map(|len| {
            let (part, after) = rest.split_at(len);
            rest = after;
            part
        })
    }
}

/// Plans what to write.
#[derive(Debug)]
pub struct Planner {
    pub(super) actual: Actual,
    pub(super) limits: Limits,
    node: NodeAddresses,
    /// Services to be planned next.
    pub(super) pending: BTreeSet<ObjectName>,
    /// The families of which something could not be written.
    pub(super) behind: Vec<Family>,
    /// Services that were in the maps at start and that nobody asked for so far.
    orphans: BTreeSet<ObjectName>,
    /// Whether entries that belong to no service may be removed.
    pruned: bool,
    /// Services for which it matters which addresses the node has.
    of_node: HashSet<ObjectName>,
    pub(super) unfit: BTreeMap<ObjectName, Full>,
    /// Whether anything was freed since `unfit` was tried last.
    freed: bool,
    /// Services that want a frontend which another one has.
    pub(super) waiters: HashMap<Frontend, BTreeSet<ObjectName>>,
    released: BTreeSet<BackendId>,
    recheck: BTreeSet<IpAddr>,
    recheck_words: BTreeSet<u32>,
    /// Whether the first plan, which checks what was adopted, is still to come.
    adopted: bool,
}

impl Planner {
    /// A planner for maps with these contents.
    pub fn adopt(contents: &Contents, limits: Limits, now: Instant) -> Self {
        let actual = Actual::adopt(contents, &limits, now);
        Self {
            pending: BTreeSet::new(),
            behind: Vec::new(),
            orphans: actual.objects.keys().cloned().collect(),
            pruned: false,
            of_node: HashSet::new(),
            unfit: BTreeMap::new(),
            freed: false,
            waiters: HashMap::new(),
            released: BTreeSet::new(),
            recheck: BTreeSet::new(),
            recheck_words: BTreeSet::new(),
            adopted: true,
            node: NodeAddresses::default(),
            actual,
            limits,
        }
    }

    /// Says which addresses the node has. Call it before the first plan.
    pub fn set_node(&mut self, node: NodeAddresses) {
        if node.node_port != self.node.node_port || node.primary != self.node.primary {
            self.pending.extend(self.of_node.iter().cloned());
        }
        if node.local != self.node.local {
            self.recheck.extend(node.local.symmetric_difference(&self.node.local));
        }
        self.node = node;
    }

    /// Says which Services changed.
    pub fn mark(&mut self, names: impl IntoIterator<Item = ObjectName>) {
        self.pending.extend(names);
    }

    /// Says that everything that exists was marked once: what is in the maps and was not, goes.
    pub fn prune(&mut self) {
        if !self.pruned {
            self.pruned = true;
            self.pending.append(&mut self.orphans);
        }
    }

    /// Backends that left the serving set before `instant`: once no flow names one, its id may be
    /// [released](Self::release).
    pub fn gone_before(&self, instant: Instant) -> Vec<BackendId> {
        let gone = self.actual.gone.iter().filter(|(_, since)| **since < instant);
        let mut ids: Vec<BackendId> = gone.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Says that no flow names these backends, as of a look that began at `instant`. Those that
    /// came back meanwhile are left alone.
    pub fn release(&mut self, ids: impl IntoIterator<Item = BackendId>, instant: Instant) {
        let gone = |id: &BackendId| self.actual.gone.get(id).is_some_and(|since| *since < instant);
        self.released.extend(ids.into_iter().filter(gone));
    }

    /// When to plan again although nothing changed: something that did not fit may fit then.
    pub fn wake(&self) -> Option<Instant> {
        let Actual { service_ids, backend_ids, free_slots, sources, .. } = &self.actual;
        let next = [
            service_ids.next_wake(),
            backend_ids.next_wake(),
            free_slots.next_wake(),
            sources.ids.next_wake(),
        ];
        next.into_iter().flatten().min().filter(|_| !self.unfit.is_empty())
    }

    /// Whether the next plan has anything to look at.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
            && self.released.is_empty()
            && self.recheck.is_empty()
            && self.recheck_words.is_empty()
            && !self.adopted
            && !self.actual.sources.has_strays()
            && (!self.freed || self.unfit.is_empty())
    }

    /// Plans everything that was marked, and whatever follows from it.
    pub fn plan(&mut self, desired: &impl Desired, now: Instant) -> Plan {
        let names = std::mem::take(&mut self.pending);
        self.plan_services(names, desired, now)
    }

    /// Takes note of a plan, of which the maps accepted the first `applied` ops.
    pub fn commit(&mut self, plan: Plan, applied: usize, now: Instant) {
        let mut left = applied;
        let done = plan.lens.map(|len| {
            let done = len.min(left);
            left -= done;
            done
        });
        self.note(plan, done, now);
    }

    /// Takes note of a plan, of which the maps accepted the first `done` ops of each part.
    pub(super) fn note(&mut self, plan: Plan, done: Parts<usize>, now: Instant) {
        let complete = done == plan.lens;
        for (part, done) in plan.parts().into_iter().zip(done) {
            let (accepted, left) = part.split_at(done);
            self.actual.record(accepted, now);
            for op in accepted {
                if let Op::PutFrontend(frontend, _) | Op::DeleteFrontend(frontend) = op {
                    self.pending.extend(self.waiters.remove(frontend).into_iter().flatten());
                }
                self.freed |= matches!(op, Op::DeleteFrontend(_) | Op::DeleteRange(_));
            }
            for op in left {
                self.look_again(op);
            }
        }
        self.give_back(plan.reserved);
        for name in &plan.names {
            let _before = self.unfit.remove(name);
        }
        self.unfit.extend(plan.unfit);
        self.waiters.retain(|_, waiting| {
            waiting.retain(|name| !plan.names.contains(name));
            !waiting.is_empty()
        });
        for (frontend, names) in plan.losers {
            self.waiters.entry(frontend).or_default().extend(names);
        }
        if !complete {
            self.pending.extend(plan.names);
            self.recheck.extend(plan.recheck);
            self.recheck_words.extend(plan.recheck_words);
            self.released.extend(plan.released);
        }
    }

    pub(super) fn plan_services(
        &mut self,
        mut names: BTreeSet<ObjectName>,
        desired: &impl Desired,
        now: Instant,
    ) -> Plan {
        self.wake_up(now);
        if std::mem::take(&mut self.freed) {
            names.extend(self.unfit.keys().cloned());
        }
        if std::mem::take(&mut self.adopted) {
            self.recheck.extend(self.actual.inconsistent_addresses(&self.node.local));
            self.recheck_words.extend(self.actual.inconsistent_words());
        }
        let Drafts { drafts, mut wanted, losers, of_node, .. } =
            Drafts::new(&names, &self.orphans, desired, &self.actual, &self.node);
        for name in &names {
            let _orphan = self.orphans.remove(name);
            let _member = match of_node.contains(name) {
                true => self.of_node.insert(name.clone()),
                false => self.of_node.remove(name),
            };
        }
        let recheck = std::mem::take(&mut self.recheck);
        let recheck_words = std::mem::take(&mut self.recheck_words);
        let released = std::mem::take(&mut self.released);
        let mut build = Build::new(&mut self.actual, &self.node, &self.limits);
        build.write(&drafts, &mut wanted);
        build.remove_unwanted(&names, &wanted);
        if self.pruned {
            build.remove_strays(&wanted);
        }
        build.settle_addresses(&recheck, &recheck_words);
        build.remove_unnamed_ranges();
        build.free(&released);
        build.forget(&names);
        let Build { stages, reserved, unfit, .. } = build;
        let parts = stages.into_parts();
        let lens = parts.each_ref().map(Vec::len);
        let ops = parts.into_iter().flatten().collect();
        Plan { ops, lens, names, unfit, losers, reserved, recheck, recheck_words, released }
    }

    fn wake_up(&mut self, now: Instant) {
        let Actual { service_ids, backend_ids, free_slots, sources, .. } = &mut self.actual;
        let woken = [
            service_ids.wake(now),
            backend_ids.wake(now),
            free_slots.wake(now),
            sources.ids.wake(now),
        ];
        self.freed |= woken.contains(&true);
    }

    /// Sees to it that the next plan considers what this op, which was not executed, was for, even
    /// where the Services of the plan no longer lead there.
    fn look_again(&mut self, op: &Op) {
        match op {
            Op::PutFrontend(frontend, _) | Op::DeleteFrontend(frontend) => {
                let _new = self.recheck.insert(frontend.addr);
            }
            Op::SetFilter { word, .. } => {
                let _new = self.recheck_words.insert(*word);
            }
            Op::DeleteService(id) => {
                let entry = self.actual.services.get(id);
                self.pending.extend(entry.map(|entry| object_name(&entry.info)));
            }
            // Ranges that are left behind are seen by nobody naming them.
            Op::PutService(..)
            | Op::PutBackend(..)
            | Op::WriteSlots { .. }
            | Op::PutRange(_)
            | Op::DeleteRange(_) => {}
        }
    }

    /// Gives back what was taken and not written.
    fn give_back(&mut self, reserved: Reserved) {
        let Actual {
            services,
            backends,
            slot_ranges,
            sources,
            service_ids,
            backend_ids,
            free_slots,
            ..
        } = &mut self.actual;
        for id in reserved.services.iter().filter(|id| !services.contains_key(id)) {
            service_ids.put_back(id.0);
        }
        let there = |id: &BackendId| backends.get(id.0 as usize).is_some_and(Option::is_some);
        for id in reserved.backends.iter().filter(|id| !there(id)) {
            backend_ids.put_back(id.0);
        }
        for (base, len) in reserved.slots.iter().filter(|(base, _)| !slot_ranges.contains_key(base))
        {
            free_slots.put_back(*base, *len);
        }
        sources.give_back(&reserved.sets);
    }
}
