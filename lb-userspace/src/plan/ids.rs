//! Numbers for services and backends.
//!
//! Invariant: a number is in use, free, or resting; one that was in use rests for a while before it
//! is given out again, because a packet being processed may still name it.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How long something that was in use rests before it is used again. Processing one packet takes
/// microseconds; a second is far more than any program on any CPU can be delayed.
pub(super) const REST: Duration = Duration::from_secs(1);

/// The numbers from 1 up to a limit.
#[derive(Debug)]
pub(super) struct Ids {
    /// Every number from here on was never used.
    next: u32,
    /// Free numbers below `next`.
    free: BTreeSet<u32>,
    resting: VecDeque<(Instant, u32)>,
    /// The largest number.
    last: u32,
}

impl Ids {
    /// All numbers from 1 to `last`, of which those in `used` are in use.
    pub(super) fn new(last: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let mut ids = Self { next: 1, free: BTreeSet::new(), resting: VecDeque::new(), last };
        let used: BTreeSet<u32> = used.into_iter().filter(|id| (1..=last).contains(id)).collect();
        for id in used {
            ids.free.extend(ids.next..id);
            ids.next = id + 1;
        }
        ids
    }

    /// Takes the smallest free number.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        if self.next > self.last {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Gives back a number that was taken but never written anywhere.
    pub(super) fn put_back(&mut self, id: u32) {
        let _new = self.free.insert(id);
    }

    /// Lets a number rest that was in use.
    pub(super) fn retire(&mut self, id: u32, now: Instant) {
        if (1..=self.last).contains(&id) {
            self.resting.push_back((now, id));
        }
    }

    /// Frees the numbers that rested long enough; says whether there were any.
    pub(super) fn wake(&mut self, now: Instant) -> bool {
        let before = self.resting.len();
        while self.next_wake().is_some_and(|at| at <= now) {
            if let Some((_, id)) = self.resting.pop_front() {
                self.put_back(id);
            }
        }
        self.resting.len() < before
    }

    /// When the next number will have rested long enough.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.front().map(|(since, _)| *since + REST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens, a number is never given out twice, and never while it rests.
        #[test]
        fn a_number_has_one_user(
            used in proptest::collection::btree_set(1u32..40, 0..20),
            steps in proptest::collection::vec((0u8..4, 0usize..40), 0..200),
        ) {
            let mut now = Instant::now();
            let mut ids = Ids::new(30, used.iter().copied());
            let mut taken: Vec<u32> = used.iter().copied().filter(|id| *id <= 30).collect();
            let mut resting: Vec<(u32, Instant)> = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => if let Some(id) = ids.take() {
                        prop_assert!((1..=30).contains(&id));
                        prop_assert!(!taken.contains(&id));
                        prop_assert!(resting.iter().all(|(other, since)| *other != id || now >= *since + REST));
                        taken.push(id);
                        resting.retain(|(other, _)| *other != id);
                    } else {
                        let asleep = resting.iter().filter(|(_, since)| now < *since + REST).count();
                        prop_assert!(taken.len() + resting.len() == 30 || asleep < resting.len());
                    },
                    1 if !taken.is_empty() => ids.put_back(taken.swap_remove(which % taken.len())),
                    2 if !taken.is_empty() => {
                        let id = taken.swap_remove(which % taken.len());
                        ids.retire(id, now);
                        resting.push((id, now));
                    }
                    _ => {
                        now += REST / 2;
                        let _woken = ids.wake(now);
                    }
                }
            }
        }
    }
}
