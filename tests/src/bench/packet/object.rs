//! Objects of a build, loaded for one case.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramFd, ProgramInfo},
};
use lb_common::{Settings, names};

use super::case::Case;

/// The maps of the reference programs.
pub(super) fn reference() -> Result<Ebpf> {
    // Beside the product's.
    load(&crate::budget::object().with_file_name("bench.o"), |_| ())
}

/// The maps of the product, as large as a case needs.
pub(super) fn product(case: &Case) -> Result<Ebpf> {
    load(&crate::budget::object(), |loader| sized(loader, case))
}

fn load(object: &Path, set_up: impl FnOnce(&mut EbpfLoader<'_>)) -> Result<Ebpf> {
    let bytes = fs::read(object)
        .with_context(|| format!("reading {}: run `cargo xtask build`", object.display()))?;
    let mut loader = EbpfLoader::new();
    set_up(&mut loader);
    loader.load(&bytes).with_context(|| format!("creating the maps of {}", object.display()))
}

/// The tables have the same sizes in every case, except for those of the family that it does not use.
fn sized(loader: &mut EbpfLoader<'_>, case: &Case) {
    const SETTINGS: Settings = Settings {
        hz: 250,
        udp_unreplied: 30,
        udp_replied: 120,
        snat_first: 1024,
        snat_count: 64_000,
        socket_all: 0,
        pad: 0,
        host_netns_cookie: 0,
    };
    let _chained = loader.override_global(names::SETTINGS, &SETTINGS, true);
    let other = if case.ipv6 { names::LB4_FLOWS } else { names::LB6_FLOWS };
    for table in [other, names::LB4_SOCKS, names::LB6_SOCKS] {
        let _chained = loader.map_max_entries(table, 1024);
    }
}

/// A program of an object, loaded unless it was before.
pub(super) fn prepared(ebpf: &mut Ebpf, name: &str) -> Result<(ProgramFd, ProgramInfo)> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let loading = || format!("loading {name}");
    if let Program::Xdp(program) = program {
        if program.fd().is_err() {
            program.load().with_context(loading)?;
        }
        Ok((program.fd()?.try_clone()?, program.info()?))
    } else if let Program::SchedClassifier(program) = program {
        if program.fd().is_err() {
            program.load().with_context(loading)?;
        }
        Ok((program.fd()?.try_clone()?, program.info()?))
    } else {
        bail!("{name} is neither for XDP nor for tc")
    }
}
