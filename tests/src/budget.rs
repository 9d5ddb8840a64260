//! How many instructions the verifier walks through per program, and how many it may.
//!
//! The kernel gives up at a million. The budgets are far below: growth shows here, in a review, and not
//! on an older kernel whose verifier prunes less. A number is raised on purpose, with its reason in the
//! commit.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramInfo},
};
use lb_common::{Settings, names};

/// What a program may cost, as the verifier counts.
pub const BUDGETS: &[(&str, u32)] = &[
    (names::LB_POD_IN, 200_000),
    (names::LB_POD_OUT, 100_000),
    (names::LB_EXT_IN, 200_000),
    (names::LB_EXT_OUT, 200_000),
    (names::LB_POD_IN_L3, 200_000),
    (names::LB_POD_OUT_L3, 100_000),
    (names::LB_EXT_IN_L3, 200_000),
    (names::LB_EXT_OUT_L3, 300_000),
    (names::LB_LO_OUT, 200_000),
    (names::LB_XDP_IN, 30_000),
    (names::LB_JIFFIES, 1_000),
    ("lb_connect4", 2_000),
    ("lb_connect6", 2_000),
    ("lb_sendmsg4", 3_000),
    ("lb_sendmsg6", 3_000),
    ("lb_recvmsg4", 1_000),
    ("lb_recvmsg6", 1_000),
    ("lb_getpeer4", 1_000),
    ("lb_getpeer6", 1_000),
];

/// What a program costs.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Name of the program.
    pub program: String,
    /// Instructions that the verifier walked through, in its worst setting.
    pub verified: u32,
    /// Instructions of the program.
    pub instructions: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
}

impl Cost {
    /// The budget; a program without one has none to spend.
    #[must_use]
    pub fn budget(&self) -> u32 {
        BUDGETS
            .iter()
            .find(|(program, _)| *program == self.program)
            .map_or(0, |(_, budget)| *budget)
    }
}

/// Loads every program of the object, attached to nothing, and returns what they cost, sorted by name.
///
/// The kernel drops branches on constants, so the socket programs cost most when they serve all
/// namespaces; each program is loaded in both settings and the higher count is taken.
///
/// # Errors
/// When the object is missing or the kernel refuses it.
pub fn costs(object: &Path) -> Result<Vec<Cost>> {
    let bytes = std::fs::read(object)
        .with_context(|| format!("reading {}: run `cargo xtask build`", object.display()))?;
    let mut costs = measure(&bytes, 0)?;
    for (cost, other) in costs.iter_mut().zip(measure(&bytes, 1)?) {
        if other.verified > cost.verified {
            *cost = other;
        }
    }
    Ok(costs)
}

/// The object that the agent embeds.
#[must_use]
pub fn object() -> PathBuf {
    built("LB_EBPF_OBJECT", "lb.o")
}

/// The object that the agent embeds for `lb run --trace`.
#[must_use]
pub fn trace_object() -> PathBuf {
    built("LB_EBPF_TRACE_OBJECT", "lb-trace.o")
}

fn built(variable: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests is a directory of the workspace");
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    env::var_os(variable)
        .map_or_else(|| root.join(target).join("ebpf/out").join(name), PathBuf::from)
}

fn measure(object: &[u8], socket_all: u32) -> Result<Vec<Cost>> {
    let settings = Settings { socket_all, host_netns_cookie: 1, ..Settings::default() };
    let mut loader = EbpfLoader::new();
    let _chained = loader.override_global(names::SETTINGS, &settings, true);
    // The verifier's work does not depend on how much flow tables hold; memory does.
    for table in [names::LB4_FLOWS, names::LB6_FLOWS, names::LB4_SOCKS, names::LB6_SOCKS] {
        let _chained = loader.map_max_entries(table, 1024);
    }
    let mut ebpf = loader.load(object).context("loading the maps")?;
    let mut costs = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let info = load(program).with_context(|| format!("loading {name}"))?;
        costs.push(Cost {
            program: name.to_owned(),
            verified: info
                .verified_instruction_count()
                .context("the kernel tells no instruction count")?,
            instructions: info.size_translated().context("the kernel tells no program size")? / 8,
            machine_code: info.size_jitted(),
        });
    }
    costs.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(costs)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "two dozen kinds that are not used")]
fn load(program: &mut Program) -> Result<ProgramInfo> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        _ => bail!("a kind of program that the load balancer does not use"),
    }
    Ok(program.info()?)
}
