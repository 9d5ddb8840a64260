//! `lb status`: is this node healthy? About ten lines, then the problems.
//!
//! Works without an agent: what forwards is in the maps, the agent only keeps it up to date.

use std::path::PathBuf;

use serde::Serialize;

use super::table::{Table, span};
use crate::status::{ApiStatus, MapStatus, ProblemStatus, ProgramStatus, Status, WatchStatus};

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
            if map.capacity > 0 && map.used >= map.capacity {
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
    let mut table = Table::new(["DEVICE", "ROLE", "PROGRAMS", "WHY"]);
    for device in &agent.devices {
        let program = |p: &ProgramStatus| format!("{} ({})", p.program, p.mode);
        let programs: Vec<String> = device.programs.iter().map(program).collect();
        table.row([
            device.name.clone(),
            device.role.clone(),
            if programs.is_empty() { "-".to_owned() } else { programs.join(", ") },
            match &device.error {
                Some(error) => format!("{}; {error}", device.why),
                None => device.why.clone(),
            },
        ]);
    }
    if table.is_empty() { String::new() } else { format!("\n{table}") }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ApplyStatus, DeviceStatus, NodeStatus, SocketStatus, SourceStatus};

    fn agent() -> Status {
        Status {
            version: "0.1.0".into(),
            abi: 1,
            object: "00000000deadbeef".into(),
            pid: 42,
            started: 1000,
            written: 1200,
            node: NodeStatus {
                name: "worker-1".into(),
                addresses: vec!["192.0.2.1".parse().unwrap()],
                nodeport_addresses: vec!["127.0.0.1".parse().unwrap()],
                ..NodeStatus::default()
            },
            source: SourceStatus {
                description: "directory /etc/lb".into(),
                synced: true,
                complete: true,
                last_event: Some(1190),
                ..SourceStatus::default()
            },
            devices: vec![DeviceStatus {
                name: "eth0".into(),
                ifindex: 2,
                role: "external".into(),
                why: "carries the default route".into(),
                programs: vec![ProgramStatus { program: "lb_ext_in".into(), mode: "tcx".into() }],
                ..DeviceStatus::default()
            }],
            sockets: SocketStatus {
                mode: "host".into(),
                cgroup: Some("/sys/fs/cgroup".into()),
                programs: vec!["lb_connect4".into()],
                error: None,
            },
            problems: vec![ProblemStatus {
                object: "Service shop/vote".into(),
                file: Some("vote.yaml".into()),
                severity: "warning".into(),
                reason: "node port 30000 belongs to Service shop/old".into(),
            }],
            last_apply: Some(ApplyStatus { at: 1190, ops: 12, micros: 850, error: None }),
            ..Status::default()
        }
    }

    fn datapath() -> Datapath {
        Datapath {
            services: 1,
            service_ports: 2,
            maps: vec![MapStatus { map: "LB4_FLOWS".into(), used: 4, capacity: 262_144 }],
            links: 12,
            drops: vec![("no-route".into(), 3)],
        }
    }

    #[test]
    fn a_healthy_node_is_a_few_lines() {
        let pins = PathBuf::from("/sys/fs/bpf/lb");
        let report = Report::new(pins, Process::Running, Some(agent()), Ok(datapath()));
        let expected = "\
Node:         worker-1 healthy
Agent:        running for 3m20s (pid 42), version 0.1.0, ABI 1, object 00000000deadbeef
Source:       directory /etc/lb, synced, last change 10s ago
Last write:   12 writes in 0.85 ms, 10s ago; 0 since start, 0 failed
Addresses:    192.0.2.1
NodePorts at: 127.0.0.1
Sockets:      host, 1 programs on /sys/fs/cgroup
Pins:         /sys/fs/bpf/lb, 12 links
Services:     1 (2 ports, both families counted)
Maps:         LB4_FLOWS 4/262144
Drops:        no-route 3

DEVICE  ROLE      PROGRAMS         WHY
eth0    external  lb_ext_in (tcx)  carries the default route

PROBLEM WITH       FILE       REASON
Service shop/vote  vote.yaml  node port 30000 belongs to Service shop/old
";
        assert!(report.healthy);
        assert_eq!(text(&report, 1200), expected);
    }

    #[test]
    fn an_api_server_that_is_away_is_told_with_the_age_of_what_is_known() {
        let watch = |kind: &str, objects, heard| WatchStatus {
            kind: kind.into(),
            synced: true,
            objects,
            heard: Some(heard),
            error: None,
        };
        let mut agent = agent();
        agent.well_changed = 1158;
        agent.source.error = Some("API server unreachable: connection refused".into());
        agent.source.api = Some(ApiStatus {
            server: "https://192.0.2.1:6443".into(),
            state: "unreachable".into(),
            since: Some(1158),
            error: Some("connection refused".into()),
            heard: Some(36_191),
        });
        agent.source.watches = vec![watch("Services", 12, 1150), watch("EndpointSlices", 14, 1160)];
        let report = Report::new("/x".into(), Process::Running, Some(agent), Ok(datapath()));
        let text = text(&report, 1200);
        let expected = [
            "Node:         worker-1 NOT healthy for 42s",
            "API server:   https://192.0.2.1:6443 unreachable for 42s (connection refused), showing state of 10:03:11 UTC",
            "Watching:     12 Services, 14 EndpointSlices; heard within 50s",
        ];
        for line in expected {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_datapath_without_agent_is_said_so() {
        let report = Report::new("/sys/fs/bpf/lb".into(), Process::Absent, None, Ok(datapath()));
        assert!(!report.healthy);
        let text = text(&report, 1200);
        assert!(text.contains("12 programs stay attached and go on forwarding"), "{text}");
    }

    #[test]
    fn what_an_earlier_agent_said_does_not_make_the_next_one_healthy() {
        let report = Report::new("/x".into(), Process::Starting, Some(agent()), Ok(datapath()));
        assert_eq!(report.ailments, ["the agent is starting and has not reported yet"]);
        assert!(!report.running);
    }

    #[test]
    fn the_fields_of_the_agent_stand_beside_the_others() {
        let report = Report::new("/x".into(), Process::Running, Some(agent()), Ok(datapath()));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["pid"], 42);
        assert_eq!(json["source"]["synced"], true);
        assert_eq!(json["healthy"], true);
        assert_eq!(json["datapath"]["links"], 12);
    }

    #[test]
    fn maps_that_are_full_or_missing_are_ailments() {
        let mut full = datapath();
        full.maps[0].used = full.maps[0].capacity;
        let report = Report::new("/x".into(), Process::Running, Some(agent()), Ok(full));
        assert_eq!(report.ailments, ["map LB4_FLOWS is full"]);
        let report =
            Report::new("/x".into(), Process::Running, Some(agent()), Err("no maps".into()));
        assert_eq!(report.ailments, ["no maps"]);
    }
}
