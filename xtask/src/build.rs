//! `cargo xtask build`: the eBPF objects, then the agent that embeds them, and the lab that runs it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::ebpf::{self, Toolchain, Variant};
use crate::step::Step;
use crate::{process, workspace};

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
        if self.objects_only { Ok(()) } else { programs().map(drop) }
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

/// Makes the reference programs of the benchmark as well.
pub(crate) fn bench_objects() -> Result<()> {
    let toolchain = objects()?;
    ebpf::build(&toolchain, &[Variant::Bench])
}

/// Builds what runs on this host, the agent and the programs of the lab, and returns their directory.
/// The objects must be there.
///
/// Always both: cargo would compile dependencies once more for another selection of packages.
pub(crate) fn programs() -> Result<PathBuf> {
    let step = Step::begin("building the agent and the lab (some minutes the first time)");
    let mut cargo = process::cargo();
    let _ = cargo.args(["build", "--release", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]);
    let programs = workspace::target().join("release");
    if programs.join("lb").is_file() {
        let _ = cargo.arg("--quiet");
    }
    process::run(&mut cargo).context("building the agent and the lab")?;
    step.done();
    Ok(programs)
}
