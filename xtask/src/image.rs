//! `cargo xtask image`: the agent's container image, and all images of a cluster of tests.
//!
//! The program `lb-image` of the package `lb-tests` writes them; here it gets what goes in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::step::Step;
use crate::{build, process, workspace};

/// Options of `cargo xtask image`.
#[derive(Args)]
pub(crate) struct Image {
    /// Where to write the archive [default: target/lb-image.tar]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Layout of the archive
    #[arg(long, value_enum, default_value_t = Format::Docker)]
    format: Format,
}

/// How images are laid out.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For docker load, podman load, ctr images import, kind load
    Docker,
    /// The OCI image layout, for skopeo copy oci-archive:FILE and registries
    Oci,
}

impl Image {
    pub(crate) fn run(self) -> Result<()> {
        let _ = build::objects()?;
        let programs = build::programs()?;
        let output = self.output.unwrap_or_else(|| workspace::target().join("lb-image.tar"));
        let format = match self.format {
            Format::Docker => "docker",
            Format::Oci => "oci",
        };
        let mut command = writer(&programs);
        let _ = command.args(["agent", "--format", format, "--output"]).arg(&output);
        process::run(&mut command)
    }
}

/// Writes every image of a cluster, unless they are newer than what goes in, and returns their directory.
/// Without components there is none of CoreDNS.
pub(crate) fn all(programs: &Path, components: Option<&Path>) -> Result<PathBuf> {
    let output = workspace::kubernetes_images();
    let mut images = vec!["lb.tar", "vote.tar", "pause.tar"];
    let mut inputs = ["lb", "lb-pod", "lb-image"].map(|name| programs.join(name)).to_vec();
    if let Some(components) = components {
        images.push("coredns.tar");
        inputs.push(components.join("coredns"));
    }
    let newest = inputs.iter().map(|path| modified(path)).collect::<Result<Vec<_>>>()?;
    let oldest = images.iter().map(|name| modified(&output.join(name))).collect::<Result<Vec<_>>>();
    if oldest.is_ok_and(|oldest| oldest.iter().min() > newest.iter().max()) {
        return Ok(output);
    }
    let step = Step::begin("writing the container images");
    let mut command = writer(programs);
    let _ = command.arg("all").arg("--output").arg(&output);
    if let Some(components) = components {
        let _ = command.arg("--components").arg(components);
    }
    process::quietly(&mut command)?;
    step.done();
    Ok(output)
}

fn writer(programs: &Path) -> Command {
    let mut command = Command::new(programs.join("lb-image"));
    let _ = command.arg("--programs").arg(programs);
    command
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path)
        .and_then(|meta| meta.modified())
        .with_context(|| format!("looking at {}", path.display()))
}
