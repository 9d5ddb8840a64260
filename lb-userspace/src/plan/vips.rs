//! Markers and filter bits: what follows from which addresses have frontends.
//!
//! Invariant: an address has a marker while it is a VIP and not an address of this node (whose other
//! ports belong to the host); its filter bit is set while it has any frontend.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::{FrontendValue, VipBit};

use super::{
    actual::bit_of,
    build::Build,
    op::{Frontend, Op},
};

impl Build<'_> {
    /// Brings the markers and bits of all addresses that the plan touches, and of those in `also`,
    /// to what they shall be; likewise the words in `words`.
    pub(super) fn settle_addresses(&mut self, also: &BTreeSet<IpAddr>, words: &BTreeSet<u32>) {
        let touched: BTreeSet<IpAddr> = self.changes.keys().chain(also).copied().collect();
        let mut bits: HashMap<VipBit, i64> = HashMap::new();
        for addr in &touched {
            let after = self.use_after(addr);
            self.settle_marker(*addr, after.vips > 0);
            let before = self.actual.addresses.contains_key(addr);
            let change = i64::from(after.frontends > 0) - i64::from(before);
            *bits.entry(bit_of(*addr)).or_default() += change;
        }
        self.settle_filter(&bits, words);
    }

    fn settle_marker(&mut self, addr: IpAddr, vip: bool) {
        let marker = Frontend::marker(addr);
        let family = marker.family();
        let value = FrontendValue::default();
        let there = self.actual.frontends.get(&marker);
        match vip && !self.node.local.contains(&addr) {
            true if there != Some(&value) => {
                self.stages.of(family).frontends.push(Op::PutFrontend(marker, value));
            }
            false if there.is_some() => {
                self.stages.of(family).deletes.push(Op::DeleteFrontend(marker));
            }
            true | false => {}
        }
    }

    fn settle_filter(&mut self, changes: &HashMap<VipBit, i64>, words: &BTreeSet<u32>) {
        let in_use = |bit: &VipBit| {
            let before = self.actual.bits.get(bit).copied().unwrap_or_default();
            i64::from(before) + changes.get(bit).copied().unwrap_or_default() > 0
        };
        let mut set: BTreeMap<u32, u64> = BTreeMap::new();
        let mut clear: BTreeMap<u32, u64> = BTreeMap::new();
        for bit in changes.keys() {
            let map = if in_use(bit) { &mut set } else { &mut clear };
            *map.entry(bit.word).or_default() |= bit.mask;
        }
        for word in words {
            let used = (0..64).map(|bit| VipBit { word: *word, mask: 1 << bit });
            let used = used.filter(in_use).fold(0, |all, bit| all | bit.mask);
            *clear.entry(*word).or_default() |= !used;
        }
        let before = |word: u32| self.actual.filter.get(word as usize).copied().unwrap_or_default();
        let value_set = |word: u32| before(word) | set.get(&word).copied().unwrap_or_default();
        for word in set.keys().copied().filter(|word| value_set(*word) != before(*word)) {
            self.stages.bits_set.push(Op::SetFilter { word, value: value_set(word) });
        }
        for (word, mask) in &clear {
            let value = value_set(*word) & !mask;
            if value != value_set(*word) {
                self.stages.bits_cleared.push(Op::SetFilter { word: *word, value });
            }
        }
    }
}
