//! The private sysroot: `core`, `alloc` and `compiler_builtins` compiled once for BPF.
//!
//! Invariant: the stamp is written last, so a sysroot with a stamp is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustc_build_sysroot::{BuildMode, SysrootBuilder, SysrootConfig};
use rustc_version::VersionMeta;

use super::compiler::Compiler;
use super::toolchain::TARGET;
use crate::step::Step;
use crate::{process, workspace};

/// Returns the sysroot, building it when it is not there.
pub(super) fn prepare(home: &Path, compiler: &Compiler) -> Result<PathBuf> {
    let sysroot = home.join("sysroot");
    let stamp = sysroot.join("complete");
    if stamp.is_file() {
        return Ok(sysroot);
    }
    let step = Step::begin("building the eBPF sysroot (about 15 s, once)");
    fs::create_dir_all(&sysroot).with_context(|| format!("creating {}", sysroot.display()))?;
    let mut cargo = process::cargo();
    let _ = cargo.env("RUSTC", &compiler.rustc).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTFLAGS");
    let version = VersionMeta::for_command(Command::new(&compiler.rustc))
        .context("asking rustc for its version")?;
    // Crates compiled against another build of `core` do not link with this one, and cargo cannot tell.
    let stale = workspace::ebpf_target().join(TARGET);
    if stale.is_dir() {
        fs::remove_dir_all(&stale).with_context(|| format!("removing {}", stale.display()))?;
    }
    let _ = SysrootBuilder::new(&sysroot, TARGET)
        .build_mode(BuildMode::Build)
        .sysroot_config(SysrootConfig::NoStd)
        .rustflag("-Cembed-bitcode=yes")
        .rustc_version(version)
        .cargo(cargo)
        .build_from_source(&compiler.library)
        .context("building core for the BPF target")?;
    fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display()))?;
    step.done();
    Ok(sysroot)
}
