//! bpf-linker, linked to the LLVM of the compiler whose bitcode it will read.
//!
//! LLVM reads bitcode of its own or an older version only, so a linker belongs to one compiler. It borrows
//! that compiler's libLLVM and stops working when the compiler is removed; it is then built again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::compiler::Compiler;
use crate::process;
use crate::step::Step;

const VERSION: &str = "0.13.0";

/// Returns the linker, building it when it is not there or does not start.
pub(super) fn prepare(home: &Path, compiler: &Compiler) -> Result<PathBuf> {
    let linker = home.join("bin/bpf-linker");
    let says = process::output(Command::new(&linker).arg("--version"));
    if says.is_ok_and(|says| says.contains(VERSION)) {
        return Ok(linker);
    }
    let step = Step::begin(format!("building bpf-linker {VERSION} (about 30 s, once)"));
    let llvm = lend_llvm(home, &compiler.llvm)?;
    let scratch = tempfile::tempdir_in(home)
        .with_context(|| format!("creating a directory in {}", home.display()))?;
    let mut cargo = process::cargo();
    let _ = cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{}", compiler.identity.llvm_major()?))
        .arg("--root")
        .arg(home)
        .env("LLVM_PREFIX", llvm)
        .env("CARGO_TARGET_DIR", scratch.path())
        // It runs for a second per build: compile time matters more than its speed.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    process::quietly(&mut cargo).context("installing bpf-linker")?;
    step.done();
    Ok(linker)
}

/// Makes a directory in which bpf-linker's build script finds the compiler's LLVM.
fn lend_llvm(home: &Path, library: &Path) -> Result<PathBuf> {
    let prefix = home.join("llvm");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("creating {}", lib.display()))?;
    // The first name is for linking, the second (its soname) for running.
    let soname = library.file_name().context("libLLVM has a file name")?;
    for link in [lib.join("libLLVM.so"), lib.join(soname)] {
        if link.is_symlink() {
            fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
        }
        symlink(library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(prefix)
}
