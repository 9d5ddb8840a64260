//! A kind cluster made from packages and modules, and the test of the agent in it.
//!
//! The engine, the node image and the cluster are this project's own making, so that nothing has to be
//! pulled and nothing of the machine is changed. What is tested is what anybody does with their own
//! cluster: `cargo xtask run --kind NAME`, and its undoing.

mod checks;
mod cluster;
mod debian;
mod engine;
mod machine;
mod node_image;
mod runtime;
mod shell;
mod traces;

pub use engine::become_engine;
pub use runtime::run as run_runtime;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{SigHandler, Signal, signal},
};

use checks::Checks;
use cluster::Cluster;
use engine::Engine;
use machine::Machine;
use node_image::Ingredients;

/// Where the parts of the test are.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Components of Kubernetes, and kind
    #[arg(long, value_name = "DIR")]
    pub bin: PathBuf,
    /// `images/base/files` of kind's module
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Archives of images
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// The static agent
    #[arg(long, value_name = "FILE")]
    pub lb: PathBuf,
    /// `xtask`, whose `run --kind` is under test
    #[arg(long, value_name = "FILE")]
    pub xtask: PathBuf,
    /// Where preparations are kept
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// Wait for Enter before the cluster is removed
    #[arg(long)]
    pub hold: bool,
}

/// Makes a cluster, tests the agent in it, removes everything, and checks that it did.
///
/// The work is another process's, so that its end, by Ctrl-C or otherwise, is followed by the removal.
///
/// # Errors
///
/// What did not work, or was wrong.
pub fn test(options: &Options) -> Result<()> {
    for ends in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: no handler runs; the signal is ignored.
        let _ = unsafe { signal(ends, SigHandler::SigIgn) }.context("ignoring signals")?;
    }
    fs::create_dir_all(&options.cache)
        .with_context(|| format!("creating {}", options.cache.display()))?;
    let _lock = only_one(options)?;
    let machine = Machine::look();
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    let _ = command.arg("attempt").args(std::env::args_os().skip(2));
    engine::die_with_parent(&mut command);
    engine::mind_signals(&mut command);
    let status = command.status().context("starting the test")?;
    traces::sweep();
    let mut checks = Checks::new();
    machine.is_unchanged(&mut checks);
    if !status.success() {
        bail!("the test in the kind cluster ended with {status}");
    }
    checks.verdict()
}

/// The engine's images can have one user at a time.
fn only_one(options: &Options) -> Result<Flock<File>> {
    let path = options.cache.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, why)| why)
        .context("waiting for another test with the same cache")
}

/// The test, without the care for what it leaves when it is killed.
///
/// # Errors
///
/// What did not work, or was wrong.
pub fn attempt(options: &Options) -> Result<()> {
    let mut checks = Checks::new();
    checks.step("an engine and a node image");
    let packages = engine::fetch(&options.cache)?;
    let engine = Engine::start(&packages, &options.cache)?;
    let pause = options.images.join("pause.tar");
    let Options { bin, base, cache, .. } = options;
    Ingredients { bin, base, pause: &pause, cache }.make(&engine, &packages)?;
    checks.step("a kind cluster of two nodes");
    let kind = bin.join("kind");
    let cluster = Cluster::create(&engine, &kind)?;
    let done = checks::all(&cluster, options, &mut checks);
    if options.hold {
        println!("DOCKER_HOST=unix://{}/docker.sock", engine.dir().display());
        let _ = std::io::stdin().read_line(&mut String::new()).context("waiting for Enter")?;
    }
    checks.step("removing the cluster");
    drop(cluster);
    done?;
    checks.verdict()
}
