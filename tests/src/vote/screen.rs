//! What the tour prints: headings, commands with their output, and checks.

use std::{
    io::IsTerminal,
    os::unix::process::CommandExt,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::interrupt;
use crate::lab::Place;

/// The tour's output, and the tally of its checks.
pub(super) struct Screen {
    colours: bool,
    begin: Instant,
    steps: u32,
    checks: u32,
    wrong: Vec<String>,
}

/// What a command of the tour wrote, and how it ended.
pub(super) struct Said {
    /// Standard output, then standard error.
    pub(super) text: String,
    /// Exit code.
    pub(super) code: Option<i32>,
    /// How long it took.
    pub(super) took: Duration,
}

impl Screen {
    pub(super) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, begin: Instant::now(), steps: 0, checks: 0, wrong: Vec::new() }
    }

    /// Starts a step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let title = format!("{}. {title}", self.steps);
        println!("\n{}\n{}", self.paint("1", &title), "─".repeat(title.chars().count()));
    }

    /// A line of explanation.
    #[expect(clippy::unused_self, reason = "everything on the screen goes through it")]
    pub(super) fn line(&self, text: &str) {
        println!("{text}");
    }

    /// Runs a shell command line in a place and shows both. `who` is the prompt.
    pub(super) fn run(&self, who: &str, place: &Place, line: &str) -> Result<Said> {
        let said = self.quietly(who, place, line)?;
        for line in said.text.lines() {
            println!("  {line}");
        }
        Ok(said)
    }

    /// The same, leaving the output to the caller.
    pub(super) fn quietly(&self, who: &str, place: &Place, line: &str) -> Result<Said> {
        interrupt::check()?;
        println!("\n{} {}", self.paint("36", &format!("{who} $")), self.paint("1", line));
        silently(place, line)
    }

    /// Says whether an outcome is right, and remembers when it is not.
    pub(super) fn check(&mut self, what: &str, right: bool) {
        self.checks += 1;
        if right {
            println!("  {} {what}", self.paint("32", "✓"));
        } else {
            println!("  {} {}", self.paint("31", "✗ wrong:"), what);
            self.wrong.push(format!("step {}: {what}", self.steps));
        }
    }

    /// The tally.
    pub(super) fn summary(&self) {
        let took = self.begin.elapsed().as_secs_f32();
        let Self { steps, checks, wrong, .. } = self;
        if wrong.is_empty() {
            let all = format!("all {checks} outcomes of {steps} steps are right");
            println!("\n{} in {took:.1} s", self.paint("1;32", &all));
        } else {
            let some = format!("{} of {checks} outcomes are wrong:", wrong.len());
            println!("\n{}", self.paint("1;31", &some));
            for one in wrong {
                println!("  ✗ {one}");
            }
        }
    }

    /// Fails when any check did.
    pub(super) fn verdict(&self) -> Result<()> {
        if !self.wrong.is_empty() {
            bail!("{} of {} outcomes are wrong", self.wrong.len(), self.checks);
        }
        Ok(())
    }

    /// The text in a colour, where there are colours.
    pub(super) fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Runs a shell command line in a place and shows nothing.
pub(super) fn silently(place: &Place, line: &str) -> Result<Said> {
    let begin = Instant::now();
    let mut command = place.command("sh")?;
    // A session of its own, without our terminal: what looks for one, as `kubectl edit` does, would
    // be stopped for touching it from the background. Only who leads no group may begin a session.
    let _ = command.process_group(nix::unistd::getpgrp().as_raw());
    let session = || nix::unistd::setsid().map(drop).map_err(std::io::Error::from);
    // SAFETY: `session` runs between fork and exec: it makes one system call and allocates nothing.
    let _ = unsafe { command.pre_exec(session) };
    let Output { status, stdout, stderr } =
        command.args(["-c", line]).output().with_context(|| format!("running {line}"))?;
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    Ok(Said { text: text.into_owned(), code: status.code(), took: begin.elapsed() })
}
