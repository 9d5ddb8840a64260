//! The eBPF objects: compile both variants, drop what only debuggers read, publish.
//!
//! An object is rewritten only when its bytes changed, so that the agent, which embeds it, is not
//! rebuilt for nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use super::toolchain::{TARGET, Toolchain};
use crate::{process, workspace};

/// One build of the eBPF programs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Variant {
    /// The product.
    Plain,
    /// With a log line per packet.
    Trace,
    /// The reference programs of the benchmark.
    Bench,
}

impl Variant {
    /// What the agent embeds.
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Trace];

    /// The cargo features that select it.
    pub(crate) fn features(self) -> &'static str {
        match self {
            Self::Plain | Self::Bench => "bpf",
            Self::Trace => "bpf,trace",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Plain => "lb.o",
            Self::Trace => "lb-trace.o",
            Self::Bench => "bench.o",
        }
    }

    fn bin(self) -> &'static str {
        match self {
            Self::Plain | Self::Trace => "lb",
            Self::Bench => "floor",
        }
    }
}

/// Builds these variants into [`workspace::ebpf_objects`].
pub(crate) fn build(toolchain: &Toolchain, variants: &[Variant]) -> Result<()> {
    let out = workspace::ebpf_objects();
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    for variant in variants {
        let linked = workspace::ebpf_target().join(TARGET).join("ebpf").join(variant.bin());
        let mut cargo = toolchain.cargo("build");
        let _ = cargo.args(["-p", "lb-ebpf", "--bin", variant.bin()]);
        let _ = cargo.args(["--features", variant.features()]);
        if linked.exists() {
            // Only the first build takes long enough that one wants to watch it.
            let _ = cargo.arg("--quiet");
        }
        process::run(&mut cargo)
            .with_context(|| format!("compiling the eBPF programs ({})", variant.features()))?;
        let object = fs::read(&linked).with_context(|| format!("reading {}", linked.display()))?;
        let object = strip(&object).with_context(|| format!("stripping {}", linked.display()))?;
        write_if_changed(&out.join(variant.file()), &object)?;
    }
    Ok(())
}

/// Drops the DWARF sections. BTF stays: the kernel and bpftool read it. What goes names paths and
/// hashes of this machine, so the result is the same everywhere.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("reading the ELF object")?;
    for section in builder.sections.iter_mut() {
        if section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    for symbol in builder.symbols.iter_mut() {
        let of_deleted = symbol.section.is_some_and(|id| builder.sections.get(id).delete);
        symbol.delete = of_deleted;
    }
    // LLVM keeps the names of sections and symbols in one table; the writer wants two.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    builder.delete_orphans();
    builder.delete_unused_versions();
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("writing the ELF object")?;
    Ok(stripped)
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}
