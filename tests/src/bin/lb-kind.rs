//! `lb-kind test` makes a kind cluster and tests the agent in it; the other commands are parts of its engine.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use lb_tests::kind;

/// Tests the agent in a kind cluster that is made for it.
#[derive(Parser)]
enum Cli {
    /// Make a cluster, test, and remove it
    Test(kind::Options),
    /// The test itself, watched over by `test`
    #[command(hide = true)]
    Attempt(kind::Options),
    /// Become the engine, as the first process in namespaces of its own
    #[command(hide = true)]
    Engine { state: PathBuf, packages: PathBuf, cache: PathBuf, name: String },
    /// Become runc, asked for nothing that this machine's root lacks
    #[command(hide = true)]
    Runtime {
        runc: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Test(options) => kind::test(&options),
        Cli::Attempt(options) => kind::attempt(&options),
        Cli::Engine { state, packages, cache, name } => {
            kind::become_engine(&state, &packages, &cache, &name)
        }
        Cli::Runtime { runc, words } => kind::run_runtime(&runc, &words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-kind: {error:#}");
            ExitCode::FAILURE
        }
    }
}
