//! `cargo xtask cluster`: a real Kubernetes on this machine.
//!
//! Like the lab, it is a program of the package `lb-tests`; here it gets what it runs: the components, the
//! agent and the images.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::kubernetes::Set;
use crate::{build, image, kubernetes, prerequisites, workspace};

/// Options of `cargo xtask cluster`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Cluster {
    /// up, down, status or shell, and their options; `up --help` lists those of up
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
    words: Vec<OsString>,
}

impl Cluster {
    pub(crate) fn run(self) -> Result<()> {
        // Words that ask for help, and commands about a cluster that is there, need only the program.
        let makes = self.words.first().is_some_and(|word| word == "up")
            && !self.words.iter().any(|word| word == "--help" || word == "-h");
        let mut command = if makes { prepare()? } else { program()? };
        let error = command.args(self.words).exec();
        Err(error).with_context(|| format!("starting {}", command.get_program().display()))
    }
}

/// Makes everything that a cluster needs and returns the command of the program that brings it up.
pub(crate) fn prepare() -> Result<Command> {
    if let Some(obstacle) = obstacle()? {
        bail!("no cluster can be made here: {obstacle}");
    }
    prerequisites::programs()?;
    // What takes longest, and fails where Go is missing, comes first.
    let _ = kubernetes::components(Set::Cluster)?;
    let _ = build::objects()?;
    let programs = build::programs()?;
    let mut command = Command::new(programs.join("lb-cluster"));
    let _ = command.envs(equip(&programs)?);
    Ok(command)
}

/// Makes components and images, and returns the variables by which the package `lb-tests` finds them.
/// `programs` is the directory of what has been built.
pub(crate) fn equip(programs: &Path) -> Result<[(&'static str, PathBuf); 4]> {
    let components = kubernetes::components(Set::Cluster)?;
    Ok([
        ("LB_BIN", programs.join("lb")),
        ("LB_KUBERNETES_TOOLS", workspace::kubernetes_tools()),
        ("LB_KUBERNETES_IMAGES", image::all(programs, Some(&components))?),
        ("LB_DEPLOY", workspace::root().join("deploy")),
    ])
}

/// Why no cluster can be made here, if so.
pub(crate) fn obstacle() -> Result<Option<String>> {
    let machine = prerequisites::obstacle()?.map(ToOwned::to_owned);
    Ok(machine.or_else(kubernetes::obstacle))
}

/// The program as it is, built if need be: a cluster is looked at and removed by what made it.
fn program() -> Result<Command> {
    let program = workspace::target().join("release/lb-cluster");
    if !program.is_file() {
        let _ = build::objects()?;
        let _ = build::programs()?;
    }
    Ok(Command::new(program))
}
