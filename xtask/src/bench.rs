//! `cargo xtask bench`: measurements, by the package `lb-tests`.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::{build, cluster, prerequisites, process};

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
    /// Time and memory from Services and EndpointSlices to programmed maps
    Sync,
    /// Network programming latency on a real cluster, and what it costs the agent
    Cluster {
        /// Services to create
        #[arg(long, default_value_t = 2000)]
        services: u32,
        /// Endpoints of each
        #[arg(long, default_value_t = 10)]
        endpoints: u32,
        /// Services created each second
        #[arg(long, default_value_t = 50)]
        rate: u32,
    },
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
        let mut bench = match self.what {
            What::Packet => {
                build::bench_objects()?;
                let programs = build::programs()?;
                let mut bench = Command::new(programs.join("lb-bench"));
                let _ = bench.env("LB_BIN", programs.join("lb")).arg("packet");
                bench
            }
            What::Sync => {
                let _ = build::objects()?;
                compiled("sync")?
            }
            What::Cluster { services, endpoints, rate } => {
                if let Some(obstacle) = cluster::obstacle()? {
                    bail!("no cluster can be made here: {obstacle}");
                }
                let _ = build::objects()?;
                let equipment = cluster::equip(&build::programs()?)?;
                let mut bench = compiled("cluster-bench")?;
                let _ = bench.envs(equipment);
                for (flag, value) in
                    [("--services", services), ("--endpoints", endpoints), ("--rate", rate)]
                {
                    let _ = bench.args([flag, &value.to_string()]);
                }
                bench
            }
        };
        if self.quick {
            let _ = bench.arg("--quick");
        }
        if self.output == Output::Json {
            let _ = bench.args(["-o", "json"]);
        }
        process::run(&mut bench)
    }
}

/// A benchmark that cargo compiles; its own flags may follow.
fn compiled(name: &str) -> Result<Command> {
    // The release profile and both packages, so that what the agent's build compiled serves.
    let mut bench = build::static_cargo("bench")?;
    let _ = bench.args(["--quiet", "--profile", "release"]);
    let _ = bench.args(["-p", "lb-userspace", "-p", "lb-tests", "--bench", name, "--"]);
    Ok(bench)
}
