//! `cargo xtask insns`: what the verifier counts for each program, beside its budget.

use anyhow::{Result, bail};
use clap::Args;

use crate::{build, prerequisites, process};

/// Options of `cargo xtask insns`: none.
#[derive(Args)]
pub(crate) struct Insns {}

impl Insns {
    pub(crate) fn run(self) -> Result<()> {
        let Self {} = self;
        if let Some(obstacle) = prerequisites::obstacle()? {
            bail!("the verifier cannot be asked: {obstacle}");
        }
        let _ = build::objects()?;
        process::run(
            process::cargo().args(["run", "--quiet", "-p", "lb-tests", "--bin", "lb-insns"]),
        )
    }
}
