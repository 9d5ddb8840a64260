//! `cargo xtask test`: everything that must hold before a change lands, in one command.
//!
//! A failing phase does not hide the later ones: all run, then the exit code tells. Only a build that
//! does not come about ends the run early.

use std::io::{BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::outcomes::Outcomes;
use crate::step::Step;
use crate::verdicts::{Reader, Tally};
use crate::{build, cluster, kind, kubernetes, lint, parity, prerequisites, process};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Test {
    /// Random tests in the size of a nightly run (minutes more)
    #[arg(long)]
    nightly_size: bool,
    /// In place of everything else: the agent in a kind cluster that is made for the test (Go, 5 GB)
    #[arg(long, conflicts_with_all = ["nightly_size", "filter"])]
    kind: bool,
    /// Only tests whose name contains this, without the format and lint phases
    filter: Option<String>,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        if self.kind {
            return kind::test::run();
        }
        prepare()?;
        let toolchain = build::objects()?;
        let mut failures = Failures::default();
        if self.filter.is_none() {
            failures.note(lint::format());
            failures.note(lint::host());
            failures.note(lint::bpf(&toolchain));
        }
        let tally = self.phases(&mut failures)?;
        if self.filter.is_none() {
            failures.note(tally.outcomes.keep());
            failures.note(parity::report(&tally.outcomes));
        }
        summary(&tally, &failures);
        failures.verdict()
    }

    /// Runs the tests, phase by phase.
    fn phases(&self, failures: &mut Failures) -> Result<Tally> {
        let programs = build::programs()?;
        let mut tally = Tally::default();
        for (what, selection) in PHASES {
            let mut cargo = process::cargo();
            let _ = cargo
                .arg("test")
                .args(selection)
                .arg("--no-fail-fast")
                .env("LB_BIN", programs.join("lb"));
            if what == CLUSTER {
                match equipment(self.filter.is_some(), &programs) {
                    Ok(variables) => drop(cargo.envs(variables)),
                    Err(why) => eprintln!("==> tests of {CLUSTER} will be skipped: {why:#}"),
                }
            }
            if self.nightly_size {
                let _ = cargo.env("LB_TEST_NIGHTLY", "1");
            }
            let _ = cargo.arg("--").arg("--show-output").args(&self.filter);
            failures.note(tests(what, cargo, &mut std::io::stdout().lock(), &mut tally));
        }
        Ok(tally)
    }
}

/// Runs all tests and keeps what became of them; tells that apart from whether anything failed.
pub(crate) fn run_tests() -> Result<(Outcomes, Result<()>)> {
    prepare()?;
    let _toolchain = build::objects()?;
    let mut failures = Failures::default();
    let all = Test { nightly_size: false, kind: false, filter: None };
    let tally = all.phases(&mut failures)?;
    failures.note(tally.outcomes.keep());
    summary(&tally, &failures);
    Ok((tally.outcomes, failures.verdict()))
}

/// Makes sure of what tests need, or says what they will lack.
fn prepare() -> Result<()> {
    match prerequisites::obstacle()? {
        None => prerequisites::programs(),
        Some(why) => {
            eprintln!("==> tests of the kernel's side will be skipped: {why}");
            Ok(())
        }
    }
}

/// The phase that needs the components of Kubernetes.
const CLUSTER: &str = "the real cluster";

/// What the phases are called, and cargo's words that select them. All name the whole workspace: cargo
/// would compile dependencies once more for another selection of packages.
const PHASES: [(&str, &[&str]); 3] = [
    ("unit and property tests", &["--workspace", "--lib", "--bins"]),
    ("packets, goldens and the lab", &OTHERS),
    (CLUSTER, &["--workspace", "--test", "cluster*"]),
];

/// All integration tests but `cluster*`: cargo's patterns can tell one letter from another, and no more.
const OTHERS: [&str; 7] =
    ["--workspace", "--test", "[!c]*", "--test", "c[!l]*", "--test", "cl[!u]*"];

/// Makes what a cluster consists of and returns the variables that name it. Without, the tests find out
/// for themselves what is missing, and skip themselves. Somebody who runs a few tests does not wait for
/// a build of many minutes.
fn equipment(filtered: bool, programs: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    if let Some(why) = cluster::obstacle()? {
        bail!("{why}");
    }
    if filtered && !kubernetes::is_complete() {
        bail!("the components are not built, and only some tests are asked for");
    }
    Ok(cluster::equip(programs)?.into())
}

#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            eprintln!("error: {error:#}");
            self.0.push(format!("{error}"));
        }
    }

    fn verdict(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { bail!("{}", self.0.join("\n       ")) }
    }
}

/// Runs one `cargo test`, shows its output as it comes, and adds up.
///
/// Both outputs are one: cargo says on standard error whose tests come next on standard output.
fn tests(what: &str, mut cargo: Command, shown: &mut impl Write, tally: &mut Tally) -> Result<()> {
    let step = Step::begin(what);
    let (output, input) = std::io::pipe().context("making a pipe")?;
    let same = input.try_clone().context("doubling a pipe")?;
    let mut child = cargo.stdout(input).stderr(same).spawn().context("starting cargo test")?;
    // It holds ends of the pipe, which must close for the reading to end.
    drop(cargo);
    let mut reader = Reader::adding_to(std::mem::take(tally));
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading the output of cargo test")?;
        if let Some(line) = reader.line(&String::from_utf8_lossy(&line)) {
            writeln!(shown, "{line}").context("writing to standard output")?;
        }
    }
    *tally = reader.tally;
    let status = child.wait().context("waiting for cargo test")?;
    step.done();
    if status.success() { Ok(()) } else { bail!("{what}: cargo test ended with {status}") }
}

/// The last lines: why tests were skipped, and the sums.
fn summary(tally: &Tally, failures: &Failures) {
    for (reason, count) in &tally.skipped {
        println!("skipped {count}: {reason}");
    }
    if !failures.0.is_empty() {
        println!("not well: {}", failures.0.join("; "));
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skips());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::Outcome;

    #[test]
    fn both_outputs_are_read_in_their_order_and_a_failure_is_told() {
        let says = "echo '     Running tests/one.rs (target/debug/deps/one-0123)' >&2
            echo 'test a ... ok'
            echo '     Running tests/two.rs (target/debug/deps/two-4567)' >&2
            echo 'test a ... FAILED'
            echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'
            exit 101";
        let mut shell = Command::new("sh");
        let _ = shell.args(["-c", says]);
        let mut tally = Tally::default();
        // What is shown must not be taken for what the run of this very test says.
        let mut shown = Vec::new();
        assert!(tests("a shell", shell, &mut shown, &mut tally).is_err());
        assert_eq!(String::from_utf8_lossy(&shown).lines().count(), 5);
        assert_eq!((tally.passed, tally.failed), (0, 1));
        let found = tally.outcomes.find("a");
        assert_eq!(found, [("one::a", Outcome::Passed), ("two::a", Outcome::Failed)]);
    }
}
