//! The program of the pods of a cluster of tests: see `lb_tests::pod`.

use std::process::ExitCode;

use clap::Parser;
use lb_tests::pod::{self, Vote};

/// What runs in pods.
#[derive(Parser)]
enum Cli {
    /// Serve the page of the vote lab
    Serve(Vote),
    /// Print what a server answers
    Get {
        /// `http://NAME[:PORT][/PATH]`
        url: String,
    },
    /// Hold the namespaces of a pod
    Pause,
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Serve(vote) => pod::serve(&vote),
        Cli::Get { url } => pod::fetch(&url).map(|body| print!("{body}")),
        Cli::Pause => pod::pause(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
