//! `lb status`: is this node healthy? About ten lines, then the problems.
//!
//! Works without an agent: what forwards is in the maps, the agent only keeps it up to date.

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

use super::table::{Table, span};
use crate::status::{
    ApiStatus, MapStatus, ProblemStatus, ProgramStatus, Status, WatchStatus, XdpStatus,
};

/// Everything that `lb status` found out.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Whether the node does its job and somebody keeps it up to date.
    pub healthy: bool,
    /// What is missing for that.
    pub ailments: Vec<String>,
    /// Whether the agent runs.
    pub running: bool,
    /// What the agent last said; its fields stand beside these.
    #[serde(flatten)]
    pub agent: Option<Status>,
    /// What the maps say.
    pub datapath: Option<Datapath>,
    /// Why there is nothing about the maps.
    pub datapath_error: Option<String>,
    /// Where they are.
    #[serde(skip)]
    pub pin_dir: PathBuf,
}

/// What the maps say.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Datapath {
    /// Services, whatever their ports.
    pub services: usize,
    /// Service ports, each family counted.
    pub service_ports: usize,
    /// How full each map is.
    pub maps: Vec<MapStatus>,
    /// Links that are pinned: programs that stay attached without an agent.
    pub links: usize,
    /// Packets that were ours and wrong, by reason.
    pub drops: Vec<(String, u64)>,
}

/// Whether there is an agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Process {
    /// None holds the pin directory.
    Absent,
    /// One holds it; the status file is of an earlier one.
    Starting,
    /// One holds it.
    Running,
}

impl Report {
    /// Puts the findings together.
    pub fn new(
        pin_dir: PathBuf,
        process: Process,
        agent: Option<Status>,
        datapath: Result<Datapath, String>,
    ) -> Self {
        let mut ailments = Vec::new();
        let (datapath, datapath_error) = match datapath {
            Ok(datapath) => (Some(datapath), None),
            Err(error) => (None, Some(error)),
        };
        let links = datapath.as_ref().map_or(0, |datapath| datapath.links);
        match (process, links, &agent) {
            (Process::Running, _, Some(agent)) => ailments.extend(agent.ailments()),
            (Process::Running, _, None) | (Process::Starting, _, _) => {
                ailments.push("the agent is starting and has not reported yet".to_owned());
            }
            (Process::Absent, 0, _) => {
                ailments.push("the agent does not run (`lb run`)".to_owned())
            }
            (Process::Absent, links, _) => ailments.push(format!(
                "the agent does not run (`lb run`); {links} programs stay attached and go on \
                 forwarding, but nothing follows changes"
            )),
        }
        if let Some(error) = &datapath_error {
            ailments.push(error.clone());
        }
        for map in datapath.iter().flat_map(|datapath| &datapath.maps) {
            if map.is_full() {
                ailments.push(format!("map {} is full", map.map));
            }
        }
        let healthy = ailments.is_empty();
        let running = process == Process::Running;
        Self { healthy, ailments, running, agent, datapath, datapath_error, pin_dir }
    }
}

/// The report for people; `now` in seconds since 1970.
pub fn text(report: &Report, now: u64) -> String {
    let mut lines = Lines::default();
    lines.add(
        "Node",
        &match (&report.agent, report.healthy) {
            (Some(agent), healthy) => {
                let word = if healthy { "healthy" } else { "NOT healthy" };
                // The agent does not know of what only this command finds out.
                match report.running && healthy == agent.well && agent.well_changed > 0 {
                    true => {
                        let since = span(now.saturating_sub(agent.well_changed));
                        format!("{} {word} for {since}", agent.node.name)
                    }
                    false => format!("{} {word}", agent.node.name),
                }
            }
            (None, true) => "healthy".to_owned(),
            (None, false) => "NOT healthy".to_owned(),
        },
    );
    if let Some(agent) = &report.agent
        && !matches!(agent.node.eligibility.as_str(), "" | "unknown" | "eligible")
    {
        lines.add("", &format!("to be avoided by load balancers: {}", agent.node.eligibility));
    }
    for ailment in &report.ailments {
        lines.add("", &format!("! {ailment}"));
    }
    if let Some(agent) = &report.agent {
        agent_lines(&mut lines, report, agent, now);
    }
    for (n, proxy) in report.agent.iter().flat_map(|agent| &agent.beside).enumerate() {
        lines.add(if n == 0 { "Beside" } else { "" }, proxy);
    }
    lines.add(
        "Pins",
        &match &report.datapath {
            Some(datapath) => {
                format!("{}, {} links", report.pin_dir.display(), datapath.links)
            }
            None => report.pin_dir.display().to_string(),
        },
    );
    if let Some(datapath) = &report.datapath {
        lines.add(
            "Services",
            &format!(
                "{} ({} ports, both families counted)",
                datapath.services, datapath.service_ports
            ),
        );
        let fill = |map: &MapStatus| format!("{} {}/{}", map.map, map.used, map.capacity);
        for (n, maps) in datapath.maps.chunks(3).enumerate() {
            let maps: Vec<String> = maps.iter().map(fill).collect();
            lines.add(if n == 0 { "Maps" } else { "" }, &maps.join(", "));
        }
        if !datapath.drops.is_empty() {
            let drops: Vec<String> =
                datapath.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
            lines.add("Drops", &drops.join(", "));
        }
    }
    let mut text = lines.0;
    if let Some(agent) = &report.agent {
        text += &devices(agent);
        text += &problems(&agent.problems);
    }
    text
}

