//! `cargo xtask build`: the eBPF objects, then the agent that embeds them, and the lab that runs it.

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

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
    let release = workspace::target().join("release");
    let mut cargo = static_cargo("build")?;
    let _ = cargo.args(["--release", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]);
    let built = workspace::target().join(process::host_triple()?).join("release");
    if built.join("lb").is_file() {
        let _ = cargo.arg("--quiet");
    }
    process::run(&mut cargo).context("building the agent and the lab")?;
    publish(&built, &release)?;
    step.done();
    Ok(release)
}

/// `cargo`, set up to link everything into the program, libc too: the same program runs on this host, in
/// any node's container and as the only file of an image.
///
/// With the target named, cargo gives the flag to the programs alone. Without, it would give it to
/// procedural macros as well, which the compiler must be able to load.
pub(crate) fn static_cargo(subcommand: &str) -> Result<Command> {
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    let mut cargo = process::cargo();
    let _ = cargo
        .args([subcommand, "--target", &process::host_triple()?])
        .env("RUSTFLAGS", format!("{flags} -C target-feature=+crt-static").trim_start());
    Ok(cargo)
}

/// Shows the programs in `target/release`, where people look for them.
fn publish(built: &Path, release: &Path) -> Result<()> {
    fs::create_dir_all(release).with_context(|| format!("creating {}", release.display()))?;
    for entry in built.read_dir().with_context(|| format!("listing {}", built.display()))? {
        let entry = entry.with_context(|| format!("listing {}", built.display()))?;
        let meta = entry.metadata().context("looking at a program")?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            continue;
        }
        let shown = release.join(entry.file_name());
        if fs::metadata(&shown).is_ok_and(|old| (old.dev(), old.ino()) == (meta.dev(), meta.ino()))
        {
            continue;
        }
        // A link beside and renamed: nobody meets a half-written program, and one that runs stays whole.
        let fresh = release.join(format!(".{}", entry.file_name().display()));
        if fresh.exists() {
            fs::remove_file(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
        }
        fs::hard_link(entry.path(), &fresh)
            .with_context(|| format!("linking {}", entry.path().display()))?;
        fs::rename(&fresh, &shown).with_context(|| format!("renaming to {}", shown.display()))?;
    }
    Ok(())
}
