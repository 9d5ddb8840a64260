//! Reads what `cargo test` prints: counts tests, notes what became of each, and finds those that
//! skipped themselves.
//!
//! libtest knows no skipping at run time. A test that cannot run here prints `SKIPPED: reason` and
//! passes; run with `--show-output`, that line reaches us, and the test counts as skipped.

use std::collections::BTreeMap;

use crate::outcomes::{Outcome, Outcomes};

/// What became of the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// The reason and how often.
    pub(crate) skipped: BTreeMap<String, usize>,
    /// Each of them.
    pub(crate) outcomes: Outcomes,
}

impl Tally {
    /// All skipped tests.
    pub(crate) fn skips(&self) -> usize {
        self.skipped.values().sum()
    }

    fn skip(&mut self, reason: &str, count: usize) {
        if count > 0 {
            *self.skipped.entry(reason.to_owned()).or_default() += count;
        }
    }
}

/// Reads the output line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) tally: Tally,
    /// The target whose tests run, as cargo announced it.
    target: String,
    /// Inside the part that repeats the output of tests that passed.
    in_successes: bool,
    /// The test whose output is being repeated, and why it skipped itself.
    current: Option<String>,
    /// Tests that skipped themselves since the last result line, which counts them as passed.
    skipped_here: usize,
}

impl Reader {
    /// A reader that goes on adding to `tally`.
    pub(crate) fn adding_to(tally: Tally) -> Self {
        Self { tally, ..Self::default() }
    }

    /// Takes a line; returns what to show in its place.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.count(counts);
            return Some(line.to_owned());
        }
        match line {
            "successes:" => {
                self.in_successes = true;
                self.current = None;
                None
            }
            "failures:" => {
                self.in_successes = false;
                Some(line.to_owned())
            }
            _ if self.in_successes => self.success(line),
            _ => {
                if let Some(target) = target(line) {
                    self.target = target.to_owned();
                } else if let Some((test, outcome)) = verdict(line) {
                    self.note(test, outcome);
                }
                Some(line.to_owned())
            }
        }
    }

    fn note(&mut self, test: &str, outcome: Outcome) {
        self.tally.outcomes.note(format!("{}::{test}", self.target), outcome);
    }

    fn success(&mut self, line: &str) -> Option<String> {
        if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.current = Some(name.to_owned());
            return None;
        }
        let reason = line.strip_prefix("SKIPPED: ")?;
        // A second such line of one test does not count again.
        let name = self.current.take()?;
        self.skipped_here += 1;
        self.tally.skip(reason, 1);
        self.note(&name, Outcome::Skipped);
        Some(format!("skipped {name}: {reason}"))
    }

    /// Reads `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
    fn count(&mut self, counts: &str) {
        let of = |word: &str| {
            let words: Vec<&str> =
                counts.split([' ', ';']).filter(|part| !part.is_empty()).collect();
            let at = words.iter().position(|part| *part == word)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        };
        let passed: usize = of("passed").unwrap_or(0);
        self.tally.passed += passed.saturating_sub(std::mem::take(&mut self.skipped_here));
        self.tally.failed += of("failed").unwrap_or(0);
        self.tally.skip("marked as ignored", of("ignored").unwrap_or(0));
    }
}

/// The target of `Running tests/e2e.rs (target/debug/deps/e2e-0123456789abcdef)`.
fn target(line: &str) -> Option<&str> {
    let (_, program) = line.trim_start().strip_prefix("Running ")?.rsplit_once('(')?;
    let (target, _hash) = program.strip_suffix(')')?.rsplit('/').next()?.rsplit_once('-')?;
    Some(target)
}

/// The test of `test a::b ... ok` and what became of it. Behind that word there may be how long it took.
fn verdict(line: &str) -> Option<(&str, Outcome)> {
    let (test, became) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match became.split([' ', ',']).next()? {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Skipped,
        _ => return None,
    };
    Some((test.trim_end_matches(" - should panic"), outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, shown: &str, passed: usize, failed: usize, skipped: &[(&str, usize)]) {
        let mut reader = Reader::default();
        let lines: Vec<String> = output.lines().filter_map(|line| reader.line(line)).collect();
        assert_eq!(lines.join("\n"), shown);
        let skipped =
            skipped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        assert_eq!(reader.tally, Tally { passed, failed, skipped, ..reader.tally.clone() });
    }

    #[test]
    fn each_test_is_known_by_its_target() {
        let output =
            "     Running unittests src/lib.rs (target/debug/deps/lb_tests-0123456789abcdef)
test a::b ... ok
test a::c ... FAILED
test a::d ... ignored, not today
     Running tests/e2e-x.rs (/t/debug/deps/e2e_x-0123456789abcdef)
test a::b ... ok (12.0 s)
test bad - should panic ... ok
test slow has been running for over 60 seconds

successes:

---- a::b stdout ----
SKIPPED: not root
test a::z ... ok

test result: ok. 2 passed; 0 failed; 0 ignored";
        let mut reader = Reader::default();
        output.lines().for_each(|line| drop(reader.line(line)));
        let mut expected = Outcomes::default();
        for (test, outcome) in [
            ("lb_tests::a::b", Outcome::Passed),
            ("lb_tests::a::c", Outcome::Failed),
            ("lb_tests::a::d", Outcome::Skipped),
            ("e2e_x::a::b", Outcome::Skipped),
            ("e2e_x::bad", Outcome::Passed),
        ] {
            expected.note(test.to_owned(), outcome);
        }
        assert_eq!(reader.tally.outcomes, expected);
    }

    #[test]
    fn results_add_up() {
        let one = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let two = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let both = format!("{one}\n{two}");
        check(&both, &both, 4, 2, &[("marked as ignored", 1)]);
    }

    #[test]
    fn a_test_that_skips_itself_is_no_pass_and_its_other_output_stays_hidden() {
        check(
            "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nSKIPPED: not root\nmore\nSKIPPED: not root\n\n---- b stdout ----\nchatter\n\n\
             successes:\n    a\n    b\n\ntest result: ok. 2 passed; 0 failed; 0 ignored",
            "test a ... ok\n\nskipped a: not root\ntest result: ok. 2 passed; 0 failed; 0 ignored",
            1,
            0,
            &[("not root", 1)],
        );
    }

    #[test]
    fn the_output_of_failed_tests_is_shown() {
        let text = "failures:\n\n---- a stdout ----\nSKIPPED: no\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored";
        check(text, text, 0, 1, &[]);
    }
}
