//! `lb-cluster`: a real Kubernetes on this machine, brought up, looked at and removed.

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lb_tests::{
    kubernetes::{self, AgentMode, Cluster, DEFAULT_NAME, Options},
    vote,
};

/// A real Kubernetes on this machine, with network namespaces as its machines.
#[derive(Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster and wait until every part of it works
    Up {
        /// Name of the cluster; several may be up at once
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// Number of nodes, 1 to 9
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// How the agents run
        #[arg(long, value_enum, default_value_t)]
        agent: AgentMode,
        /// Directory of the components' programs
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Directory of image archives
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
        /// Directory of the agent's manifests
        #[arg(long, value_name = "DIR")]
        deploy: Option<PathBuf>,
    },
    /// Remove a cluster, also one that never came up
    Down {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Say what a cluster is made of and whether it works
    Status {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Open a shell in a cluster, or run one command
    Shell {
        /// Name of the cluster
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// On this node, counted from 1, and not outside
        #[arg(long, value_name = "N")]
        node: Option<usize>,
        /// The command
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Walk through the vote lab on a cluster made for it, or on one that is there
    Vote {
        /// The cluster that this file leads to
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Hold the namespaces of a node; started by `up`
    #[command(hide = true)]
    Hold { node: String, dir: PathBuf, state: PathBuf },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { name, nodes, agent, bin, images, deploy } => {
            let found = Options::default();
            let cluster = Cluster::up(Options {
                name,
                nodes,
                agent,
                bin: bin.unwrap_or(found.bin),
                images: images.unwrap_or(found.images),
                deploy: deploy.unwrap_or(found.deploy),
                lb: found.lb,
                progress: true,
            })?;
            hints(&cluster);
            Ok(())
        }
        Command::Down { name } => {
            if kubernetes::down(&name)? {
                eprintln!("the cluster {name} is gone");
            } else {
                eprintln!("there is no cluster {name}");
            }
            Ok(())
        }
        Command::Status { name } => status(&name),
        Command::Shell { name, node, words } => shell(&name, node, &words),
        Command::Vote { kubeconfig } => vote::real::run(kubeconfig),
        Command::Hold { node, dir, state } => kubernetes::hold(&node, &dir, &state),
    }
}

fn hints(cluster: &Cluster) {
    let name = match cluster.name() {
        DEFAULT_NAME => String::new(),
        name => format!(" --name {name}"),
    };
    println!(
        "
it stays until `cargo xtask cluster down{name}`. Try

  cargo xtask cluster shell{name} -- kubectl get nodes -o wide
  cargo xtask cluster shell{name}                 (a shell outside, with kubectl and KUBECONFIG)
  cargo xtask cluster shell{name} --node 1 -- lb status
  cargo xtask cluster status{name}

the addresses lead somewhere only in there. KUBECONFIG={}",
        cluster.kubeconfig().display()
    );
}

fn status(name: &str) -> Result<()> {
    let others: Vec<String> =
        kubernetes::names().into_iter().filter(|other| other != name).collect();
    if !others.is_empty() {
        println!("other clusters: {}\n", others.join(", "));
    }
    let (table, well) = Cluster::open(name)?.status()?;
    print!("{table}");
    if well { Ok(()) } else { bail!("the cluster {name} is not well") }
}

/// Becomes the command, or a shell, outside of the cluster or on one of its nodes.
fn shell(name: &str, node: Option<usize>, words: &[OsString]) -> Result<()> {
    let cluster = Cluster::open(name)?;
    let place = match node {
        Some(number) => &cluster.node(number.saturating_sub(1))?.place,
        None => cluster.client(),
    };
    let default = [std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    let words = if words.is_empty() { &default[..] } else { words };
    let mut command = place.command(&words[0])?;
    let _ = command.args(&words[1..]).envs(cluster.environment());
    // A shell is for whoever sits at the terminal, so it stays in the terminal's process group.
    let group = nix::unistd::getpgrp().as_raw();
    let error = command.process_group(group).exec();
    Err(error).with_context(|| format!("starting {}", words[0].display()))
}
