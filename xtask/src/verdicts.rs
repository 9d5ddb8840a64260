//! Reads what `cargo test` prints: counts tests, and finds those that skipped themselves.
//!
//! libtest knows no skipping at run time. A test that cannot run here prints `SKIPPED: reason` and
//! passes; run with `--show-output`, that line reaches us, and the test counts as skipped.

use std::collections::BTreeMap;

/// What became of the tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// The reason and how often.
    pub(crate) skipped: BTreeMap<String, usize>,
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
            _ => Some(line.to_owned()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, shown: &str, passed: usize, failed: usize, skipped: &[(&str, usize)]) {
        let mut reader = Reader::default();
        let lines: Vec<String> = output.lines().filter_map(|line| reader.line(line)).collect();
        assert_eq!(lines.join("\n"), shown);
        let skipped =
            skipped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        assert_eq!(reader.tally, Tally { passed, failed, skipped });
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
