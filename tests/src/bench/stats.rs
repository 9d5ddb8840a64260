//! Medians and spreads.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let Spread { median, min, max } = spread([5.0, 1.0, 3.0]);
        assert!((median, min, max) == (3.0, 1.0, 5.0));
        assert!(spread([]).median == 0.0);
    }
}
