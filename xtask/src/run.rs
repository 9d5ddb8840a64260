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
    /// Flags of `lb run`: runs the agent on this host with them, in place of the lab
    #[arg(last = true, value_name = "LB FLAGS")]
    flags: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(obstacle) = prerequisites::obstacle()? {
            bail!("{obstacle}");
        }
        if self.flags.is_empty() { lab() } else { agent(self.flags) }
    }
}

fn lab() -> Result<()> {
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

fn agent(flags: Vec<OsString>) -> Result<()> {
    let _ = build::objects()?;
    build::agent()?;
    let agent = workspace::target().join("release/lb");
    let error = Command::new(&agent).arg("run").args(flags).exec();
    Err(error).with_context(|| format!("starting {}", agent.display()))
}
