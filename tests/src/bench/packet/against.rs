//! `lb-bench packet --against`: this build and one of another revision, case by case, sample by sample in
//! turn.
//!
//! Two runs of one build differ by more than what a change is to be judged by, so numbers of different
//! runs are never compared. A control row, this build in the place of both, tells what a difference that is
//! none looks like on this machine now.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    build::Build,
    case::{At, Case, Subject, Traffic},
    compare::Options,
    sample::Effort,
    selection::Selection,
    verdict::{Difference, Verdict},
};
use crate::bench::{machine::Machine, pairs};

/// The other build, and what is claimed.
#[derive(Clone, Debug)]
pub struct Against {
    /// Its `lb-bench`; the objects lie beside.
    pub program: PathBuf,
    /// What to call its revision.
    pub revision: String,
    /// Pairs of samples for each case.
    pub pairs: u32,
    /// Percent that this build may cost more.
    pub bound: f64,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Where.
    pub(super) machine: Machine,
    /// The other build's revision.
    pub(super) revision: String,
    /// Pairs of samples for each case.
    pub(super) pairs: u32,
    /// Percent that this build may cost more.
    pub(super) bound: f64,
    /// This build in the place of both.
    pub(super) control: Control,
    /// The cases.
    pub(super) rows: Vec<Row>,
}

/// A case of this build against itself.
#[derive(Debug, Serialize)]
pub(super) struct Control {
    /// What was measured.
    pub(super) case: String,
    /// What differs although nothing does.
    #[serde(flatten)]
    pub(super) difference: Difference,
}

/// A case and its outcome.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// What was measured.
    pub(super) case: String,
    /// What came of it.
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

/// What came of a case.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// Both builds measured it.
    Measured {
        /// How they differ.
        #[serde(flatten)]
        difference: Difference,
        /// Whether this build is within the bound.
        verdict: Verdict,
        /// Whether more pairs would hardly say anything else.
        certain: bool,
    },
    /// The other build cannot.
    Absent {
        /// What it answered.
        not_in_revision: String,
    },
}

/// Every case of the product that both builds may know, in the order of the table.
pub fn cases(selection: &Selection) -> Result<Vec<Case>> {
    let mut all = Vec::new();
    for at in [At::Xdp, At::External, At::Pod] {
        for traffic in [
            Traffic::Established(1),
            Traffic::Established(super::compare::FLOWS),
            Traffic::New,
            Traffic::Unrelated,
            Traffic::Road(1),
        ] {
            // XDP starts no flow, and what comes from a pod has one way only.
            let strange =
                matches!((at, traffic), (At::Xdp, Traffic::New) | (At::Pod, Traffic::Road(_)));
            for ipv6 in [false, true].into_iter().filter(|_| !strange) {
                all.push(Case { subject: Subject::Ours, at, ipv6, traffic, services: 1 });
            }
        }
    }
    selection.narrow(all, |case| case)
}

/// Measures every case that is meant and prints the outcome. True when none missed the bound.
pub fn run(options: &Options, against: &Against) -> Result<bool> {
    let report = measure(options, against)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(!report.rows.iter().any(Row::is_missed))
}

fn measure(options: &Options, against: &Against) -> Result<Report> {
    let Against { program, revision, pairs, bound } = against;
    let cases = cases(&options.selection)?;
    let (now, other) = (Build::this()?, Build::at(program)?);
    let effort = options.effort();
    let case = control(&cases).context("at least one case")?;
    eprintln!("==> control: {case}");
    let difference = differ(&case, &now, &now, *pairs, effort)?;
    let control = Control { case: case.to_string(), difference };
    let mut rows = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        eprintln!("==> {}/{} {case}", number + 1, cases.len());
        // One small sample first: a build that does not know the case is no failure of this one.
        let outcome = match other.sample(case, Effort { packets: 1000, runs: 1 }) {
            Err(error) => Outcome::Absent { not_in_revision: format!("{error:#}") },
            Ok(_) => {
                let difference = differ(case, &now, &other, *pairs, effort)?;
                let verdict = difference.verdict(*bound);
                let certain = difference.is_certain(*bound);
                Outcome::Measured { difference, verdict, certain }
            }
        };
        rows.push(Row { case: case.to_string(), outcome });
    }
    if let Some(why) = nothing_measured(&rows) {
        bail!("the build of {revision} measured none of the cases: {why}");
    }
    Ok(Report {
        machine: Machine::here(),
        revision: revision.clone(),
        pairs: *pairs,
        bound: *bound,
        control,
        rows,
    })
}

/// The case of the control: new flows are the noisiest.
fn control(cases: &[Case]) -> Option<Case> {
    cases.iter().find(|case| case.traffic == Traffic::New).or(cases.first()).copied()
}

fn differ(
    case: &Case,
    now: &Build,
    other: &Build,
    pairs: u32,
    effort: Effort,
) -> Result<Difference> {
    let taken = pairs::take(pairs, || now.sample(case, effort), || other.sample(case, effort))?;
    Difference::of(&taken)
}

/// Why no row could be measured, if so.
fn nothing_measured(rows: &[Row]) -> Option<&str> {
    let mut why = None;
    for row in rows {
        let Outcome::Absent { not_in_revision } = &row.outcome else { return None };
        why = why.or(Some(not_in_revision.as_str()));
    }
    why
}

impl Row {
    fn is_missed(&self) -> bool {
        matches!(self.outcome, Outcome::Measured { verdict: Verdict::Missed, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent(case: &Case) -> Row {
        let not_in_revision = "unknown".to_owned();
        Row { case: case.to_string(), outcome: Outcome::Absent { not_in_revision } }
    }

    #[test]
    fn the_control_is_a_new_flow_of_those_that_are_meant() {
        let of = |word: &str| {
            let cases = cases(&Selection(vec![word.to_owned()])).unwrap();
            control(&cases).unwrap().to_string()
        };
        assert_eq!(of("v4"), "tc v4 new flow each");
        assert_eq!(of("tc v6"), "tc v6 new flow each");
        assert_eq!(of("unrelated"), "xdp v4 unrelated");
        assert!(control(&[]).is_none());
    }

    #[test]
    fn every_case_is_asked_for_in_both_families_and_once() {
        let names: Vec<String> =
            cases(&Selection::default()).unwrap().iter().map(Case::to_string).collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!((names.len(), unique.len()), (26, 26));
        assert_eq!(names.iter().filter(|name| name.contains("v6")).count(), 13);
    }

    #[test]
    fn a_case_that_the_other_build_lacks_is_not_missed() {
        let rows: Vec<Row> = cases(&Selection::default()).unwrap().iter().map(absent).collect();
        assert!(!rows.iter().any(Row::is_missed));
        assert_eq!(nothing_measured(&rows), Some("unknown"));
        assert_eq!(nothing_measured(&[]), None);
    }
}
