//! The table of `lb-bench packet`.

use std::fmt;

use super::compare::{Comparison, Report};
use crate::bench::stats::Spread;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, rounds, comparisons, noise } = self;
        writeln!(f, "{machine}")?;
        writeln!(
            f,
            "ns per packet: median (min-max) of {rounds} processes; ratio: median of neighbours in time\n"
        )?;
        writeln!(
            f,
            "{:<40} {:>18} {:>18} {:>6} {:>13} {:>9} {:>8}",
            "case", "ns", "reference ns", "ratio", "goal", "verified", "code"
        )?;
        for row in comparisons.iter().filter(|row| !row.way) {
            let goal = match (row.goal, row.reached) {
                (Some(goal), Some(true)) => format!("<={goal:.2} reached"),
                (Some(goal), _) => format!("<={goal:.2} missed"),
                (None, _) => "-".to_owned(),
            };
            writeln!(f, "{} {goal:>13} {:>9} {:>6} B", times(row), row.verified, row.machine_code)?;
        }
        if comparisons.iter().any(|row| row.way) {
            writeln!(
                f,
                "\n{:<40} {:>18} {:>18} {:>6} {:>29}",
                "other ways / shortcut",
                "ns",
                "shortcut ns",
                "ratio",
                "packets a second on one CPU"
            )?;
        }
        for row in comparisons.iter().filter(|row| row.way) {
            // Only live frames are all that a packet costs.
            let speed = if row.case.starts_with("live") {
                format!("{:.2} M / {:.2} M", speed(&row.ns), speed(&row.reference_ns))
            } else {
                "-".to_owned()
            };
            writeln!(f, "{} {speed:>29}", times(row))?;
        }
        writeln!(f)?;
        noise.iter().try_for_each(|line| writeln!(f, "noise: {line}"))
    }
}

fn times(row: &Comparison) -> String {
    let Comparison { case, ns, reference_ns, ratio, .. } = row;
    format!("{case:<40} {:>18} {:>18} {ratio:>6.2}", cell(ns), cell(reference_ns))
}

/// Millions a second.
fn speed(ns: &Spread) -> f64 {
    1e3 / ns.median
}

/// A median and where the samples lie.
pub(super) fn cell(ns: &Spread) -> String {
    format!("{:.0} ({:.0}-{:.0})", ns.median, ns.min, ns.max)
}
