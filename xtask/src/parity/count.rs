//! Compares rows with what became of the tests that they name, and counts.

use std::fmt;

use super::document::{Proof, Row};
use crate::outcomes::{Outcome, Outcomes};

/// How many rows are what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) proven: usize,
    pub(crate) different: usize,
    pub(crate) elsewhere: usize,
    /// Rows that nothing shows in this run, and why.
    pub(crate) missing: Vec<(String, String)>,
}

impl Count {
    /// All rows.
    fn all(&self) -> usize {
        self.proven + self.different + self.elsewhere + self.missing.len()
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows proven, {} different on purpose, {} guaranteed elsewhere, {} missing",
            self.proven,
            self.all(),
            self.different,
            self.elsewhere,
            self.missing.len()
        )
    }
}

/// Counts rows; adds to `wrong` what must not be: tests that are named and did not run, or failed.
pub(crate) fn count<'a>(
    rows: impl Iterator<Item = &'a Row>,
    outcomes: &Outcomes,
    is_case: impl Fn(&str) -> bool,
    wrong: &mut Vec<String>,
) -> Count {
    let mut count = Count::default();
    for row in rows {
        let mut skipped = None;
        let mut failed = None;
        for test in &row.tests {
            match outcome(test, outcomes, &is_case) {
                Ok(Outcome::Passed) => {}
                Ok(Outcome::Skipped) => skipped = Some(format!("{test} was skipped")),
                Ok(Outcome::Failed) => failed = Some(format!("{test} failed")),
                Err(why) => failed = Some(why),
            }
        }
        if let Some(why) = failed {
            wrong.push(format!("{}: {why}", row.id));
            count.missing.push((row.id.clone(), why));
            continue;
        }
        match (&row.proof, skipped) {
            (Proof::Tests, None) => count.proven += 1,
            (Proof::Tests, Some(why)) => count.missing.push((row.id.clone(), why)),
            // That it is different stands in a document, whether it could be shown or not.
            (Proof::Different, _) => count.different += 1,
            (Proof::Elsewhere, _) => count.elsewhere += 1,
            (Proof::Missing(why), _) => count.missing.push((row.id.clone(), why.clone())),
        }
    }
    count
}

/// The test that plays the cases of `tests/cases/control_plane`.
const GOLDEN: &str = "golden::manifests_lead_to_the_expected_maps";

/// What became of a test that a row names: the worst of all that its name means.
fn outcome(
    name: &str,
    outcomes: &Outcomes,
    is_case: impl Fn(&str) -> bool,
) -> Result<Outcome, String> {
    let name = match name.strip_prefix("golden::") {
        Some(case) if is_case(case) => GOLDEN,
        _ => name,
    };
    let found = outcomes.find(name);
    let parents: Vec<&str> =
        found.iter().map(|(test, _)| test.split(name).next().unwrap_or(test)).collect();
    if parents.iter().any(|parent| *parent != parents[0]) {
        let tests: Vec<&str> = found.iter().map(|(test, _)| *test).collect();
        return Err(format!("{name} is ambiguous: {}", tests.join(", ")));
    }
    let worst = found.iter().map(|(_, outcome)| *outcome).max();
    worst.ok_or_else(|| format!("there is no test {name}, or it did not run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(proof: Proof, tests: &[&str]) -> Row {
        let tests = tests.iter().map(|test| (*test).to_owned()).collect();
        Row { id: "SVC-1".to_owned(), proof, tests }
    }

    fn ran() -> Outcomes {
        let mut outcomes = Outcomes::default();
        for (test, outcome) in [
            (GOLDEN, Outcome::Passed),
            ("one::passes", Outcome::Passed),
            ("one::twice", Outcome::Passed),
            ("two::twice", Outcome::Passed),
            ("one::skips", Outcome::Skipped),
            ("one::fails", Outcome::Failed),
            ("one::both::ipv4", Outcome::Passed),
            ("one::both::ipv6", Outcome::Skipped),
        ] {
            outcomes.note(test.to_owned(), outcome);
        }
        outcomes
    }

    fn check(row: &Row, said: &str, wrong: &[&str]) {
        let mut told = Vec::new();
        let count = count(std::iter::once(row), &ran(), |case| case == "a-case", &mut told);
        assert_eq!(format!("{count} {:?}", count.missing), said, "{row:?}");
        assert_eq!(told, wrong, "{row:?}");
    }

    #[test]
    fn only_what_passed_is_a_proof() {
        let proven =
            "1 of 1 rows proven, 0 different on purpose, 0 guaranteed elsewhere, 0 missing []";
        check(&row(Proof::Tests, &["passes", "golden::a-case", "two::twice"]), proven, &[]);
        let missing = |why: &str| {
            format!(
                "0 of 1 rows proven, 0 different on purpose, 0 guaranteed elsewhere, 1 missing \
                 [(\"SVC-1\", \"{why}\")]"
            )
        };
        for (tests, why, is_wrong) in [
            (vec!["passes", "skips"], "skips was skipped", false),
            (vec!["both"], "both was skipped", false),
            (vec!["fails", "passes"], "fails failed", true),
            (vec!["nowhere"], "there is no test nowhere, or it did not run", true),
            (vec!["twice"], "twice is ambiguous: one::twice, two::twice", true),
            (vec!["golden::no-case"], "there is no test golden::no-case, or it did not run", true),
        ] {
            let told = format!("SVC-1: {why}");
            let wrong = if is_wrong { vec![told.as_str()] } else { vec![] };
            check(&row(Proof::Tests, &tests), &missing(why), &wrong);
        }
        check(&row(Proof::Missing("soon".to_owned()), &[]), &missing("soon"), &[]);
    }

    #[test]
    fn a_difference_is_one_unless_its_test_fails() {
        let different =
            "0 of 1 rows proven, 1 different on purpose, 0 guaranteed elsewhere, 0 missing []";
        check(&row(Proof::Different, &["skips"]), different, &[]);
        let mut wrong = Vec::new();
        let fails = row(Proof::Different, &["fails"]);
        let _ = count(std::iter::once(&fails), &ran(), |_| false, &mut wrong);
        assert_eq!(wrong, ["SVC-1: fails failed"]);
    }
}
