//! `lb-bench packet` and `lb-bench stream`: what `cargo xtask bench` runs. `lb-bench sample CASE` is the process
//! of one sample, also when a build of another revision asks for it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, ValueEnum};
use lb_tests::bench::{
    packet::{self, Against, Options, Selection},
    stream,
};

/// Nanoseconds per packet of the programs.
#[derive(Parser)]
enum Cli {
    /// Compare the programs with the least that a balancer must do, or with another build's
    Packet(Packet),
    /// Compare bulk transfers by a node port with direct ones
    Stream(Stream),
    /// Measure one case in this process: JSON of a case and an effort, answered by JSON
    Sample { case: String },
}

#[derive(Args)]
struct Packet {
    /// Few rounds: shows that everything works, and no reliable numbers
    #[arg(long)]
    quick: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Only cases whose name contains this; may be given several times
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,
    /// Name the cases and measure nothing
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    against: Other,
}

#[derive(Args)]
struct Stream {
    /// Few short transfers: shows that everything works, and no reliable numbers
    #[arg(long)]
    quick: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Pairs of transfers for each family and direction [default: 31, with --quick 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// The share of the direct speed that a node port must reach
    #[arg(long, default_value_t = 0.97)]
    bound: f64,
    /// Only rows whose name contains this, such as "IPv6 up"; may be given several times
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,
}

/// The other build.
#[derive(Args)]
struct Other {
    /// The lb-bench of another build, with its lb.o and bench.o beside it
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// What to call that build
    #[arg(long, default_value = "the other", requires = "against")]
    revision: String,
    /// Pairs of samples for each case [default: 15, with --quick 3]
    #[arg(long, requires = "against", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// Percent that this build may cost more
    #[arg(long, requires = "against", allow_negative_numbers = true, default_value_t = 3.0)]
    bound: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Packet(flags) => compare(flags),
        Cli::Stream(flags) => stream(flags),
        Cli::Sample { case } => sample(&case).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("lb-bench: a case is beyond its bound");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("lb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(flags: Packet) -> Result<bool> {
    let Packet { quick, output, cases, list, against } = flags;
    let options = Options { quick, json: output == Output::Json, selection: Selection(cases) };
    let Other { against: program, revision, pairs, bound } = against;
    if list {
        let cases = if program.is_some() {
            packet::cases_of_two_builds(&options.selection)?
        } else {
            packet::cases(&options.selection)?
        };
        for case in cases {
            println!("{case}");
        }
        return Ok(true);
    }
    let Some(program) = program else { return packet::run(&options).map(|()| true) };
    let pairs = pairs.unwrap_or(if quick { 3 } else { 15 });
    packet::run_against(&options, &Against { program, revision, pairs, bound })
}

fn stream(flags: Stream) -> Result<bool> {
    let Stream { quick, output, pairs, bound, cases } = flags;
    let pairs = pairs.unwrap_or(if quick { 5 } else { 31 });
    // Many short ones: what else the machine does then falls on few of the pairs.
    let time = Duration::from_millis(if quick { 200 } else { 500 });
    stream::run(&stream::Options { json: output == Output::Json, pairs, time, bound, cases })
}

fn sample(case: &str) -> Result<()> {
    let (case, effort) = serde_json::from_str(case)?;
    println!("{}", serde_json::to_string(&packet::take(&case, effort)?)?);
    Ok(())
}
