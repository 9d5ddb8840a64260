//! `cargo xtask parity`: how many rows of the Service contract are proven, and which are not.
//!
//! The rows stand in `docs/parity.md`, each with the tests that prove it. A row counts only if each of
//! them ran and passed in the run that is counted; a row that says anything else about itself than what
//! is so makes the command fail.

mod contract;
mod count;
mod document;
#[cfg(test)]
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::contract::{BESIDES, CONTRACT, OPERATION};
use self::count::count;
use self::document::Row;
use crate::outcomes::Outcomes;
use crate::{test, workspace};

/// Options of `cargo xtask parity`.
#[derive(Args)]
pub(crate) struct Parity {
    /// Count what the last `cargo xtask test` or `parity` has shown, without running any test
    #[arg(long)]
    last: bool,
}

impl Parity {
    pub(crate) fn run(self) -> Result<()> {
        if self.last {
            return report(&Outcomes::last()?);
        }
        let (outcomes, failures) = test::run_tests()?;
        let counted = report(&outcomes);
        failures?;
        counted
    }
}

/// Prints what the rows say after a run; fails where they say what is not so.
pub(crate) fn report(outcomes: &Outcomes) -> Result<()> {
    let rows = Rows::read(workspace::root())?;
    let mut wrong = rows.wrong;
    let cases = workspace::root().join("tests/cases/control_plane");
    let mut of = |rows: &[Row]| {
        count(rows.iter(), outcomes, |case: &str| cases.join(case).is_dir(), &mut wrong)
    };
    let (contract, besides, operation) =
        (of(&rows.contract), of(&rows.besides), of(&rows.operation));
    for (what, count) in [
        ("choices and traps", &besides),
        ("rows of docs/kubernetes.md", &operation),
        ("the Service contract", &contract),
    ] {
        println!("{what}: {count}{}", if count.missing.is_empty() { "." } else { ":" });
        for (id, why) in &count.missing {
            println!("  {id}: {why}");
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("docs say what is not so:\n       {}", wrong.join("\n       "))
}

/// All rows, and what is wrong with them by themselves.
struct Rows {
    contract: Vec<Row>,
    besides: Vec<Row>,
    operation: Vec<Row>,
    wrong: Vec<String>,
}

impl Rows {
    fn read(root: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path: PathBuf = root.join("docs").join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let anchors = document::anchors(&read("differences.md")?);
        let all = [CONTRACT.as_slice(), &BESIDES].concat();
        let (rows, mut wrong) = document::read(&read("parity.md")?, &all, &anchors);
        let (contract, besides) = rows.into_iter().partition(|row| row.id.contains('-'));
        let (operation, more) = document::read(&read("kubernetes.md")?, &OPERATION, &anchors);
        wrong.extend(more);
        Ok(Self { contract, besides, operation, wrong })
    }
}
