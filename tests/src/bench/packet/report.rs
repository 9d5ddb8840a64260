//! The table of `lb-bench packet --against`.

use std::fmt;

use super::{
    against::{Outcome, Report, Row},
    table::cell,
    verdict::{Difference, Verdict},
};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, revision, pairs, bound, control, rows } = self;
        writeln!(f, "{machine}")?;
        writeln!(f, "{revision} and this build in turn: {pairs} pairs of processes for each case")?;
        writeln!(
            f,
            "ns per packet: median (min-max); ratio: median of the pairs; interval: where the true ratio \
             lies with {:.1} %\n",
            control.difference.interval.confidence * 100.0
        )?;
        writeln!(
            f,
            "{:<40} {:>18} {:>18} {:>6} {:>12}  at most {bound:+} %",
            "case",
            format!("ns at {revision}"),
            "ns now",
            "ratio",
            "interval"
        )?;
        writeln!(f, "{:<40} {}", format!("control: {}", control.case), cells(&control.difference))?;
        for row in rows {
            let Row { case, outcome } = row;
            match outcome {
                Outcome::Measured { difference, verdict, certain } => {
                    let verdict = word(*verdict, *certain);
                    writeln!(f, "{case:<40} {}  {verdict}", cells(difference))?;
                }
                Outcome::Absent { .. } => writeln!(f, "{case:<40} not in {revision}")?,
            }
        }
        writeln!(f)?;
        writeln!(f, "control: {}", noise(&control.difference, *bound))?;
        for row in rows {
            if let Outcome::Absent { not_in_revision } = &row.outcome {
                writeln!(f, "not in {revision}: {not_in_revision}")?;
            }
        }
        Ok(())
    }
}

fn cells(difference: &Difference) -> String {
    let Difference { reference_ns, ns, ratio, interval } = difference;
    let interval = format!("{:.3}-{:.3}", interval.low, interval.high);
    format!("{:>18} {:>18} {ratio:>6.3} {interval:>12}", cell(reference_ns), cell(ns))
}

/// What this build against itself says about the other rows.
fn noise(control: &Difference, bound: f64) -> String {
    // No two samples agree better than to a percent, whatever the bound.
    let tolerable = bound.abs().max(1.0) / 100.0;
    let off = (control.ratio - 1.0).abs();
    let at_most = (control.interval.low - 1.0).abs().max((control.interval.high - 1.0).abs());
    let verdict = if off > tolerable {
        "TOO NOISY, do not trust this run"
    } else if at_most > tolerable {
        "more than the bound may be noise, ask for more --pairs"
    } else {
        "fine"
    };
    format!(
        "this build against itself is off by {:.1} %, at most {:.1} %: {verdict}",
        off * 100.0,
        at_most * 100.0
    )
}

/// A question mark where the bound lies within the interval.
fn word(verdict: Verdict, certain: bool) -> &'static str {
    match (verdict, certain) {
        (Verdict::Held, true) => "held",
        (Verdict::Held, false) => "held?",
        (Verdict::Missed, true) => "MISSED",
        (Verdict::Missed, false) => "MISSED?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::{Interval, Spread};

    fn difference(low: f64, ratio: f64, high: f64) -> Difference {
        Difference {
            reference_ns: Spread::default(),
            ns: Spread::default(),
            ratio,
            interval: Interval { low, high, confidence: 0.96 },
        }
    }

    #[test]
    fn a_control_that_is_off_or_wide_is_told() {
        assert!(noise(&difference(0.99, 1.0, 1.02), 3.0).ends_with("at most 2.0 %: fine"));
        assert!(noise(&difference(0.95, 1.0, 1.02), 3.0).contains("--pairs"));
        assert!(noise(&difference(0.99, 0.96, 1.02), 3.0).contains("TOO NOISY"));
        assert!(noise(&difference(0.99, 1.0, 1.02), -5.0).ends_with("fine"));
        assert!(noise(&difference(0.995, 0.999, 1.005), 0.0).ends_with("fine"));
    }

    #[test]
    fn a_verdict_that_more_pairs_may_turn_has_a_question_mark() {
        assert_eq!(word(Verdict::Held, true), "held");
        assert_eq!(word(Verdict::Held, false), "held?");
        assert_eq!(word(Verdict::Missed, true), "MISSED");
        assert_eq!(word(Verdict::Missed, false), "MISSED?");
    }
}
