//! Everything that compiles for BPF, ready to use: compiler, sysroot and linker, and the flags that bind
//! them together.
//!
//! All of it lives in one directory named after the compiler, so that a new compiler never meets an old
//! sysroot, and a second call only has to look.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::compiler::{Compiler, Identity};
use super::{compiler, linker, sysroot};
use crate::{process, workspace};

/// The BPF target: little endian, as every machine we support.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A complete eBPF toolchain.
pub(crate) struct Toolchain {
    compiler: Compiler,
    sysroot: PathBuf,
    linker: PathBuf,
}

impl Toolchain {
    /// Finds the toolchain, making what is missing.
    pub(crate) fn prepare() -> Result<Self> {
        let tools = workspace::ebpf_tools();
        fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
        // Two builds at once would download and unpack over each other.
        let lock = tools.join(".lock");
        let lock = File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
        lock.lock().context("waiting for another build that prepares the eBPF toolchain")?;

        let compiler = compiler::find(&tools)?;
        let home = home(&tools, &compiler.identity)?;
        let sysroot = sysroot::prepare(&home, &compiler)?;
        let linker = linker::prepare(&home, &compiler)?;
        Ok(Self { compiler, sysroot, linker })
    }

    /// `cargo`, set up to compile for BPF. The caller adds the subcommand's arguments.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = process::cargo();
        let _ = cargo
            .arg(subcommand)
            .args(["--target", TARGET, "--profile", "ebpf", "--target-dir"])
            .arg(workspace::ebpf_target())
            .env("RUSTC", &self.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags().join("\x1f"))
            .env_remove("RUSTFLAGS");
        cargo
    }

    /// Whether cargo would call the same compiler by itself. Other tools of the toolchain, such as clippy,
    /// can then read the sysroot.
    pub(crate) fn is_the_active_one(&self) -> bool {
        self.compiler.is_active
    }

    fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--sysroot={}", self.sysroot.display()),
            format!("-Clinker={}", self.linker.display()),
            // v3: 32-bit jumps and returning atomics. Kernels have it since 5.12.
            "-Ctarget-cpu=v3".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            // Otherwise moves of structs become calls of byte loops in the packet path.
            "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        ];
        // The object must not depend on where the repository and cargo's cache are.
        let cargo_home = std::env::var("CARGO_HOME")
            .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        flags.push(remap(workspace::root(), "lb"));
        flags.push(remap(&self.compiler.library, "rust"));
        if let Ok(home) = cargo_home {
            flags.push(remap(&Path::new(&home).join("registry/src"), "crates"));
        }
        flags
    }
}

/// The directory of everything that belongs to one compiler.
fn home(tools: &Path, identity: &Identity) -> Result<PathBuf> {
    let home = tools.join(identity.key());
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    // The real path: it is part of the flags, so that another directory means another build.
    home.canonicalize().with_context(|| format!("resolving {}", home.display()))
}