fn agent_lines(lines: &mut Lines, report: &Report, agent: &Status, now: u64) {
    let ago = |then: u64| span(now.saturating_sub(then));
    lines.add(
        "Agent",
        &if report.running {
            format!(
                "running for {} (pid {}), version {}, ABI {}, object {}{}",
                ago(agent.started),
                agent.pid,
                agent.version,
                agent.abi,
                agent.object,
                if agent.trace { ", tracing" } else { "" }
            )
        } else {
            format!(
                "not running, last heard of {} ago; what follows is from then",
                ago(agent.written)
            )
        },
    );
    lines.add(
        "Source",
        &format!(
            "{}, {}{}",
            agent.source.description,
            match (agent.source.synced, agent.source.complete) {
                (true, true) => "synced",
                (true, false) => "synced in part (nothing older is removed until all can be read)",
                (false, _) => "not synced",
            },
            agent
                .source
                .last_event
                .map_or(String::new(), |at| format!(", last change {} ago", ago(at)))
        ),
    );
    if let Some(api) = &agent.source.api {
        lines.add("API server", &api_server(api, now));
        lines.add("Watching", &watching(&agent.source.watches, now));
    }
    if let Some(apply) = &agent.last_apply {
        lines.add(
            "Last write",
            &format!(
                "{} writes in {} ms, {} ago; {} since start, {} failed",
                apply.ops,
                millis(apply.micros),
                ago(apply.at),
                agent.counters.ops,
                agent.counters.apply_errors
            ),
        );
    }
    let list = |ips: &[std::net::IpAddr]| {
        if ips.is_empty() {
            return "none".to_owned();
        }
        ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    lines.add("Addresses", &list(&agent.node.addresses));
    lines.add("NodePorts at", &list(&agent.node.nodeport_addresses));
    let external_ips = match agent.node.external_ips.as_str() {
        "off" => "none is served",
        "all" => "all are served",
        _ => "served, but for the node's own addresses",
    };
    lines.add("External IPs", external_ips);
    let forwarding = &agent.forwarding;
    lines.add(
        "Forwarding",
        &match (forwarding.redirect, forwarding.obstacles.as_slice()) {
            (true, _) => "redirected past the stack where it would do nothing else".to_owned(),
            (false, []) => "through the stack".to_owned(),
            (false, obstacles) => format!("through the stack: {}", obstacles.join(", ")),
        },
    );
    let sockets = &agent.sockets;
    lines.add(
        "Sockets",
        &match &sockets.cgroup {
            Some(cgroup) => format!(
                "{}, {} programs on {}",
                sockets.mode,
                sockets.programs.len(),
                cgroup.display()
            ),
            None => sockets.mode.clone(),
        },
    );
}

/// How the API server does, and how old what is known of it is.
fn api_server(api: &ApiStatus, now: u64) -> String {
    let ApiStatus { server, state, since, error, heard } = api;
    let lasting =
        since.map_or(String::new(), |at| format!(" for {}", span(now.saturating_sub(at))));
    match (error, heard) {
        (None, _) => format!("{server} {state}{lasting}"),
        (Some(error), None) => format!("{server} {state}{lasting} ({error}), nothing heard yet"),
        (Some(error), Some(heard)) => {
            format!("{server} {state}{lasting} ({error}), showing state of {} UTC", clock(*heard))
        }
    }
}

/// The time of day, in UTC.
fn clock(seconds: u64) -> String {
    let of_day = seconds % 86_400;
    format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// What is watched, and how long it has been silent at most.
fn watching(watches: &[WatchStatus], now: u64) -> String {
    let mut text = String::new();
    for watch in watches {
        let comma = if text.is_empty() { "" } else { ", " };
        let open = if watch.synced { "" } else { " (not listed yet)" };
        text += &format!("{comma}{} {}{open}", watch.objects, watch.kind);
    }
    match watches.iter().map(|watch| watch.heard).min().flatten() {
        Some(heard) => format!("{text}; heard within {}", span(now.saturating_sub(heard))),
        None => text,
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{:02}", micros / 1000, micros % 1000 / 10)
}

fn devices(agent: &Status) -> String {
    let mut table = Table::new(["DEVICE", "ROLE", "PROGRAMS", "XDP", "WHY"]);
    for device in &agent.devices {
        let program = |p: &ProgramStatus| format!("{} ({})", p.program, p.mode);
        let programs: Vec<String> = device.programs.iter().map(program).collect();
        table.row([
            device.name.clone(),
            device.role.clone(),
            if programs.is_empty() { "-".to_owned() } else { programs.join(", ") },
            device.xdp.as_ref().map_or("-", xdp).to_owned(),
            match &device.error {
                Some(error) => format!("{}; {error}", device.why),
                None => device.why.clone(),
            },
        ]);
    }
    if table.is_empty() { String::new() } else { format!("\n{table}") }
}

/// How XDP runs on a device, or why it does not.
fn xdp(status: &XdpStatus) -> &str {
    let XdpStatus { mode, why_not, .. } = status;
    mode.as_deref().or(why_not.as_deref()).unwrap_or("-")
}

/// The problems as a table; nothing where there is none.
pub fn problems(problems: &[ProblemStatus]) -> String {
    let mut table = Table::new(["PROBLEM WITH", "FILE", "REASON"]);
    for problem in problems {
        let file = problem.file.as_ref().map_or("-".to_owned(), |file| file.display().to_string());
        table.row([problem.object.clone(), file, problem.reason.clone()]);
    }
    if table.is_empty() { String::new() } else { format!("\n{table}") }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, text: &str) {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        self.0 += &format!("{name:<14}{text}\n");
    }
}
