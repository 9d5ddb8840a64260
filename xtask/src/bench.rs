//! `cargo xtask bench`: measurements, by the program `lb-bench` of the package `lb-tests`.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::{build, prerequisites, process};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
    /// Few rounds: shows that everything works, and no reliable numbers
    #[arg(long, global = true)]
    quick: bool,
    /// How to print the result
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds per packet of the programs, against the least that a balancer must do
    Packet,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(obstacle) = prerequisites::obstacle()? {
            bail!("nothing can be measured here: {obstacle}");
        }
        prerequisites::programs()?;
        build::bench_objects()?;
        let programs = build::programs()?;
        let mut bench = Command::new(programs.join("lb-bench"));
        let _ = bench.env("LB_BIN", programs.join("lb")).arg(match self.what {
            What::Packet => "packet",
        });
        if self.quick {
            let _ = bench.arg("--quick");
        }
        if self.output == Output::Json {
            let _ = bench.args(["-o", "json"]);
        }
        process::run(&mut bench)
    }
}
