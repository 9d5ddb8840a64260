//! Adoption: what the maps hold at start becomes the actual state.
//!
//! Invariant: any contents can be adopted, however damaged; what makes no sense is set aside so that
//! the next plans repair it, and nothing of it is given out to anybody else before that.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use lb_common::{BackendState, FrontendValue, VipBit};

use super::{
    actual::{Actual, bit_of},
    ids::Ids,
    limits::Limits,
    op::Frontend,
    slots::Slots,
    sources::Sources,
};
use crate::maps::Contents;

impl Actual {
    /// The state of maps with these contents.
    pub(super) fn adopt(contents: &Contents, limits: &Limits, now: Instant) -> Self {
        let mut actual = Self::new(limits);
        for (id, info) in &contents.services {
            actual.put_service(*id, *info);
        }
        for (id, backend) in &contents.backends {
            if backend.state != BackendState::Free && (1..limits.backends).contains(&id.0) {
                actual.put_backend(*id, *backend, now);
            }
        }
        for (word, value) in &contents.filter {
            if let Some(slot) = actual.filter.get_mut(*word as usize) {
                *slot = *value;
            }
        }
        actual.slots = contents.slots.clone();
        let layout = Layout::of(contents, limits);
        for (frontend, value) in &contents.frontends {
            let _none = actual.frontends.insert(*frontend, *value);
            actual.frontend_counts[frontend.family_index()] += 1;
            if layout.bad.contains(&(value.base, value.slots())) && !frontend.is_marker() {
                let _new = actual.suspects.insert(*frontend);
            } else {
                actual.enter_slots(frontend, value);
            }
            actual.link(*frontend, value);
        }
        if !actual.suspects.is_empty() {
            let merged = layout.bad.iter().copied().collect::<Merged>().0;
            let clipped = merged.into_iter().map(|(base, len)| {
                let base = base.min(limits.slots);
                (base, len.min(limits.slots - base))
            });
            actual.tainted = clipped.filter(|(_, len)| *len > 0).collect();
        }
        let used = contents.backends.keys().map(|id| id.0);
        actual.backend_ids = Ids::new(limits.backends.saturating_sub(1), used);
        // An id that only a stray names is no less in use: a new Service that got it could take a
        // stray's entry for its own.
        let used = contents.services.keys().map(|id| id.0);
        let named = contents.frontends.values().map(|value| value.service);
        let owners = contents.backends.values().map(|backend| backend.service.0);
        actual.service_ids = Ids::new(limits.services, used.chain(named).chain(owners));
        actual.free_slots = Slots::new(limits.slots, layout.used);
        actual.sources = Sources::adopt(contents, limits);
        actual
    }

    /// The addresses whose marker or filter bit is not as their frontends demand. `local` addresses
    /// have no marker.
    pub(super) fn inconsistent_addresses(&self, local: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let wants_marker = |addr: &IpAddr| {
            self.addresses.get(addr).is_some_and(|used| used.vips > 0) && !local.contains(addr)
        };
        let marked = |addr: &IpAddr| {
            self.frontends.get(&Frontend::marker(*addr)) == Some(&FrontendValue::default())
        };
        let in_filter = |VipBit { word, mask }| self.filter[word as usize] & mask != 0;
        let used = self.addresses.keys();
        let bad = used.filter(|a| wants_marker(a) != marked(a) || !in_filter(bit_of(**a)));
        let markers = self.frontends.keys().filter(|frontend| frontend.is_marker());
        let stray = markers.map(|f| f.addr).filter(|addr| !wants_marker(addr));
        bad.copied().chain(stray).collect()
    }

    /// The words of the filter with bits that stand for no address.
    pub(super) fn inconsistent_words(&self) -> BTreeSet<u32> {
        let mut expected = vec![0u64; self.filter.len()];
        for bit in self.bits.keys() {
            expected[bit.word as usize] |= bit.mask;
        }
        let words = (0u32..).zip(self.filter.iter().zip(&expected));
        words.filter(|(_, (have, want))| **have & !**want != 0).map(|(word, _)| word).collect()
    }
}

/// Which slots are in use, and which ranges overlap.
struct Layout {
    /// Ranges (base, length) that leave the array or overlap a different range.
    bad: BTreeSet<(u32, u32)>,
    /// All slots in use: sorted, not overlapping.
    used: Vec<(u32, u32)>,
}

impl Layout {
    fn of(contents: &Contents, limits: &Limits) -> Self {
        let named = contents
            .frontends
            .iter()
            .filter(|(frontend, value)| !frontend.is_marker() && value.slots() > 0);
        let ranges: BTreeSet<(u32, u32)> = named.map(|(_, v)| (v.base, v.slots())).collect();
        let end = |(base, len): (u32, u32)| u64::from(base) + u64::from(len);
        let mut bad = BTreeSet::new();
        // The range that reaches furthest of those before.
        let mut furthest: Option<(u32, u32)> = None;
        for &range in &ranges {
            if end(range) > u64::from(limits.slots) {
                let _new = bad.insert(range);
            }
            match furthest {
                Some(before) if u64::from(range.0) < end(before) => {
                    bad.extend([before, range]);
                    if end(range) > end(before) {
                        furthest = Some(range);
                    }
                }
                Some(_) | None => furthest = Some(range),
            }
        }
        Self { bad, used: ranges.iter().copied().collect::<Merged>().0 }
    }
}

/// Sorted ranges, merged where they overlap.
struct Merged(Vec<(u32, u32)>);

impl FromIterator<(u32, u32)> for Merged {
    /// `ranges` are sorted.
    fn from_iter<T: IntoIterator<Item = (u32, u32)>>(ranges: T) -> Self {
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (base, len) in ranges {
            let end = base.saturating_add(len);
            match merged.last_mut() {
                Some((start, width)) if base < start.saturating_add(*width) => {
                    *width = (*width).max(end - *start);
                }
                Some(_) | None => merged.push((base, end - base)),
            }
        }
        Self(merged)
    }
}
