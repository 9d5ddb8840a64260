//! What pairs of samples come to, and whether the new build costs more than it may.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::sample::Sample;
use crate::bench::stats::{Interval, Spread, interval_of_median, median, spread};

/// How two builds differ in a case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Difference {
    /// Nanoseconds per packet of the other build.
    pub(super) reference_ns: Spread,
    /// Nanoseconds per packet of this build.
    pub(super) ns: Spread,
    /// Median of the pairs' ratios: this build / the other.
    pub(super) ratio: f64,
    /// Where the ratio lies that many more pairs would come to.
    pub(super) interval: Interval,
}

/// Whether the ratio is within the bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It is.
    Held,
    /// It is not.
    Missed,
}

impl Difference {
    /// What pairs come to: of this build's sample first, and of the other's.
    ///
    /// # Errors
    /// When there is no pair.
    pub(super) fn of(pairs: &[(Sample, Sample)]) -> Result<Self> {
        let ratios: Vec<f64> =
            pairs.iter().map(|(case, reference)| case.ns / reference.ns).collect();
        Ok(Self {
            reference_ns: spread(pairs.iter().map(|(_, reference)| reference.ns)),
            ns: spread(pairs.iter().map(|(case, _)| case.ns)),
            ratio: median(&ratios),
            interval: interval_of_median(&ratios).context("at least one pair")?,
        })
    }

    /// The verdict for a bound of so many percent more.
    #[must_use]
    pub(super) fn verdict(&self, bound: f64) -> Verdict {
        if self.ratio <= limit(bound) { Verdict::Held } else { Verdict::Missed }
    }

    /// Whether the whole interval is on the side of the verdict, so that more pairs would say the same.
    #[must_use]
    pub(super) fn is_certain(&self, bound: f64) -> bool {
        match self.verdict(bound) {
            Verdict::Held => self.interval.high <= limit(bound),
            Verdict::Missed => self.interval.low > limit(bound),
        }
    }
}

fn limit(bound: f64) -> f64 {
    1.0 + bound / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs in which the other build always takes 100 ns.
    fn difference(ns: &[f64]) -> Difference {
        let sample = |ns| Sample { ns, wrapper: 0.0, verified: 0, machine_code: 0 };
        let pairs: Vec<_> = ns.iter().map(|ns| (sample(*ns), sample(100.0))).collect();
        Difference::of(&pairs).unwrap()
    }

    fn judged(ns: &[f64], bound: f64) -> (Verdict, bool) {
        let difference = difference(ns);
        (difference.verdict(bound), difference.is_certain(bound))
    }

    #[test]
    fn the_ratio_is_of_neighbours_and_not_of_medians() {
        // The machine became three times slower in between: every pair says 1.1.
        let sample = |ns| Sample { ns, wrapper: 0.0, verified: 0, machine_code: 0 };
        let pairs = [
            (sample(110.0), sample(100.0)),
            (sample(330.0), sample(300.0)),
            (sample(121.0), sample(110.0)),
        ];
        let difference = Difference::of(&pairs).unwrap();
        assert!((difference.ratio - 1.1).abs() < 1e-9, "{difference:?}");
        assert!((difference.ns.median, difference.reference_ns.median) == (121.0, 110.0));
    }

    #[test]
    fn the_bound_itself_is_held_and_what_is_above_is_missed() {
        assert_eq!(judged(&[125.0; 6], 25.0), (Verdict::Held, true));
        assert_eq!(judged(&[125.1; 6], 25.0), (Verdict::Missed, true));
        assert_eq!(judged(&[94.0; 6], -5.0), (Verdict::Held, true));
        assert_eq!(judged(&[96.0; 6], -5.0), (Verdict::Missed, true));
    }

    #[test]
    fn a_bound_within_the_interval_is_not_certain() {
        assert_eq!(judged(&[99.0, 101.0, 102.0, 102.0, 104.0, 105.0], 3.0), (Verdict::Held, false));
        assert_eq!(
            judged(&[99.0, 102.0, 104.0, 104.0, 105.0, 106.0], 3.0),
            (Verdict::Missed, false)
        );
    }

    #[test]
    fn no_pair_is_no_difference() {
        assert!(Difference::of(&[]).is_err());
    }
}
