//! Comparisons: which cases are measured against which, and what is aimed at.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    build::Build,
    case::{At, Case, Subject, Traffic, Way},
    sample::{Effort, Sample},
    selection::Selection,
};
use crate::bench::{
    machine::Machine,
    pairs,
    stats::{Spread, spread},
};

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Few rounds of few packets: shows that everything works, and no reliable numbers.
    pub quick: bool,
    /// JSON in place of a table.
    pub json: bool,
    /// Which cases.
    pub selection: Selection,
}

impl Options {
    /// How much each sample measures.
    pub(super) fn effort(&self) -> Effort {
        if self.quick {
            Effort { packets: 20_000, runs: 1 }
        } else {
            Effort { packets: 100_000, runs: 5 }
        }
    }
}

/// A comparison and its outcome.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What is measured.
    pub case: String,
    /// Against what.
    pub reference: String,
    /// Whether it is another way of the same packets, and the reference the shortcut.
    pub way: bool,
    /// Nanoseconds per packet.
    pub ns: Spread,
    /// Nanoseconds per packet of the reference.
    pub reference_ns: Spread,
    /// Median of the ratios of neighbours in time: case / reference.
    pub ratio: f64,
    /// What the ratio shall not exceed.
    pub goal: Option<f64>,
    /// Whether it does not.
    pub reached: Option<bool>,
    /// Instructions that the verifier walked through.
    pub verified: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Where.
    pub(super) machine: Machine,
    /// Pairs of samples for each comparison.
    pub(super) rounds: u32,
    /// In the order of the table.
    pub(super) comparisons: Vec<Comparison>,
    /// How far two measurements of the same thing were apart.
    pub(super) noise: Vec<String>,
}

struct Plan {
    case: Case,
    reference: Case,
    goal: Option<f64>,
}

const MANY: u32 = 10_000;
/// More connections than the caches hold.
pub(super) const FLOWS: u32 = 1 << 16;
/// As many connections as a busy client may have; their entries are in the caches.
const LIVE_FLOWS: u32 = 1 << 10;

/// Everything that is compared. The two comparisons of a case with itself tell the noise.
fn plans() -> Vec<Plan> {
    let case = |subject, at, ipv6, traffic, services| Case { subject, at, ipv6, traffic, services };
    let ours = |at, ipv6, traffic| case(Subject::Ours, at, ipv6, traffic, 1);
    let floor = |at, traffic| case(Subject::Floor, at, false, traffic, 1);
    let one = Traffic::Established(1);
    let many = Traffic::Established(FLOWS);
    let mut plans = Vec::new();
    let mut compare = |case, reference, goal| plans.push(Plan { case, reference, goal });
    compare(floor(At::Xdp, one), floor(At::Xdp, one), None);
    compare(floor(At::Xdp, many), floor(At::Xdp, many), None);
    for at in [At::Xdp, At::External] {
        compare(ours(at, false, one), floor(at, one), Some(1.25));
        compare(ours(at, false, many), floor(at, many), None);
        compare(ours(at, true, one), floor(at, one), None);
        compare(ours(at, true, many), floor(at, many), None);
        // XDP starts no flow.
        if at == At::External {
            compare(ours(at, false, Traffic::New), floor(at, Traffic::New), None);
            compare(ours(at, true, Traffic::New), floor(at, Traffic::New), None);
        }
        compare(ours(at, false, Traffic::Unrelated), floor(at, one), Some(0.45));
        compare(ours(at, true, Traffic::Unrelated), floor(at, one), None);
    }
    compare(ours(At::Pod, false, one), floor(At::External, one), None);
    compare(ours(At::Pod, true, one), floor(At::External, one), None);
    // "At least 0.95 of the speed at one Service" is "at most 1 / 0.95 of the time".
    for (at, traffic) in
        [(At::Xdp, one), (At::External, Traffic::New), (At::Xdp, Traffic::Unrelated)]
    {
        let at_many = case(Subject::Ours, at, false, traffic, MANY);
        compare(at_many, ours(at, false, traffic), Some(1.0 / 0.95));
    }
    for at in [At::External, At::Xdp] {
        for ipv6 in [false, true] {
            compare(ours(at, ipv6, Traffic::Road(1)), ours(at, ipv6, Traffic::Shortcut(1)), None);
        }
    }
    for at in [At::External, At::Xdp] {
        for ipv6 in [false, true] {
            let live = |way| ours(at, ipv6, Traffic::Live(way, LIVE_FLOWS));
            for way in [Way::Road, Way::Rules] {
                compare(live(way), live(Way::Shortcut), None);
            }
        }
    }
    plans
}

