//! Medians, spreads, and how far a median can be trusted.

use serde::Serialize;

/// What several samples come to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// The spread of samples; all zero when there are none.
#[must_use]
pub fn spread(samples: impl IntoIterator<Item = f64>) -> Spread {
    let mut samples: Vec<f64> = samples.into_iter().collect();
    samples.sort_by(f64::total_cmp);
    Spread {
        median: percentile(&samples, 50),
        min: samples.first().copied().unwrap_or_default(),
        max: samples.last().copied().unwrap_or_default(),
    }
}

/// A percentile of sorted samples; 0 when there are none.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

/// Where the median of all that could be measured lies, as a few samples of it tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// It is not below this one,
    pub low: f64,
    /// and not above this one,
    pub high: f64,
    /// in at least this share of all such intervals.
    pub confidence: f64,
}

impl Interval {
    /// Whether a value lies inside.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The median, in between the two middle ones of an even number; 0 when there are no samples.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    f64::midpoint(lower, upper)
}

/// Two of the samples themselves, between which the median lies with a confidence of 95 %: those that the
/// sign test would not refuse. It holds for every distribution, because each independent sample falls
/// below the true median as a coin falls.
///
/// Less than six samples cannot give 95 %: the interval is then all of them, and says what it is worth.
/// None without samples.
#[must_use]
pub fn interval_of_median(samples: &[f64]) -> Option<Interval> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (outside, confidence) = outside(sorted.len());
    let low = *sorted.get(outside)?;
    let high = *sorted.get(sorted.len() - 1 - outside)?;
    Some(Interval { low, high, confidence })
}

/// How many samples may lie outside of the interval at either end, and the confidence that is left.
fn outside(samples: usize) -> (usize, f64) {
    // The chance that exactly `below` of all samples lie below the median, and that no more do.
    let count = f64::from(u32::try_from(samples).unwrap_or(u32::MAX));
    let (mut exactly, mut at_most, mut below) = (0.5_f64.powf(count), 0.0, 0.0);
    let (mut outside, mut confidence) = (0, 0.0);
    for dropped in 0..samples.div_ceil(2) {
        at_most += exactly;
        let left = 1.0 - 2.0 * at_most;
        if dropped > 0 && left < 0.95 {
            break;
        }
        (outside, confidence) = (dropped, left.max(0.0));
        exactly *= (count - below) / (below + 1.0);
        below += 1.0;
    }
    (outside, confidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: u32) -> Vec<f64> {
        (1..=count).rev().map(f64::from).collect()
    }

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        assert!(median(&[4.0, 1.0, 3.0, 2.0]) == 2.5);
        assert!(median(&[3.0, 1.0, 2.0]) == 2.0);
        assert!(median(&[]) == 0.0);
    }

    /// The ranks are those of any table of the sign test.
    #[test]
    fn the_interval_leaves_out_what_the_sign_test_allows() {
        for (count, low, high, confidence) in [
            (6, 1.0, 6.0, 0.968),
            (9, 2.0, 8.0, 0.960),
            (15, 4.0, 12.0, 0.964),
            (45, 16.0, 30.0, 0.964),
        ] {
            let interval = interval_of_median(&numbered(count)).expect("there are samples");
            assert_eq!((interval.low, interval.high), (low, high), "{count} samples");
            assert!((interval.confidence - confidence).abs() < 0.001, "{count}: {interval:?}");
        }
    }

    #[test]
    fn few_samples_give_all_of_them_and_little_confidence() {
        assert_eq!(
            interval_of_median(&numbered(3)),
            Some(Interval { low: 1.0, high: 3.0, confidence: 0.75 })
        );
        let one = Interval { low: 1.0, high: 1.0, confidence: 0.0 };
        assert_eq!(interval_of_median(&[1.0]), Some(one));
        assert_eq!(interval_of_median(&[]), None);
    }

    #[test]
    fn the_most_pairs_that_may_be_asked_for_have_an_interval() {
        let interval = interval_of_median(&numbered(1000)).expect("there are samples");
        assert!(interval.contains(500.5) && !interval.contains(400.0) && !interval.contains(600.0));
        assert!((0.95..0.96).contains(&interval.confidence), "{interval:?}");
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let Spread { median, min, max } = spread([5.0, 1.0, 3.0]);
        assert!((median, min, max) == (3.0, 1.0, 5.0));
        assert!(spread([]).median == 0.0);
    }
}
