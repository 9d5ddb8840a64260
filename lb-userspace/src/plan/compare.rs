//! Comparing what the maps hold with what was written to them: somebody else may have changed them.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use lb_common::{BackendState, names};

use super::actual::Actual;
use crate::maps::Contents;

impl Actual {
    /// How many entries of each map are missing, foreign or changed. Slots count where a frontend
    /// names them: what lies between means nothing to anybody.
    pub(super) fn differences(&self, contents: &Contents) -> BTreeMap<&'static str, usize> {
        let services: HashMap<_, _> =
            self.services.iter().map(|(id, entry)| (*id, entry.info)).collect();
        let backends: HashMap<_, _> = (0_u32..)
            .zip(&self.backends)
            .filter_map(|(id, backend)| Some((super::BackendId(id), (*backend)?)))
            .filter(|(_, backend)| backend.state != BackendState::Free)
            .collect();
        let slots = self.slot_ranges.iter().map(|(base, (len, _))| {
            let range = *base as usize..(*base as usize).saturating_add(*len as usize);
            let there = |slots: &[u32], at| slots.get(at).copied().unwrap_or(0);
            range.filter(|at| there(&self.slots, *at) != there(&contents.slots, *at)).count()
        });
        let words = (0_u32..)
            .zip(&self.filter)
            .filter(|(word, value)| contents.filter.get(word).copied().unwrap_or(0) != **value);
        BTreeMap::from([
            (names::LB_SERVICES, count(&services, &contents.services)),
            ("backends", count(&backends, &contents.backends)),
            (names::LB_SLOTS, slots.sum()),
            (names::LB_VIP_FILTER, words.count()),
            (
                "source ranges",
                self.sources.entries().symmetric_difference(&contents.ranges).count(),
            ),
            ("frontends", count(&self.frontends, &contents.frontends)),
        ])
    }
}

/// How many keys have not the same value in both.
fn count<K: Eq + Hash + Ord, V: PartialEq>(ours: &HashMap<K, V>, theirs: &BTreeMap<K, V>) -> usize {
    let changed = ours.iter().filter(|(key, value)| theirs.get(key) != Some(value));
    changed.count() + theirs.keys().filter(|key| !ours.contains_key(key)).count()
}
