//! `cargo xtask run`: the vote lab, on namespaces or on a real Kubernetes, or the agent on this host.
//!
//! The lab is a program of the package `lb-tests`, run as its own process: xtask builds the eBPF objects
//! that the agent embeds, so it cannot link with anything that contains the agent.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{build, cluster, kind, prerequisites};

/// Options of `cargo xtask run`.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    kind: kind::Kind,
    /// The vote lab on a real Kubernetes, made for it
    #[arg(long, conflicts_with = "words")]
    cluster: bool,
    /// The vote lab on the cluster that this file leads to [default: KUBECONFIG, if that is set]
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// Runs the agent on this host in place of the lab: flags of `lb run`, or another lb command
    #[arg(last = true, value_name = "LB FLAGS")]
    words: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        if self.kind.is_meant() {
            return self.kind.run();
        }
        if self.cluster {
            let named = self.kubeconfig.or_else(|| env::var_os("KUBECONFIG").map(PathBuf::from));
            on_cluster(named.as_deref())
        } else if self.words.is_empty() {
            lab()
        } else {
            agent(&self.words)
        }
    }
}

fn lab() -> Result<()> {
    if let Some(obstacle) = prerequisites::obstacle()? {
        bail!("the vote lab cannot run here: {obstacle}");
    }
    prerequisites::programs()?;
    let _ = build::objects()?;
    let bin = build::programs()?;
    become_program(Command::new(bin.join("lb-lab")).arg("vote").env("LB_BIN", bin.join("lb")))
}

/// The vote lab on a real Kubernetes; one that is there already needs nothing of what makes one.
fn on_cluster(kubeconfig: Option<&Path>) -> Result<()> {
    let Some(kubeconfig) = kubeconfig else {
        return become_program(cluster::prepare()?.arg("vote"));
    };
    let _ = build::objects()?;
    let program = build::programs()?.join("lb-cluster");
    let mut command = Command::new(program);
    become_program(command.args(["vote", "--kubeconfig"]).arg(kubeconfig))
}

fn agent(words: &[OsString]) -> Result<()> {
    let _ = build::objects()?;
    let mut command = Command::new(build::programs()?.join("lb"));
    // `-- --source DIR` means `lb run --source DIR`; `-- status` means what it says.
    if words.first().is_some_and(|word| word.as_encoded_bytes().starts_with(b"-")) {
        let _ = command.arg("run");
    }
    become_program(command.args(words))
}

/// Turns this process into the program, so that Ctrl-C and the exit code are the program's own business:
/// a parent would die of Ctrl-C while the lab still cleans up.
fn become_program(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().display()))
}
