//! `cargo xtask`: everything that is done to this repository besides editing it.
//!
//! This file holds the list of commands and nothing else; each command is a module of its own.

mod bench;
mod build;
mod cluster;
mod ebpf;
mod image;
mod insns;
mod kind;
mod kubernetes;
mod lint;
mod outcomes;
mod parity;
mod prerequisites;
mod process;
mod revision;
mod run;
mod step;
mod test;
mod verdicts;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests and runs the load balancer. Every command makes what it needs first (the eBPF
/// compiler's sysroot, the linker, the objects), says so while it takes time, and is quick the second time.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF objects, the agent (target/release/lb) and the lab
    Build(build::Build),
    /// Open the vote lab; with `-- <flags>`: run the agent on this host
    Run(run::Run),
    /// Check everything: formatting, lints, unit tests, packets through the kernel, the lab
    #[command(alias = "ci")]
    Test(test::Test),
    /// Run all tests and count which rows of the Service contract they prove
    Parity(parity::Parity),
    /// Check formatting, and clippy for the host and for the BPF target
    Lint(lint::Lint),
    /// Count the instructions that the verifier walks through, per program, against the budget
    Insns(insns::Insns),
    /// Build the programs of a Kubernetes cluster that tests run, and print their directory
    Components(kubernetes::Components),
    /// Make a real Kubernetes on this machine, look at it, remove it: up, status, shell, down
    Cluster(cluster::Cluster),
    /// Write the agent's container image
    Image(image::Image),
    /// Measure the programs
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Build(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Parity(command) => command.run(),
        Command::Lint(command) => command.run(),
        Command::Insns(command) => command.run(),
        Command::Components(command) => command.run(),
        Command::Cluster(command) => command.run(),
        Command::Image(command) => command.run(),
        Command::Bench(command) => command.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
