//! Network programming latency on a real cluster: `cargo xtask bench cluster`.
//!
//! Services without selector and their slices are created through the API server, the slices with the
//! trigger time that the controller writes on its own. Nothing stands between the API server and the
//! agent then, and nobody has to run twenty thousand pods. The agent is what runs in the DaemonSet of
//! `deploy/`. A second clock, this program, looks at the pinned maps themselves.

mod agent;
mod load;
mod watch;

use std::{
    fmt::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Parser;
use lb_tests::{
    bench::{machine::Machine, stats::percentile},
    kubernetes::{self, Cluster, Options},
};
use serde::Serialize;

/// Network programming latency, and what it costs the agent.
#[derive(Parser)]
#[command(name = "cargo xtask bench cluster", bin_name = "cargo xtask bench cluster")]
struct Cli {
    /// Services to create
    #[arg(long, default_value_t = 2000)]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Services created each second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// A tenth of the Services
    #[arg(long)]
    quick: bool,
    /// `json`, or a table
    #[arg(short, long, default_value = "table")]
    output: String,
    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was measured. Times in seconds, memory in bytes.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    services: u32,
    endpoints: u32,
    rate: u32,
    /// How long creating took.
    creating: f64,
    /// Services that serve all their endpoints by the maps.
    programmed: usize,
    /// From the answer of the API server to the map entry.
    exact_p50: f64,
    exact_p99: f64,
    exact_max: f64,
    /// From the trigger time to written maps, by the agent's histogram: the bounds of its buckets.
    histogram_p50: f64,
    histogram_p99: f64,
    observations: f64,
    /// Of the agent, for all of it.
    cpu: f64,
    resident_before: f64,
    resident_after: f64,
    restart: agent::Restart,
}

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    if cli.quick {
        cli.services = cli.services.div_ceil(10);
    }
    match on_cluster(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Brings a cluster up, measures, and takes it down whatever happened.
fn on_cluster(cli: &Cli) -> Result<()> {
    let name = kubernetes::unique_name();
    let options = Options { name: name.clone(), nodes: 1, progress: true, ..Options::default() };
    if let Some(why) = kubernetes::missing(&options) {
        bail!("{why}");
    }
    let measured = Cluster::up(options).and_then(|cluster| measure(&cluster, cli));
    let gone = kubernetes::down(&name);
    let report = measured?;
    let _ = gone?;
    if cli.output == "json" {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report)?);
    }
    Ok(())
}

fn measure(cluster: &Cluster, cli: &Cli) -> Result<Report> {
    let node = cluster.node(0)?;
    let before = agent::Agent::of(node)?;
    let maps = watch::Maps::of(&before)?;
    let (cpu, resident_before) = (before.cpu()?, before.resident()?);
    let histogram = agent::Histogram::read(node)?;

    let begin = Instant::now();
    let patience = Duration::from_secs(120);
    eprintln!("==> creating {} Services of {} endpoints", cli.services, cli.endpoints);
    let (created, times) = watch::beside(&maps, cli.endpoints, patience, |watched| {
        load::create(cluster, cli.services, cli.endpoints, cli.rate, watched)
    })?;
    let creating = (created - begin).as_secs_f64();
    let mut latencies: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    latencies.sort_by(f64::total_cmp);

    let during = agent::Histogram::until(node, &histogram, f64::from(cli.services))?;
    let (cpu, resident_after) = (before.cpu()? - cpu, before.resident()?);
    eprintln!("==> restarting the agent");
    let restart = agent::restart(cluster, node, &before)?;
    Ok(Report {
        machine: Machine::here(),
        services: cli.services,
        endpoints: cli.endpoints,
        rate: cli.rate,
        creating,
        programmed: latencies.len(),
        exact_p50: percentile(&latencies, 50),
        exact_p99: percentile(&latencies, 99),
        exact_max: latencies.last().copied().unwrap_or_default(),
        histogram_p50: during.at_most(0.5),
        histogram_p99: during.at_most(0.99),
        observations: during.count(),
        cpu,
        resident_before,
        resident_after,
        restart,
    })
}

fn table(report: &Report) -> Result<String> {
    let mut text = String::new();
    let Report { machine, services, endpoints, rate, creating, .. } = report;
    writeln!(text, "{machine}; everything on it: API server, etcd, a node, this program")?;
    writeln!(
        text,
        "{services} Services of {endpoints} endpoints, created in {creating:.1} s ({rate} a second wanted)\n"
    )?;
    let mut row = |what: &str, value: String| writeln!(text, "{what:<54} {value:>14}");
    let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
    let at_most = |seconds: f64| format!("<= {}", ms(seconds));
    let mb = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
    row("Services programmed", report.programmed.to_string())?;
    row("API server's answer to map entry, p50", ms(report.exact_p50))?;
    row("API server's answer to map entry, p99", ms(report.exact_p99))?;
    row("API server's answer to map entry, most", ms(report.exact_max))?;
    row("trigger time to written maps, p50 (agent's histogram)", at_most(report.histogram_p50))?;
    row("trigger time to written maps, p99 (agent's histogram)", at_most(report.histogram_p99))?;
    row("  observations", format!("{:.0}", report.observations))?;
    row("the agent's processor time", format!("{:.2} s", report.cpu))?;
    row("its resident memory before", mb(report.resident_before))?;
    row("its resident memory after", mb(report.resident_after))?;
    row("agent restarted: start of the process to synced", ms(report.restart.synced))?;
    row("  pod deleted to synced", ms(report.restart.deleted_to_synced))?;
    row("  processor time until then", format!("{:.2} s", report.restart.cpu))?;
    Ok(text)
}
