//! `cargo xtask lint`: formatting, and clippy for both targets. Warnings are errors here.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::ebpf::{Toolchain, Variant};
use crate::step::Step;
use crate::{build, process};

/// Options of `cargo xtask lint`: none.
#[derive(Args)]
pub(crate) struct Lint {}

impl Lint {
    pub(crate) fn run(self) -> Result<()> {
        let Self {} = self;
        format()?;
        // The agent's build script wants the objects before clippy can look at the agent.
        let toolchain = build::objects()?;
        host()?;
        bpf(&toolchain)
    }
}

/// Checks the formatting.
pub(crate) fn format() -> Result<()> {
    let step = Step::begin("checking the formatting");
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
        .context("the formatting differs: run `cargo fmt --all`")?;
    step.done();
    Ok(())
}

/// Clippy for everything that runs on this host.
pub(crate) fn host() -> Result<()> {
    let step = Step::begin("clippy: host");
    let mut cargo = process::cargo();
    let _ =
        cargo.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    process::run(&mut cargo).context("clippy on the workspace")?;
    step.done();
    Ok(())
}

/// Clippy for the eBPF programs, both variants.
pub(crate) fn bpf(toolchain: &Toolchain) -> Result<()> {
    if !toolchain.is_the_active_one() {
        eprintln!(
            "==> clippy: eBPF skipped: the eBPF compiler is not the one that clippy belongs to"
        );
        return Ok(());
    }
    let step = Step::begin("clippy: eBPF");
    for variant in Variant::ALL {
        let mut cargo = toolchain.cargo("clippy");
        let _ = cargo.args([
            "-p",
            "lb-ebpf",
            "--bin",
            "lb",
            "--features",
            variant.features(),
            "--quiet",
        ]);
        process::run(cargo.args(["--", "-D", "warnings"]))
            .with_context(|| format!("clippy on the eBPF programs ({})", variant.features()))?;
    }
    step.done();
    Ok(())
}
