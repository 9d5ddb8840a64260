//! Source ranges: the sets that frontends of load balancers name.
//!
//! Invariants: a set never changes while a frontend names it; a frontend that shall be restricted
//! names a set before it exists, so where its ranges do not fit it names an empty one, which lets
//! nobody in; and the id of a set rests before it is used again.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Instant,
};

use ipnet::IpNet;
use lb_common::{Family, FrontendKind, FrontendValue};

use super::{
    build::Build,
    draft::Draft,
    ids::Ids,
    limits::{Full, Limits},
    op::{Frontend, Op, Range, RangeSetId, ServiceId},
};
use crate::{maps::Contents, model::family};

/// The sets in the maps.
#[derive(Debug)]
pub(super) struct Sources {
    sets: HashMap<RangeSetId, Set>,
    /// Every range, sorted by set.
    entries: BTreeSet<Range>,
    /// Number of ranges, IPv4 and IPv6.
    counts: [u32; 2],
    /// Sets with ranges that no frontend names.
    unnamed: BTreeSet<RangeSetId>,
    pub(super) ids: Ids,
}

/// One set.
#[derive(Debug, Default)]
struct Set {
    /// How many frontends name it.
    users: u32,
    ranges: BTreeSet<Range>,
}

impl Sources {
    /// No sets.
    pub(super) fn new(limits: &Limits) -> Self {
        Self::with_ids(limits, [])
    }

    fn with_ids(limits: &Limits, used: impl IntoIterator<Item = u32>) -> Self {
        // No more sets than frontends, and as many again that rest or are about to.
        let last = limits.frontends.saturating_mul(4);
        Self {
            sets: HashMap::new(),
            entries: BTreeSet::new(),
            counts: [0; 2],
            unnamed: BTreeSet::new(),
            ids: Ids::new(last, used),
        }
    }

    /// The sets of maps with these contents.
    pub(super) fn adopt(contents: &Contents, limits: &Limits) -> Self {
        let named = contents.frontends.values().map(|value| value.ranges);
        let entered = contents.ranges.iter().map(|range| range.set.0);
        let mut this = Self::with_ids(limits, named.chain(entered));
        for (frontend, value) in &contents.frontends {
            this.enter(frontend, value);
        }
        for range in &contents.ranges {
            this.put(*range);
        }
        this
    }

    /// Every range.
    pub(super) fn entries(&self) -> &BTreeSet<Range> {
        &self.entries
    }

    /// Whether there are ranges that no frontend names.
    pub(super) fn has_strays(&self) -> bool {
        !self.unnamed.is_empty()
    }

    /// Number of ranges, IPv4 and IPv6.
    pub(super) fn counts(&self) -> [u32; 2] {
        self.counts
    }

    /// Gives back the ids of sets of which nothing was written.
    pub(super) fn give_back(&mut self, reserved: &[RangeSetId]) {
        for id in reserved.iter().filter(|id| !self.sets.contains_key(id)) {
            self.ids.put_back(id.0);
        }
    }

    fn ranges(&self, id: RangeSetId) -> &BTreeSet<Range> {
        static NONE: BTreeSet<Range> = BTreeSet::new();
        self.sets.get(&id).map_or(&NONE, |set| &set.ranges)
    }

    pub(super) fn put(&mut self, range: Range) {
        let set = self.sets.entry(range.set).or_default();
        if set.ranges.insert(range) {
            let _new = self.entries.insert(range);
            self.counts[index(range.family())] += 1;
        }
        if set.users == 0 {
            let _new = self.unnamed.insert(range.set);
        }
    }

    pub(super) fn delete(&mut self, range: &Range, now: Instant) {
        let Some(set) = self.sets.get_mut(&range.set) else { return };
        if set.ranges.remove(range) {
            let _was = self.entries.remove(range);
            self.counts[index(range.family())] -= 1;
        }
        self.settle(range.set, now);
    }

    /// A frontend has this value now.
    pub(super) fn enter(&mut self, frontend: &Frontend, value: &FrontendValue) {
        if value.ranges != 0 && !frontend.is_marker() {
            let id = RangeSetId(value.ranges);
            self.sets.entry(id).or_default().users += 1;
            let _was = self.unnamed.remove(&id);
        }
    }

    /// A frontend, which is no marker, has this value no more.
    pub(super) fn leave(&mut self, value: &FrontendValue, now: Instant) {
        let id = RangeSetId(value.ranges);
        if let Some(set) = self.sets.get_mut(&id).filter(|_| value.ranges != 0) {
            set.users -= 1;
            self.settle(id, now);
        }
    }

    fn settle(&mut self, id: RangeSetId, now: Instant) {
        let Some(set) = self.sets.get(&id).filter(|set| set.users == 0) else { return };
        if set.ranges.is_empty() {
            let _set = self.sets.remove(&id);
            let _was = self.unnamed.remove(&id);
            self.ids.retire(id.0, now);
        } else {
            let _new = self.unnamed.insert(id);
        }
    }
}

/// Where the source ranges of a draft stand.
#[derive(Debug)]
pub(super) enum Placed {
    /// There are none.
    Anywhere,
    /// In a set, into which these are to be written first.
    Set(u32, Vec<Op>),
    /// They do not fit: nothing may be reached that they restrict.
    Nowhere,
}

