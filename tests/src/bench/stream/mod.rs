//! `lb-bench stream`: bulk TCP from outside to a pod on another node, by a node port and directly, in turn.
//!
//! Both go by the same devices: the client, its node, a tunnel that carries 1,450 octets, the pod's node, the pod;
//! pods and client take their links for 1,500. So what differs is the translation, and that the sender must
//! be told what fits. Transfers of a pair are neighbours in time, since a shared machine drifts.

mod transfer;
mod tunnel;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    machine::Machine,
    stats::{Interval, Spread, interval_of_median, median, spread},
};
use crate::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Family, Offloads, Setup},
    worker::Proto,
};
use transfer::{Direction, Server};

/// What the caller wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// JSON in place of a table.
    pub json: bool,
    /// Pairs of transfers for each row.
    pub pairs: u32,
    /// How long each transfer takes.
    pub time: Duration,
    /// The least share of the direct speed that the node port must reach.
    pub bound: f64,
    /// Parts of the names of rows; none means every row.
    pub cases: Vec<String>,
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    pairs: u32,
    seconds: f64,
    bound: f64,
    rows: Vec<Row>,
}

/// A family and a direction. Speeds are in megabits a second.
#[derive(Debug, Serialize)]
struct Row {
    family: String,
    direction: Direction,
    direct: Spread,
    node_port: Spread,
    /// Median of the pairs' ratios: node port / direct.
    ratio: f64,
    interval: Interval,
    reached: bool,
}

const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30080;

/// Measures and prints. True when every row reaches the bound.
pub fn run(options: &Options) -> Result<bool> {
    let report = measure(options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(report.rows.iter().all(|row| row.reached))
}

fn measure(options: &Options) -> Result<Report> {
    let offloads = Offloads { tx: true, gro: true };
    let setup =
        Setup { pods: vec![0, 1], wires: offloads, pod_links: offloads, ..Setup::default() };
    let cluster = Cluster::start(setup, &[])?;
    tunnel::dig(&cluster.lab)?;
    let pod = cluster.lab.nodes.get(1).and_then(|node| node.pods.first()).context("a pod")?;
    let service = Service::new("stream", 20).port("", Proto::Tcp, 80, TARGET, Some(NODE_PORT));
    cluster.put(&service, &[Endpoint::pod(pod)])?;

    let meant = |name: &str| {
        options.cases.is_empty() || options.cases.iter().any(|word| name.contains(word))
    };
    let mut rows = Vec::new();
    for family in FAMILIES {
        let direct = pod.addresses.at(family, TARGET);
        let _server = Server::start(&pod.netns, direct)?;
        let node_port = cluster.lab.nodes[0].addresses.at(family, NODE_PORT);
        for direction in Direction::BOTH {
            let name = format!("{family} {direction}");
            if !meant(&name) {
                continue;
            }
            eprintln!("==> {name}");
            rows.push(row(&cluster, options, family, direction, [node_port, direct])?);
        }
    }
    let words = options.cases.join(" or ");
    ensure!(
        !rows.is_empty(),
        "no row has {words} in its name; the rows are IPv4 up, IPv4 down, IPv6 up, IPv6 down"
    );
    let Options { pairs, time, bound, .. } = *options;
    Ok(Report { machine: Machine::here(), pairs, seconds: time.as_secs_f64(), bound, rows })
}

fn row(
    cluster: &Cluster,
    options: &Options,
    family: Family,
    direction: Direction,
    ways: [SocketAddr; 2],
) -> Result<Row> {
    let client = &cluster.lab.client.netns;
    let speed = |to| transfer::speed(client, to, direction, options.time);
    let [node_port, direct] = ways;
    // The sender learns on each way what fits.
    for to in ways {
        let _learnt = speed(to)?;
    }
    let pairs = super::pairs::take(options.pairs, || speed(node_port), || speed(direct))?;
    let ratios: Vec<f64> = pairs.iter().map(|(port, direct)| port / direct).collect();
    let ratio = median(&ratios);
    Ok(Row {
        family: family.to_string(),
        direction,
        direct: spread(pairs.iter().map(|(_, direct)| *direct)),
        node_port: spread(pairs.iter().map(|(port, _)| *port)),
        ratio,
        interval: interval_of_median(&ratios).context("at least one pair")?,
        reached: ratio >= options.bound,
    })
}

fn print(report: &Report) {
    let Report { machine, pairs, seconds, bound, rows } = report;
    println!("{machine}");
    println!(
        "Mbit/s by one TCP connection: median (min-max) of {pairs} transfers of {seconds} s; ratio: median of \
         the pairs, node port / direct\n"
    );
    println!(
        "{:<12} {:>24} {:>24} {:>6} {:>12}  at least {bound}",
        "", "direct", "node port", "ratio", "interval"
    );
    for row in rows {
        let Row { family, direction, direct, node_port, ratio, interval, reached } = row;
        let name = format!("{family} {direction}");
        let verdict = match (reached, interval.contains(*bound)) {
            (true, false) => "reached",
            (true, true) => "reached?",
            (false, false) => "MISSED",
            (false, true) => "MISSED?",
        };
        let interval = format!("{:.3}-{:.3}", interval.low, interval.high);
        println!(
            "{name:<12} {:>24} {:>24} {ratio:>6.3} {interval:>12}  {verdict}",
            cell(direct),
            cell(node_port)
        );
    }
}

fn cell(speed: &Spread) -> String {
    format!("{:.0} ({:.0}-{:.0})", speed.median, speed.min, speed.max)
}
