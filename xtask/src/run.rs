//! `cargo xtask run`: the vote lab, or the agent on this host.
//!
//! The lab is a program of the package `lb-tests`, run as its own process: xtask builds the eBPF objects
//! that the agent embeds, so it cannot link with anything that contains the agent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::step::Step;
use crate::{build, prerequisites, process, workspace};

/// Options of `cargo xtask run`.
#[derive(Args)]
pub(crate) struct Run {
    /// Runs the agent on this host in place of the lab: flags of `lb run`, or another lb command
    #[arg(last = true, value_name = "LB FLAGS")]
    words: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        if self.words.is_empty() { lab() } else { agent(&self.words) }
    }
}

fn lab() -> Result<()> {
    if let Some(obstacle) = prerequisites::obstacle()? {
        bail!("the vote lab cannot run here: {obstacle}");
    }
    prerequisites::programs()?;
    let _ = build::objects()?;
    let bin = release_programs()?;
    process::run(Command::new(bin.join("lb-lab")).arg("vote").env("LB_BIN", bin.join("lb")))
        .context("the vote lab")
}

/// Builds the agent and the lab in one go (twice would compile some dependencies twice), and returns
/// their directory.
pub(crate) fn release_programs() -> Result<PathBuf> {
    let step = Step::begin("building the agent and the lab (some minutes the first time)");
    let mut cargo = process::cargo();
    let _ = cargo.args(["build", "--release", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]);
    process::run(&mut cargo).context("building the agent and the lab")?;
    step.done();
    Ok(workspace::target().join("release"))
}

fn agent(words: &[OsString]) -> Result<()> {
    let _ = build::objects()?;
    build::agent()?;
    let agent = workspace::target().join("release/lb");
    let mut command = Command::new(&agent);
    // `-- --source DIR` means `lb run --source DIR`; `-- status` means what it says.
    if words.first().is_some_and(|word| word.as_encoded_bytes().starts_with(b"-")) {
        let _ = command.arg("run");
    }
    let error = command.args(words).exec();
    Err(error).with_context(|| format!("starting {}", agent.display()))
}
