//! Sweeps the flow map of one family.
//!
//! Invariant: both entries of a pair go together, the forward one first, so that what remains when
//! we die in between is an entry that nothing reaches, which the next sweep removes.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use bytemuck::Pod;
use lb_common::{Family, FlowKey, FlowValue, proto};

use super::{
    Removed,
    expiry::{Lifetimes, expired},
};
use crate::{
    clock::Jiffies,
    maps::{
        bpf::Access,
        family::MapFamily,
        table::{Scan, Table, TableError},
    },
};

/// How long an entry may be without the other one of its pair, in seconds: pairs are made one entry
/// after the other, within microseconds.
const ORPHAN: u32 = 5;

/// The flow map of one family, and how far it is swept.
#[derive(Debug)]
pub(super) struct Flows<A>
where
    FlowKey<A>: Pod,
    FlowValue<A>: Pod,
{
    table: Table<FlowKey<A>, FlowValue<A>>,
    scan: Scan<FlowKey<A>, FlowValue<A>>,
}

/// What a sweep goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) now: Jiffies,
    pub(super) hz: u32,
    pub(super) lifetimes: &'a Lifetimes,
    /// Backends whose UDP and SCTP flows go at once.
    pub(super) gone: &'a HashSet<u32>,
}

/// Entries that shall be removed, each as it was when that was found.
struct Doomed<A> {
    /// Pairs, by the key of the forward entry: a slice may meet a pair twice.
    pairs: BTreeMap<FlowKey<A>, Pair<A>>,
    /// Second legs of those pairs.
    legs: Vec<Entry<A>>,
    orphans: Vec<Entry<A>>,
}

/// An entry as it was read.
type Entry<A> = (FlowKey<A>, FlowValue<A>);

/// The forward value, and the reverse entry.
type Pair<A> = (FlowValue<A>, Entry<A>);

impl<A: MapFamily> Flows<A>
where
    FlowKey<A>: Pod,
    FlowValue<A>: Pod,
{
    /// Opens the map in the directory `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, TableError> {
        let table = Table::open(maps, A::FLOWS, Access::ReadWrite)?;
        Ok(Self { table, scan: Scan::with_slice(super::SLICE) })
    }

    /// Sweeps the next slice; true when it was the last. Adds the backends that are named to
    /// `named` and the number of entries to `entries`.
    pub(super) fn sweep(
        &mut self,
        terms: &Terms<'_>,
        named: &mut HashSet<u32>,
        entries: &mut usize,
        removed: &mut Removed,
    ) -> Result<bool, TableError> {
        // Most entries were used a moment ago: those need no look at the other of their pair.
        let moment = terms.lifetimes.shortest().min(ORPHAN).saturating_mul(terms.hz);
        let mut suspects = Vec::new();
        let last = self.table.scan(&mut self.scan, |key, value| {
            *entries += 1;
            let _new = named.insert(value.backend);
            let gone = key.proto != proto::TCP && terms.gone.contains(&value.backend);
            if gone || terms.now.since(value.last_seen) > moment {
                suspects.push((*key, *value));
            }
        })?;
        let mut doomed = Doomed { pairs: BTreeMap::new(), legs: Vec::new(), orphans: Vec::new() };
        for (key, value) in suspects {
            self.judge(&key, &value, terms, &mut doomed, removed)?;
        }
        doomed.remove(&self.table)?;
        Ok(last)
    }

    fn judge(
        &self,
        key: &FlowKey<A>,
        value: &FlowValue<A>,
        terms: &Terms<'_>,
        doomed: &mut Doomed<A>,
        removed: &mut Removed,
    ) -> Result<(), TableError> {
        let other_key = value.other_key(key.proto);
        let pair = self.table.get(&other_key)?;
        // A second leg goes with its pair; alone, when that is gone.
        if value.second != 0 && pair.is_some_and(|other| other.road_port != 0) {
            return Ok(());
        }
        let pair = pair.filter(|other| other.other_key(key.proto) == *key);
        let gone = key.proto != proto::TCP && terms.gone.contains(&value.backend);
        let Some(other) = pair else {
            if gone || terms.now.since(value.last_seen) > ORPHAN.saturating_mul(terms.hz) {
                doomed.orphans.push((*key, *value));
                removed.orphans += 1;
            }
            return Ok(());
        };
        let (forward, reverse) = if value.reverse == 0 { (value, &other) } else { (&other, value) };
        let over = expired(key.proto, forward, reverse, terms.lifetimes, terms.now, terms.hz);
        if gone || over {
            let (first, second) =
                if value.reverse == 0 { (*key, other_key) } else { (other_key, *key) };
            for leg in forward.second_legs(&first).into_iter().flatten() {
                doomed.legs.extend(self.table.get(&leg)?.map(|value| (leg, value)));
            }
            let met_before = doomed.pairs.insert(first, (*forward, (second, *reverse))).is_some();
            if !met_before {
                *match (gone, A::FAMILY) {
                    (false, _) => &mut removed.expired,
                    (true, Family::V4) => &mut removed.stale4,
                    (true, Family::V6) => &mut removed.stale6,
                } += 1;
            }
        }
        Ok(())
    }
}

impl<A: MapFamily> Doomed<A>
where
    FlowKey<A>: Pod,
    FlowValue<A>: Pod,
{
    /// Removes each entry that is still the one that was judged: meanwhile the datapath may have put a
    /// new flow in its place, of a client that uses its port again.
    fn remove(self, table: &Table<FlowKey<A>, FlowValue<A>>) -> Result<(), TableError> {
        let remove =
            |(key, judged): &Entry<A>| table.delete_if(key, |now| is_same(key, now, judged));
        for (key, (forward, reverse)) in self.pairs {
            let _was_there = remove(&(key, forward))?;
            let _was_there = remove(&reverse)?;
        }
        self.legs.iter().chain(&self.orphans).try_for_each(|entry| remove(entry).map(drop))
    }
}

/// Whether an entry is still what was judged: it leads where it led, and was not used since. One that was
/// is judged again in the next round, should the datapath itself not have replaced it.
fn is_same<A: MapFamily>(key: &FlowKey<A>, now: &FlowValue<A>, judged: &FlowValue<A>) -> bool {
    now.translated(key.proto) == judged.translated(key.proto)
        && (now.backend, now.last_seen) == (judged.backend, judged.last_seen)
}