/// The cases that are meant, each with its reference; the noise is always among them.
fn meant(selection: &Selection) -> Result<Vec<Plan>> {
    let (mut plans, others): (Vec<Plan>, Vec<Plan>) =
        plans().into_iter().partition(|plan| plan.case == plan.reference);
    plans.extend(selection.narrow(others, |plan| &plan.case)?);
    Ok(plans)
}

/// The cases that are meant, in the order of the table.
pub fn cases(selection: &Selection) -> Result<Vec<Case>> {
    Ok(meant(selection)?.iter().map(|plan| plan.case).collect())
}

/// Measures everything that is meant and prints it.
pub fn run(options: &Options) -> Result<()> {
    let rounds = if options.quick { 1 } else { 7 };
    let effort = options.effort();
    let plans = meant(&options.selection)?;
    let mut comparisons = Vec::new();
    let mut noise = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        eprintln!("==> {}/{} {}", number + 1, plans.len(), plan.case);
        let compared = compare(plan, rounds, effort)?;
        if plan.case == plan.reference {
            let limit = if plan.case.is_memory_bound() { 0.15 } else { 0.05 };
            let off = (compared.ratio - 1.0).abs();
            let verdict = if off > limit { "TOO NOISY: do not trust this run" } else { "fine" };
            noise.push(format!(
                "{} against itself: off by {:.1} %, limit {:.0} %: {verdict}",
                plan.case,
                off * 100.0,
                limit * 100.0
            ));
        }
        comparisons.push(compared);
    }
    let report = Report { machine: Machine::here(), rounds, comparisons, noise };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn compare(plan: &Plan, rounds: u32, effort: Effort) -> Result<Comparison> {
    let build = Build::this()?;
    let taken = pairs::take(
        rounds,
        || build.sample(&plan.case, effort),
        || build.sample(&plan.reference, effort),
    )?;
    let last: &Sample = taken.last().map(|(case, _)| case).context("at least one round")?;
    let ratio = spread(taken.iter().map(|(case, reference)| case.ns / reference.ns)).median;
    Ok(Comparison {
        case: plan.case.to_string(),
        reference: plan.reference.to_string(),
        way: matches!(plan.case.traffic, Traffic::Road(_) | Traffic::Live(..)),
        ns: spread(taken.iter().map(|(case, _)| case.ns)),
        reference_ns: spread(taken.iter().map(|(_, reference)| reference.ns)),
        ratio,
        goal: plan.goal,
        reached: plan.goal.map(|goal| ratio <= goal),
        verified: last.verified,
        machine_code: last.machine_code,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_comparison_has_a_name_of_its_own() {
        let names: Vec<String> = plans().iter().map(|plan| plan.case.to_string()).collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(names.len(), unique.len(), "{names:#?}");
    }

    #[test]
    fn ways_are_compared_with_the_shortcut_at_the_same_hook() {
        let mut ways = 0;
        for Plan { case, reference, .. } in plans() {
            let by =
                matches!(reference.traffic, Traffic::Shortcut(_) | Traffic::Live(Way::Shortcut, _));
            if by {
                ways += 1;
                assert_eq!((case.at, case.ipv6), (reference.at, reference.ipv6), "{case}");
            }
        }
        // Test runs of the road, and live frames by the road and by rules: two hooks, two families.
        assert_eq!(ways, 3 * 4);
    }
}
