//! What the command prints: steps, commands with their output, and outcomes that are checked.

use std::io::IsTerminal as _;
use std::time::Instant;

use anyhow::{Result, bail};

/// The output, and the tally of the checks.
pub(super) struct Screen {
    colours: bool,
    begun: Instant,
    steps: u32,
    checks: u32,
    wrong: Vec<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, begun: Instant::now(), steps: 0, checks: 0, wrong: Vec::new() }
    }

    /// Starts a step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}", self.paint("1", &format!("{}. {title}", self.steps)));
    }

    #[expect(clippy::unused_self, reason = "everything that is printed goes through it")]
    pub(super) fn line(&self, text: &str) {
        println!("{text}");
    }

    /// A command that was run and what it printed.
    pub(super) fn command(&self, who: &str, line: &str, printed: &str) {
        println!("\n{} {}", self.paint("36", &format!("{who} $")), self.paint("1", line));
        for line in printed.lines() {
            println!("  {line}");
        }
    }

    /// Says whether an outcome is right, and remembers when it is not.
    pub(super) fn check(&mut self, what: &str, right: bool) {
        self.checks += 1;
        if right {
            println!("  {} {what}", self.paint("32", "✓"));
        } else {
            println!("  {} {what}", self.paint("31", "✗ wrong:"));
            self.wrong.push(format!("step {}: {what}", self.steps));
        }
    }

    /// The tally; fails when any outcome was wrong.
    pub(super) fn verdict(&self) -> Result<()> {
        let Self { steps, checks, wrong, begun, .. } = self;
        if !wrong.is_empty() {
            bail!("{} of {checks} outcomes are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
        }
        if *checks > 0 {
            let took = begun.elapsed().as_secs_f32();
            println!("\nall {checks} outcomes of {steps} steps are right, in {took:.1} s");
        }
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
