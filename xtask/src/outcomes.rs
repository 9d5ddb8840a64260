//! What became of each test of a run, by name; kept in a file, so that it can be asked again.
//!
//! A test is known by its target and its path: `e2e_table::the_table_holds_with_clsact`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// What became of one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Passed,
    /// It said that it cannot run here, or is marked as ignored.
    Skipped,
    Failed,
}

const WORDS: [(&str, Outcome); 3] =
    [("passed", Outcome::Passed), ("skipped", Outcome::Skipped), ("failed", Outcome::Failed)];

/// All tests of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes(BTreeMap<String, Outcome>);

impl Outcomes {
    /// Notes a test. The worse of two outcomes counts.
    pub(crate) fn note(&mut self, test: String, outcome: Outcome) {
        let known = self.0.entry(test).or_insert(outcome);
        *known = (*known).max(outcome);
    }

    /// The tests whose name has these parts side by side: `paths::hairpin::ipv4` is found by
    /// `hairpin`.
    pub(crate) fn find<'a>(&'a self, name: &str) -> Vec<(&'a str, Outcome)> {
        let wanted: Vec<&str> = name.split("::").collect();
        let fits = |test: &str| {
            let parts: Vec<&str> = test.split("::").collect();
            parts.windows(wanted.len()).any(|window| window == wanted)
        };
        let found = self.0.iter().filter(|(test, _)| fits(test));
        found.map(|(test, outcome)| (test.as_str(), *outcome)).collect()
    }

    /// Keeps them for [`Self::last`].
    pub(crate) fn keep(&self) -> Result<()> {
        let path = path();
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        fs::write(&path, self.text()).with_context(|| format!("writing {}", path.display()))
    }

    /// Those of the last whole run.
    pub(crate) fn last() -> Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("reading {}: run `cargo xtask test` first", path.display()))?;
        Self::read(&text).with_context(|| path.display().to_string())
    }

    fn text(&self) -> String {
        let word = |outcome: Outcome| WORDS.iter().find(|(_, of)| *of == outcome).map(|(w, _)| *w);
        let lines = self.0.iter().map(|(test, outcome)| {
            format!("{} {test}\n", word(*outcome).expect("every outcome has a word"))
        });
        lines.collect()
    }

    fn read(text: &str) -> Result<Self> {
        let mut read = Self::default();
        for line in text.lines() {
            let known = line.split_once(' ').and_then(|(word, test)| {
                let (_, outcome) = WORDS.iter().find(|(known, _)| *known == word)?;
                Some((test.to_owned(), *outcome))
            });
            let Some((test, outcome)) = known else { bail!("not an outcome: {line}") };
            read.note(test, outcome);
        }
        Ok(read)
    }
}

fn path() -> PathBuf {
    workspace::target().join("outcomes.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back() {
        let mut outcomes = Outcomes::default();
        outcomes.note("a::b".to_owned(), Outcome::Passed);
        outcomes.note("a::c".to_owned(), Outcome::Skipped);
        outcomes.note("a::d".to_owned(), Outcome::Failed);
        assert_eq!(Outcomes::read(&outcomes.text()).ok(), Some(outcomes));
        assert!(Outcomes::read("perhaps a::b").is_err());
    }

    #[test]
    fn a_test_that_failed_once_failed() {
        let mut outcomes = Outcomes::default();
        for outcome in [Outcome::Passed, Outcome::Failed, Outcome::Passed] {
            outcomes.note("a".to_owned(), outcome);
        }
        assert_eq!(outcomes.find("a"), [("a", Outcome::Failed)]);
    }

    #[test]
    fn a_name_is_found_by_any_whole_parts_of_it() {
        let mut outcomes = Outcomes::default();
        for test in ["paths::hairpin::ipv4", "paths::hairpin::ipv6", "e2e::hairpins"] {
            outcomes.note(test.to_owned(), Outcome::Passed);
        }
        assert_eq!(outcomes.find("hairpin").len(), 2);
        assert_eq!(outcomes.find("paths::hairpin").len(), 2);
        assert_eq!(outcomes.find("hairpin::ipv4").len(), 1);
        assert_eq!(outcomes.find("hair").len(), 0);
    }
}