impl Placed {
    /// Whether a frontend may go on with this value.
    pub(super) fn allow(&self, value: &FrontendValue) -> bool {
        value.kind != FrontendKind::LoadBalancer as u8
            || match self {
                Self::Anywhere => true,
                Self::Set(id, _) => value.ranges == *id,
                Self::Nowhere => false,
            }
    }
}

impl Build<'_> {
    /// The set that the load balancer's frontends of a draft shall name: one of those that they
    /// name already, or a new one.
    pub(super) fn place_ranges(&mut self, draft: &Draft, service: ServiceId) -> Placed {
        let Some(wanted) = &draft.port.source_ranges else { return Placed::Anywhere };
        let family = draft.port.family;
        let nets = self.allowed(wanted, family, &draft.port.load_balancer_ips);
        let ranges = |id| nets.iter().map(|net| Range::new(id, *net)).collect::<BTreeSet<_>>();
        let actual = &mut *self.actual;
        let frontends = actual.services.get(&service).map_or(&[][..], |entry| &entry.frontends);
        let values = frontends.iter().filter_map(|frontend| actual.frontends.get(frontend));
        let named: BTreeSet<RangeSetId> =
            values.map(|value| RangeSetId(value.ranges)).filter(|id| id.0 != 0).collect();
        let sources = &actual.sources;
        if let Some(id) = named.iter().find(|id| *sources.ranges(**id) == ranges(**id)) {
            return Placed::Set(id.0, Vec::new());
        }
        let there = self.range_counts[index(family)];
        let count = u32::try_from(nets.len()).unwrap_or(u32::MAX);
        let fits = there.saturating_add(count) <= self.limits.ranges;
        if !fits {
            self.does_not_fit(draft, Full::of_ranges(family));
            let nobody = named.iter().find(|id| self.actual.sources.ranges(**id).is_empty());
            if let Some(id) = nobody {
                return Placed::Set(id.0, Vec::new());
            }
        }
        let Some(id) = self.actual.sources.ids.take().map(RangeSetId) else {
            self.does_not_fit(draft, Full::of_ranges(family));
            return Placed::Nowhere;
        };
        self.reserved.sets.push(id);
        let ops = ranges(id).into_iter().filter(|_| fits).map(Op::PutRange);
        Placed::Set(id.0, ops.collect())
    }

    /// Writes the ranges of a set that a frontend of this plan names.
    pub(super) fn put_ranges(&mut self, ranges: Vec<Op>, family: Family) {
        self.range_counts[index(family)] += u32::try_from(ranges.len()).unwrap_or_default();
        self.stages.of(family).ranges.extend(ranges);
    }

    /// The ranges of one family, and what follows from them: a range that lets this node in lets in
    /// the load balancer's own addresses too, which a process has as its source where they are
    /// addresses of the node.
    fn allowed(&self, wanted: &[IpNet], of: Family, own: &[IpAddr]) -> BTreeSet<IpNet> {
        let nets = wanted.iter().map(IpNet::trunc).filter(|net| family(net.addr()) == of);
        let mut nets: BTreeSet<IpNet> = nets.collect();
        let node = self.node.primary.iter().any(|addr| nets.iter().any(|net| net.contains(addr)));
        if node {
            nets.extend(own.iter().copied().map(IpNet::from));
        }
        nets
    }

    /// Removes the sets that no frontend names after this plan.
    pub(super) fn remove_unnamed_ranges(&mut self) {
        let mut changes: HashMap<RangeSetId, i64> = HashMap::new();
        let old = |frontend| self.actual.frontends.get(frontend).map(|value| value.ranges);
        for op in self.stages.switches() {
            let (before, after) = match op {
                Op::PutFrontend(frontend, _) | Op::DeleteFrontend(frontend)
                    if frontend.is_marker() =>
                {
                    continue;
                }
                Op::PutFrontend(frontend, value) => (old(frontend), value.ranges),
                Op::DeleteFrontend(frontend) => (old(frontend), 0),
                Op::PutService(..)
                | Op::DeleteService(_)
                | Op::PutBackend(..)
                | Op::WriteSlots { .. }
                | Op::PutRange(_)
                | Op::DeleteRange(_)
                | Op::SetFilter { .. } => continue,
            };
            *changes.entry(RangeSetId(before.unwrap_or_default())).or_default() -= 1;
            *changes.entry(RangeSetId(after)).or_default() += 1;
        }
        let sources = &self.actual.sources;
        let left = |(id, change): (&RangeSetId, &i64)| {
            let users = sources.sets.get(id).filter(|_| id.0 != 0)?.users;
            (i64::from(users) + change == 0).then_some(*id)
        };
        let unnamed: BTreeSet<RangeSetId> =
            changes.iter().filter_map(left).chain(sources.unnamed.iter().copied()).collect();
        for range in unnamed.iter().flat_map(|id| sources.ranges(*id)) {
            self.stages.of(range.family()).old_ranges.push(Op::DeleteRange(*range));
        }
    }
}

/// The ranges of a family among the counts of both.
pub(super) const fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
