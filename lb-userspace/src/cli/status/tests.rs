//! What `lb status` prints.

use super::*;
use crate::status::{
    ApplyStatus, DeviceStatus, ForwardingStatus, NodeStatus, SocketStatus, SourceStatus,
};

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
            xdp: Some(XdpStatus {
                why_not: Some("the driver cannot run it".into()),
                ..XdpStatus::default()
            }),
            ..DeviceStatus::default()
        }],
        forwarding: ForwardingStatus { redirect: true, ..ForwardingStatus::default() },
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
External IPs: served, but for the node's own addresses
Forwarding:   redirected past the stack where it would do nothing else
Sockets:      host, 1 programs on /sys/fs/cgroup
Pins:         /sys/fs/bpf/lb, 12 links
Services:     1 (2 ports, both families counted)
Maps:         LB4_FLOWS 4/262144
Drops:        no-route 3

DEVICE  ROLE      PROGRAMS         XDP                       WHY
eth0    external  lb_ext_in (tcx)  the driver cannot run it  carries the default route

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
fn what_forbids_to_redirect_is_told() {
    let mut agent = agent();
    agent.forwarding = ForwardingStatus {
        redirect: false,
        obstacles: vec!["--forward=stack".into(), "xfrm policies".into()],
        source_rules: false,
    };
    let report = Report::new("/x".into(), Process::Running, Some(agent), Ok(datapath()));
    assert!(report.healthy);
    let text = text(&report, 1200);
    let line = "Forwarding:   through the stack: --forward=stack, xfrm policies\n";
    assert!(text.contains(line), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["forwarding"]["redirect"], false);
    assert_eq!(json["forwarding"]["obstacles"][1], "xfrm policies");
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
    let clients = MapStatus { map: "LB6_AFFINITY".into(), used: 9, capacity: 9 };
    let evicting = Datapath { maps: vec![clients], ..datapath() };
    let report = Report::new("/x".into(), Process::Running, Some(agent()), Ok(evicting));
    assert!(report.healthy, "the client that was away longest makes way: {:?}", report.ailments);
    let report = Report::new("/x".into(), Process::Running, Some(agent()), Err("no maps".into()));
    assert_eq!(report.ailments, ["no maps"]);
}
