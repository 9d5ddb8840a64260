//! `cargo xtask test --kind`: a kind cluster is made, `run --kind` is tested on it, and it is removed.
//!
//! The program `lb-kind` of the package `lb-tests` does it; here it gets what goes in.

use std::env;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::kubernetes::{self, Set};
use crate::{build, image, prerequisites, process, workspace};

/// Prepares and runs the test.
pub(crate) fn run() -> Result<()> {
    if let Some(obstacle) = prerequisites::obstacle()? {
        bail!("no kind cluster can be made here: {obstacle}");
    }
    if let Some(obstacle) = kubernetes::obstacle() {
        bail!("no kind cluster can be made here: {obstacle}");
    }
    prerequisites::programs()?;
    let bin = kubernetes::components(Set::Kind)?;
    let base = kubernetes::kind_base()?;
    let _ = build::objects()?;
    let programs = build::programs()?;
    let images = image::all(&programs, Some(&bin))?;
    let xtask = env::current_exe().context("finding this program")?;
    let mut command = Command::new(programs.join("lb-kind"));
    let _ = command.arg("test");
    for (flag, value) in [
        ("--bin", &bin),
        ("--base", &base),
        ("--images", &images),
        ("--lb", &programs.join("lb")),
        ("--xtask", &xtask),
        ("--cache", &workspace::target().join("kubernetes/kind")),
    ] {
        let _ = command.arg(flag).arg(value);
    }
    process::run(&mut command)
}
