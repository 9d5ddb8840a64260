//! Sweeps the affinity map of one family.
//!
//! The datapath leaves alone what is too old, by a clock that comes round after some weeks: what is
//! over must be gone by then, or it would count again. Entries of Services that are gone or no
//! longer have affinity, and of backends that left, must not come back with them.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use bytemuck::Pod;
use lb_common::{AffinityKey, AffinityValue, FrontendKey, FrontendValue};

use super::Removed;
use crate::{
    clock::Jiffies,
    maps::{
        bpf::Access,
        family::MapFamily,
        table::{Scan, Table, TableError},
    },
};

/// The affinity map of one family, and how far it is swept.
#[derive(Debug)]
pub(super) struct Affinity<A>
where
    AffinityKey<A>: Pod,
    FrontendKey<A>: Pod,
{
    table: Table<AffinityKey<A>, AffinityValue>,
    scan: Scan<AffinityKey<A>, AffinityValue>,
    frontends: Table<FrontendKey<A>, FrontendValue>,
    /// How long entries count, in seconds, by Service; read anew for each round that finds any.
    timeouts: Option<HashMap<u32, u32>>,
}

impl<A: MapFamily> Affinity<A>
where
    AffinityKey<A>: Pod,
    FrontendKey<A>: Pod,
{
    /// Opens the maps in the directory `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, TableError> {
        Ok(Self {
            table: Table::open(maps, A::AFFINITY, Access::ReadWrite)?,
            scan: Scan::with_slice(super::SLICE),
            frontends: Table::open(maps, A::FRONTENDS, Access::Read)?,
            timeouts: None,
        })
    }

    /// Sweeps the next slice; true when it was the last. Adds the number of entries to `entries`.
    pub(super) fn sweep(
        &mut self,
        (now, hz): (Jiffies, u32),
        gone: &HashSet<u32>,
        entries: &mut usize,
        removed: &mut Removed,
    ) -> Result<bool, TableError> {
        let mut found = Vec::new();
        let last = self.table.scan(&mut self.scan, |key, value| found.push((*key, *value)))?;
        *entries += found.len();
        if !found.is_empty() {
            let timeouts = match self.timeouts.take() {
                Some(timeouts) => timeouts,
                None => self.read_timeouts()?,
            };
            let over = |(key, value): &(AffinityKey<A>, AffinityValue)| {
                let timeout = timeouts.get(&key.service);
                gone.contains(&value.backend) || is_over(value.last_used, timeout, now, hz)
            };
            for (key, judged) in found.iter().filter(|entry| over(entry)) {
                // A client that came back meanwhile has another entry in its place.
                let gone = self.table.delete_if(key, |now| now == judged)?;
                removed.affinity += usize::from(gone);
            }
            self.timeouts = Some(timeouts);
        }
        if last {
            self.timeouts = None;
        }
        Ok(last)
    }

    fn read_timeouts(&self) -> Result<HashMap<u32, u32>, TableError> {
        let mut timeouts = HashMap::new();
        self.frontends.for_each(|_, value| {
            if value.affinity != 0 {
                // While a change is written, frontends of one Service differ: the longer counts.
                let timeout = timeouts.entry(value.service).or_insert(0);
                *timeout = value.affinity.max(*timeout);
            }
        })?;
        Ok(timeouts)
    }
}

/// An entry that was used this long after the clock was read, in seconds, is not an old one.
const AHEAD: u32 = 60;

/// Whether an entry counts no more, given the timeout of its Service, if that has affinity.
fn is_over(last_used: u32, timeout: Option<&u32>, now: Jiffies, hz: u32) -> bool {
    let Some(seconds) = timeout else { return true };
    let idle = now.0.wrapping_sub(last_used);
    let ahead = idle > u32::MAX - AHEAD.saturating_mul(hz);
    !ahead && u64::from(idle) > u64::from(*seconds) * u64::from(hz)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 250;

    /// AFF-2: the same time as the datapath's, to the jiffy, across the end of the clock too.
    #[test]
    fn an_entry_is_over_when_the_datapath_leaves_it_alone() {
        for now in [Jiffies(100 * HZ), Jiffies(3)] {
            let ago = |jiffies: u32| now.0.wrapping_sub(jiffies);
            assert!(!is_over(ago(10 * HZ), Some(&10), now, HZ));
            assert!(is_over(ago(10 * HZ + 1), Some(&10), now, HZ));
            assert!(!is_over(now.0.wrapping_add(2), Some(&1), now, HZ), "used after the look");
            assert!(is_over(now.0.wrapping_add(3600 * HZ), Some(&86_400), now, HZ), "months old");
            assert!(is_over(now.0, None, now, HZ), "its Service has no affinity");
            assert!(!is_over(ago(86_400 * HZ), Some(&86_400), now, HZ), "the longest timeout");
        }
    }
}
