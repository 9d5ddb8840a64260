//! `cargo xtask bench`: measurements, by the package `lb-tests`.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::revision::Revision;
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
    /// Nanoseconds per packet: against the least that a balancer must do, or against another revision
    ///
    /// With --against, each case is measured by this tree's build and by the revision's in turn (A B B A
    /// A B), because numbers of different runs differ by more than a change does. The exit code is 1 if in
    /// any case the median of the pairs' ratios exceeds the bound. What this commit costs, and whether
    /// IPv4 costs at most one percent more than in another:
    ///
    ///     cargo xtask bench packet --against HEAD~1
    ///     cargo xtask bench packet --against v1.0 --case v4 --bound 1 --pairs 45
    ///
    /// docs/performance.md tells how to read the table.
    #[command(verbatim_doc_comment)]
    Packet(Packet),
    /// Bulk TCP through a tunnel to a pod on another node: by a node port, against the pod's own address
    ///
    /// Transfers of both alternate. The exit code is 1 if in either family or direction the median of the pairs'
    /// ratios is below the bound.
    Stream(Stream),
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

/// Options of `cargo xtask bench packet`.
#[derive(Args)]
struct Packet {
    /// Measure against a build of this revision, made in target/against when it is not there
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// Pairs of samples for each case, one of either build [default: 15, with --quick 3]
    #[arg(long, value_name = "N", requires = "against")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// What a case may cost more than at the revision, in percent; less than 0 demands a gain [default: 3]
    #[arg(long, value_name = "PERCENT", requires = "against", allow_hyphen_values = true)]
    #[arg(value_parser = percent)]
    bound: Option<f64>,
    /// Only cases whose name contains this, such as "xdp v4" or "new flow"; may be given several times
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,
    /// The same, without a flag
    #[arg(value_name = "TEXT")]
    words: Vec<String>,
    /// Name the cases and measure nothing
    #[arg(long)]
    list: bool,
}

/// Options of `cargo xtask bench stream`.
#[derive(Args)]
struct Stream {
    /// Pairs of transfers for each family and direction [default: 31, with --quick 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// The share of the direct speed that a node port must reach [default: 0.97]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    bound: Option<f64>,
    /// Only rows whose name contains this, such as "IPv6 up"; may be given several times
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,
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
            What::Packet(packet) => packet.prepare()?,
            What::Stream(stream) => stream.prepare()?,
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

impl Packet {
    /// Builds what is to be measured. The command measures.
    fn prepare(self) -> Result<Command> {
        let Self { against, pairs, bound, mut cases, words, list } = self;
        cases.extend(words);
        let revision = against.as_deref().map(Revision::resolve).transpose()?;
        build::bench_objects()?;
        let programs = build::programs()?;
        let bench = || {
            let mut bench = Command::new(programs.join("lb-bench"));
            let _ = bench.env("LB_BIN", programs.join("lb")).arg("packet");
            for case in &cases {
                let _ = bench.args(["--case", case]);
            }
            if let Some(revision) = &revision {
                let _ = bench.arg("--against").arg(revision.lb_bench());
                let _ = bench.args(["--revision", revision.name()]);
            }
            bench
        };
        if let Some(revision) = revision.as_ref().filter(|_| !list) {
            // A wrong name of a case should not be told after minutes.
            process::quietly(bench().arg("--list"))?;
            revision.build()?;
        }
        let mut bench = bench();
        if let Some(pairs) = pairs {
            let _ = bench.args(["--pairs", &pairs.to_string()]);
        }
        if let Some(bound) = bound {
            let _ = bench.args(["--bound", &bound.to_string()]);
        }
        if list {
            let _ = bench.arg("--list");
        }
        Ok(bench)
    }
}

impl Stream {
    /// Builds what is to be measured. The command measures.
    fn prepare(self) -> Result<Command> {
        let Self { pairs, bound, cases } = self;
        let _ = build::objects()?;
        let programs = build::programs()?;
        let mut bench = Command::new(programs.join("lb-bench"));
        let _ = bench.env("LB_BIN", programs.join("lb")).arg("stream");
        if let Some(pairs) = pairs {
            let _ = bench.args(["--pairs", &pairs.to_string()]);
        }
        if let Some(bound) = bound {
            let _ = bench.args(["--bound", &bound.to_string()]);
        }
        for case in &cases {
            let _ = bench.args(["--case", case]);
        }
        Ok(bench)
    }
}

/// A share of something, such as 0.97.
fn share(text: &str) -> Result<f64> {
    let share = text.parse().ok().filter(|share: &f64| share.is_finite() && *share > 0.0);
    share.context("a share is a number above 0, such as 0.97")
}

/// A share that something may cost more, in percent.
fn percent(text: &str) -> Result<f64> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end().parse().ok();
    // Nothing costs less than nothing.
    let percent = number.filter(|percent: &f64| percent.is_finite() && *percent > -100.0);
    percent.context("a bound is a number of percent above -100, such as 3 or 0.5")
}

/// A benchmark that cargo compiles; its own flags may follow.
fn compiled(name: &str) -> Result<Command> {
    // The release profile and both packages, so that what the agent's build compiled serves.
    let mut bench = build::static_cargo("bench")?;
    let _ = bench.args(["--quiet", "--profile", "release"]);
    let _ = bench.args(["-p", "lb-userspace", "-p", "lb-tests", "--bench", name, "--"]);
    Ok(bench)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: Bench,
    }

    fn packet(line: &str) -> Result<Packet> {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)?.bench.what {
            What::Packet(packet) => Ok(packet),
            What::Stream(_) | What::Sync | What::Cluster { .. } => bail!("another benchmark"),
        }
    }

    #[test]
    fn flags_of_two_builds_are_read() {
        let line =
            "packet --against HEAD~1 --pairs 5 --bound -2.5% --case v4 --case new old --quick";
        let Packet { against, pairs, bound, cases, words, list } = packet(line).unwrap();
        assert_eq!(against.as_deref(), Some("HEAD~1"));
        assert_eq!((pairs, bound), (Some(5), Some(-2.5)));
        assert_eq!((cases, words), (vec!["v4".into(), "new".into()], vec!["old".into()]));
        assert!(!list);
        let Packet { against, pairs, bound, .. } = packet("packet").unwrap();
        assert!(against.is_none() && pairs.is_none() && bound.is_none());
    }

    #[test]
    fn flags_that_say_nothing_are_refused() {
        for line in [
            "packet --pairs 5",
            "packet --bound 3",
            "packet --against HEAD --pairs 0",
            "packet --against HEAD --bound nan",
            "packet --against HEAD --bound=-100",
            "packet --against HEAD --bound much",
            "stream --pairs 0",
            "stream --bound 0",
            "stream --bound most",
        ] {
            let words = ["bench"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
