//! The search for a Rust compiler and the sources of exactly its `core`.
//!
//! Order: what the user names, what is installed, what Debian can give. The compiler of the rustup
//! toolchain is never changed, and no package source is added to the machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::process;

/// A compiler and the sources that belong to it.
pub(super) struct Compiler {
    /// How to call it.
    pub(super) rustc: PathBuf,
    /// What `rustc -vV` says.
    pub(super) identity: Identity,
    /// The `library` directory of the Rust sources.
    pub(super) library: PathBuf,
    /// The directory of the compiler's own `libLLVM.so.*`.
    pub(super) llvm: PathBuf,
    /// Whether cargo uses this one anyway.
    pub(super) is_active: bool,
}

/// The text of `rustc -vV`.
pub(super) struct Identity(String);

impl Identity {
    fn of(rustc: &Path) -> Result<Self> {
        Ok(Self(process::output(Command::new(rustc).arg("-vV"))?))
    }

    fn field(&self, name: &str) -> Result<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .with_context(|| format!("`rustc -vV` names no {name:?}"))
    }

    /// The version, such as `1.95.0`.
    pub(super) fn release(&self) -> Result<&str> {
        self.field("release")
    }

    /// The major version of LLVM.
    pub(super) fn llvm_major(&self) -> Result<&str> {
        let version = self.field("LLVM version")?;
        Ok(version.split_once('.').map_or(version, |(major, _)| major))
    }

    /// A directory name that differs for different compilers.
    pub(super) fn key(&self) -> String {
        // FNV-1a: stable over Rust releases, which the standard hasher is not.
        let hash = self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("rustc-{}-{hash:016x}", self.release().unwrap_or("unknown"))
    }
}

/// Finds a compiler with sources, fetching from Debian what is missing into `tools`.
pub(super) fn find(tools: &Path) -> Result<Compiler> {
    if let Some(rustc) = env::var_os("LB_EBPF_RUSTC") {
        let rustc = PathBuf::from(rustc);
        return installed(&rustc, false)?.with_context(|| {
            format!(
                "LB_EBPF_RUSTC={} has no sources of `core` in its sysroot (lib/rustlib/src/rust/library)",
                rustc.display()
            )
        });
    }
    // Asking the active compiler costs two short processes; everything else costs downloads.
    let active = PathBuf::from("rustc");
    if let Some(compiler) = installed(&active, true)? {
        return Ok(compiler);
    }
    let identity = Identity::of(&active)?;
    let library = tools.join(identity.key()).join("library");
    let mut reasons = Vec::new();
    if library.join("std/Cargo.toml").is_file() {
        return with_library(active, identity, library, true);
    }
    if let Some(compiler) = nightly() {
        return Ok(compiler);
    }
    let debian = Path::new("/usr/bin/rustc");
    if debian.is_file()
        && let Some(compiler) = installed(debian, false)?
    {
        return Ok(compiler);
    }
    let unpacked = tools.join("debian-rustc-web");
    if apt::rustc_web_in(&unpacked).is_file() {
        return installed(&apt::rustc_web_in(&unpacked), false)?
            .with_context(|| format!("{} has no Rust sources: remove it", unpacked.display()));
    }
    match apt::fetch_rust_src(identity.release()?, &library) {
        Ok(()) => return with_library(active, identity, library, true),
        Err(error) => {
            reasons.push(format!("sources of Rust {} from Debian: {error:#}", identity.release()?))
        }
    }
    match apt::fetch_rustc_web(&unpacked).and_then(|rustc| installed(&rustc, false)) {
        Ok(Some(compiler)) => return Ok(compiler),
        Ok(None) => reasons.push("Debian's rustc-web: unpacked, but without sources".to_owned()),
        Err(error) => reasons.push(format!("Debian's rustc-web: {error:#}")),
    }
    bail!(
        "the eBPF programs need the sources of Rust's `core` for rustc {}, and none were found:\n  - {}\n\
         One of these helps: `rustup component add rust-src`; as root `apt-get update && apt-get install \
         rustc-web rust-web-src`; or LB_EBPF_RUSTC=<a rustc with lib/rustlib/src/rust/library in its sysroot>",
        identity.release()?,
        reasons.join("\n  - ")
    )
}

/// The compiler at `rustc`, if the sources are in its sysroot.
fn installed(rustc: &Path, is_active: bool) -> Result<Option<Compiler>> {
    let sysroot = sysroot_of(rustc)?;
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if !library.join("std/Cargo.toml").is_file() {
        return Ok(None);
    }
    // Debian links the directory to /usr/src; cargo wants the real place.
    let library =
        library.canonicalize().with_context(|| format!("resolving {}", library.display()))?;
    with_library(rustc.to_owned(), Identity::of(rustc)?, library, is_active).map(Some)
}

/// rustup's nightly, if it is there with sources.
fn nightly() -> Option<Compiler> {
    let rustc =
        process::output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]))
            .ok()?;
    installed(Path::new(&rustc), false).ok()?
}

fn with_library(
    rustc: PathBuf,
    identity: Identity,
    library: PathBuf,
    is_active: bool,
) -> Result<Compiler> {
    let llvm = llvm_of(&sysroot_of(&rustc)?)?;
    Ok(Compiler { rustc, identity, library, llvm, is_active })
}

fn sysroot_of(rustc: &Path) -> Result<PathBuf> {
    Ok(PathBuf::from(process::output(Command::new(rustc).args(["--print", "sysroot"]))?))
}

/// The `libLLVM.so.*` that the compiler with this sysroot uses.
fn llvm_of(sysroot: &Path) -> Result<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    for dir in [sysroot.join("lib"), sysroot.join(multiarch)] {
        let Ok(entries) = dir.read_dir() else { continue };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."))
            {
                return Ok(path);
            }
        }
    }
    bail!(
        "no libLLVM.so.* below {}: a compiler with LLVM built in cannot lend it to bpf-linker",
        sysroot.display()
    )
}
