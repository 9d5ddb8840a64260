//! `cargo xtask build`: the eBPF objects, then the agent that embeds them.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::ebpf::{self, Toolchain, Variant};
use crate::process;
use crate::step::Step;

/// Options of `cargo xtask build`.
#[derive(Args)]
pub(crate) struct Build {
    /// Stop after the eBPF objects
    #[arg(long)]
    objects_only: bool,
}

impl Build {
    pub(crate) fn run(self) -> Result<()> {
        let _ = objects()?;
        if self.objects_only { Ok(()) } else { agent() }
    }
}

/// Makes the eBPF toolchain and both objects.
pub(crate) fn objects() -> Result<Toolchain> {
    let toolchain = Toolchain::prepare()?;
    let step = Step::begin("building the eBPF objects");
    ebpf::build(&toolchain, &Variant::ALL)?;
    step.done();
    Ok(toolchain)
}

/// Builds the agent. The objects must be there.
pub(crate) fn agent() -> Result<()> {
    let step = Step::begin("building the agent");
    process::run(process::cargo().args(["build", "--release", "-p", "lb-userspace"]))
        .context("building the agent")?;
    step.done();
    Ok(())
}
