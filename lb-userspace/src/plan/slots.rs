//! Ranges of slots: best fit with coalescing.
//!
//! Invariant: free ranges, resting ranges and ranges in use never overlap, and two free ranges are
//! never adjacent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use super::ids::REST;

/// The slots from 0 up to a limit.
#[derive(Debug)]
pub(super) struct Slots {
    /// Free ranges: base → length.
    by_base: BTreeMap<u32, u32>,
    /// The same: (length, base).
    by_len: BTreeSet<(u32, u32)>,
    resting: VecDeque<(Instant, u32, u32)>,
}

impl Slots {
    /// `capacity` slots, of which those in `used` (base, length; sorted, not overlapping) are in
    /// use.
    pub(super) fn new(capacity: u32, used: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut ranges =
            Self { by_base: BTreeMap::new(), by_len: BTreeSet::new(), resting: VecDeque::new() };
        let mut start = 0;
        for (base, len) in used {
            let base = base.min(capacity);
            if base > start {
                ranges.insert(start, base - start);
            }
            start = start.max(base.saturating_add(len)).min(capacity);
        }
        if start < capacity {
            ranges.insert(start, capacity - start);
        }
        ranges
    }

    /// Takes `len` adjacent slots; `len` is not 0.
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        let &(found, base) = self.by_len.range((len, 0)..).next()?;
        self.remove(base, found);
        if found > len {
            self.insert(base + len, found - len);
        }
        Some(base)
    }

    /// Gives back a range that no frontend ever named.
    pub(super) fn put_back(&mut self, mut base: u32, mut len: u32) {
        let before = self.by_base.range(..base).next_back().map(|(base, len)| (*base, *len));
        if let Some((other, other_len)) = before
            && other + other_len == base
        {
            self.remove(other, other_len);
            (base, len) = (other, other_len + len);
        }
        if let Some(&after) = self.by_base.get(&(base + len)) {
            self.remove(base + len, after);
            len += after;
        }
        self.insert(base, len);
    }

    /// Lets a range rest that a frontend named.
    pub(super) fn retire(&mut self, base: u32, len: u32, now: Instant) {
        if len > 0 {
            self.resting.push_back((now, base, len));
        }
    }

    /// Frees the ranges that rested long enough; says whether there were any.
    pub(super) fn wake(&mut self, now: Instant) -> bool {
        let before = self.resting.len();
        while self.next_wake().is_some_and(|at| at <= now) {
            if let Some((_, base, len)) = self.resting.pop_front() {
                self.put_back(base, len);
            }
        }
        self.resting.len() < before
    }

    /// When the next range will have rested long enough.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.front().map(|(since, ..)| *since + REST)
    }

    fn insert(&mut self, base: u32, len: u32) {
        let _none = self.by_base.insert(base, len);
        let _new = self.by_len.insert((len, base));
    }

    fn remove(&mut self, base: u32, len: u32) {
        let _len = self.by_base.remove(&base);
        let _was = self.by_len.remove(&(len, base));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u32 = 64;

    proptest! {
        /// Ranges given out never overlap, stay within the limit, and all come back in the end.
        #[test]
        fn a_slot_has_one_user(steps in proptest::collection::vec((0u8..4, 1u32..12), 0..200)) {
            let mut now = Instant::now();
            let mut ranges = Slots::new(CAPACITY, []);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (step, n) in steps {
                match step {
                    0 | 1 => if let Some(base) = ranges.take(n) {
                        prop_assert!(base + n <= CAPACITY);
                        for (other, len) in &taken {
                            prop_assert!(base + n <= *other || other + len <= base);
                        }
                        taken.push((base, n));
                    },
                    2 if !taken.is_empty() => {
                        let (base, len) = taken.swap_remove(n as usize % taken.len());
                        ranges.retire(base, len, now);
                    }
                    _ => {
                        now += REST / 2;
                        let _woken = ranges.wake(now);
                    }
                }
            }
            for (base, len) in taken {
                ranges.put_back(base, len);
            }
            let _woken = ranges.wake(now + REST);
            prop_assert_eq!(ranges.take(CAPACITY), Some(0));
        }
    }

    #[test]
    fn used_ranges_are_not_given_out() {
        let mut ranges = Slots::new(16, [(2, 3), (5, 1), (14, 9)]);
        assert_eq!(ranges.take(2), Some(0));
        assert_eq!(ranges.take(8), Some(6));
        assert_eq!(ranges.take(1), None);
    }
}
