//! From objects to programmed maps: `cargo xtask bench sync`.
//!
//! Each round is a fresh process with maps of its own, pinned on a BPF file system that nobody else sees
//! and that goes with the process. Objects are as sources deliver them, so reading and parsing them is
//! not part of the times; planning and the kernel's part are.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_common::{BackendState, Family, names, proto};
use lb_tests::bench::{
    machine::Machine,
    stats::{Spread, percentile, spread},
};
use lb_userspace::{
    config::{Capacity, SocketLb, TcMode, XdpMode},
    datapath::{Datapath, object::Object, options::Options},
    maps::{
        Maps,
        bpf::{Access, obj_get},
    },
    model::{
        Conditions, Coverage, Endpoint, Event, Model, ObjectName, Service, ServicePort, Slice,
        SlicePort,
    },
    plan::{Backend, Limits, Planner},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

/// Endpoints of a Service.
const ENDPOINTS: u32 = 5;
/// Changes of one endpoint each.
const CHANGES: u32 = 200;
const SIZES: [u32; 2] = [1, 10_000];

/// What one round measured. Times in microseconds, memory in bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Round {
    model: f64,
    plan: f64,
    maps: f64,
    full: f64,
    ops: f64,
    change_p50: f64,
    change_p99: f64,
    change_ops: f64,
    resident: f64,
    service_maps: f64,
    flow_maps: f64,
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["one", services] => one(services),
        // Cargo adds `--bench`.
        _ => all(words.contains(&"--quick"), words.contains(&"json")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sync: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(quick: bool, json: bool) -> Result<()> {
    let rounds = if quick { 3 } else { 7 };
    let mut results: [Vec<Round>; 2] = SIZES.map(|_| Vec::new());
    for _ in 0..rounds {
        for (services, results) in SIZES.iter().zip(&mut results) {
            let mut child = Command::new(env::current_exe()?);
            let output = child.args(["one", &services.to_string()]).output()?;
            if !output.status.success() {
                bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
            }
            results.push(serde_json::from_slice(&output.stdout)?);
        }
    }
    if json {
        let sizes = SIZES.iter().zip(&results);
        let sizes: Vec<_> = sizes
            .map(|(services, rounds)| serde_json::json!({ "services": services, "rounds": rounds }))
            .collect();
        let report = serde_json::json!({ "machine": Machine::here(), "sizes": sizes });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&results);
    }
    Ok(())
}

fn print(results: &[Vec<Round>]) {
    println!("{}", Machine::here());
    println!(
        "{ENDPOINTS} endpoints a Service; median (min-max) of {} processes each\n",
        results[0].len()
    );
    println!("{:<38} {:>26} {:>26} {:>20}", "", "1 Service", "10,000 Services", "goal");
    let row = |what: &str, unit: &str, digits, goal: Option<f64>, of: &dyn Fn(&Round) -> f64| {
        let spreads: Vec<Spread> =
            results.iter().map(|rounds| spread(rounds.iter().map(of))).collect();
        let goal = goal.zip(spreads.last()).map_or_else(
            || "-".to_owned(),
            |(most, large)| {
                let verdict = if large.median <= most { "reached" } else { "missed" };
                format!("<={most:.0} {unit} {verdict}")
            },
        );
        print!("{what:<38}");
        for Spread { median, min, max } in spreads {
            let cell = format!("{median:.digits$} ({min:.digits$}-{max:.digits$}) {unit}");
            print!(" {cell:>26}");
        }
        println!(" {goal:>20}");
    };
    row("objects to programmed maps", "ms", 2, Some(100.0), &|round| round.full / 1e3);
    row("  of which model", "ms", 2, None, &|round| round.model / 1e3);
    row("  of which plan", "ms", 2, None, &|round| round.plan / 1e3);
    row("  of which maps (kernel)", "ms", 2, None, &|round| round.maps / 1e3);
    row("  ops", "ops", 0, None, &|round| round.ops);
    row("one endpoint changed, p50", "ms", 3, None, &|round| round.change_p50 / 1e3);
    row("one endpoint changed, p99", "ms", 3, Some(1.0), &|round| round.change_p99 / 1e3);
    row("  ops", "ops", 0, None, &|round| round.change_ops);
    row("resident memory of the process", "MB", 1, Some(64.0), &|round| round.resident / 1e6);
    row("maps of Services", "MB", 1, None, &|round| round.service_maps / 1e6);
    row("maps of flows and sockets", "MB", 1, None, &|round| round.flow_maps / 1e6);
}

/// The process of one round.
fn one(services: &str) -> Result<()> {
    let services: u32 = services.parse()?;
    let bpffs = private_bpffs()?;
    let options = Options {
        pin_dir: bpffs.join("lb"),
        object: Object::Normal,
        capacity: Capacity {
            flows: 262_144,
            services: 65_536,
            frontends: 65_536,
            backends: 65_536,
        },
        xdp: XdpMode::Off,
        tc: TcMode::Auto,
        socket_lb: SocketLb::Off,
        cgroup_root: None,
        snat_first: 16384,
        snat_count: 16384,
        udp_unreplied: 30,
        udp_replied: 120,
    };
    let datapath = Datapath::open(&options)?;
    let mut maps = datapath.maps()?;
    let limits = Limits {
        services: options.capacity.services,
        frontends: options.capacity.frontends,
        backends: maps.backend_capacity(),
        slots: maps.slot_capacity(),
        ranges: maps.range_capacity(),
    };
    let mut planner = Planner::adopt(&maps.contents()?, limits, Instant::now());
    let mut model = Model::new();
    let mut events: Vec<Event> = Vec::new();
    for n in 0..services {
        events.push(Event::PutService(Arc::new(service(n))));
        events.push(Event::PutSlice(Arc::new(slice(n, 0))));
    }
    events.push(Event::Coverage(Coverage::Full));

    let begun = Instant::now();
    planner.mark(model.apply(events));
    let modelled = Instant::now();
    planner.prune();
    let plan = planner.plan(&model, modelled);
    let planned = Instant::now();
    maps.apply(&plan.ops)?;
    let written = Instant::now();
    let ops = plan.ops.len();
    planner.commit(plan, ops, written);
    let full = begun.elapsed();

    let mut changes = Vec::new();
    let mut change_ops = 0;
    for n in 0..CHANGES {
        let event = Event::PutSlice(Arc::new(slice(n * 49 % services, n + 1)));
        let begun = Instant::now();
        planner.mark(model.apply([event]));
        change_ops = planner.execute(&model, &mut maps, begun)?;
        changes.push(micros(begun.elapsed()));
    }
    changes.sort_by(f64::total_cmp);
    let (service_maps, flow_maps) = memory_of_maps(&datapath.paths().maps())?;
    let round = Round {
        model: micros(modelled - begun),
        plan: micros(planned - modelled),
        maps: micros(written - planned),
        full: micros(full),
        ops: f64::from(u32::try_from(ops)?),
        change_p50: percentile(&changes, 50),
        change_p99: percentile(&changes, 99),
        change_ops: f64::from(u32::try_from(change_ops)?),
        resident: resident()?,
        service_maps,
        flow_maps,
    };
    // Last, because reading the maps takes memory.
    ensure_written(&maps, services)?;
    println!("{}", serde_json::to_string(&round)?);
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A BPF file system in a mount namespace and a network namespace of this process.
fn private_bpffs() -> Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    let dir = PathBuf::from("/mnt");
    mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), none)?;
    Ok(dir)
}

fn name(n: u32) -> ObjectName {
    ObjectName::new("default", format!("service-{n}"))
}

fn service(n: u32) -> Service {
    let port = ServicePort { name: "http".into(), proto: proto::TCP, port: 80, node_port: None };
    Service {
        created: Some(0),
        vip4: Some(Ipv4Addr::from(0x0a60_0000 + n)),
        ports: vec![port],
        ..Service::new(name(n))
    }
}

/// The slice of a Service after `changes` changes: the last one replaced an endpoint by a new one.
fn slice(n: u32, changes: u32) -> Slice {
    let endpoint = |i| {
        let number = if i == 0 && changes > 0 { 0x10_0000 + changes } else { n * ENDPOINTS + i };
        Endpoint::new(
            IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number)),
            Conditions { ready: true, serving: true, terminating: false },
        )
    };
    Slice {
        service: Some(name(n).name),
        ports: vec![SlicePort { name: "http".into(), proto: proto::TCP, port: 8080 }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        ..Slice::new(ObjectName::new("default", format!("service-{n}-abcde")), Family::V4)
    }
}

/// Proves that the maps hold what was to be written.
fn ensure_written(maps: &impl Maps, services: u32) -> Result<()> {
    let contents = maps.contents()?;
    let expected = usize::try_from(services)?;
    let serving = |backend: &&Backend| backend.state == BackendState::Serving;
    let (frontends, backends) =
        (contents.frontends.len(), contents.backends.values().filter(serving).count());
    // Each Service has a frontend and the marker of its VIP.
    if frontends != 2 * expected || backends != expected * usize::try_from(ENDPOINTS)? {
        bail!("{services} Services became {frontends} frontends and {backends} backends");
    }
    Ok(())
}

/// Bytes that the kernel accounts to the maps of Services, and to those of flows and sockets.
fn memory_of_maps(dir: &Path) -> Result<(f64, f64)> {
    let (mut services, mut flows) = (0.0, 0.0);
    for name in names::MAPS {
        let map = obj_get(&dir.join(name), Access::Read).with_context(|| format!("map {name}"))?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
        let bytes = field(&info, "memlock:")?;
        match name {
            names::LB4_FLOWS | names::LB6_FLOWS | names::LB4_SOCKS | names::LB6_SOCKS => {
                flows += bytes;
            }
            _ => services += bytes,
        }
    }
    Ok((services, flows))
}

/// Bytes of this process in memory.
fn resident() -> Result<f64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "VmRSS:")? * 1024.0)
}

fn field(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.with_context(|| format!("no {name}"))?.parse().with_context(|| format!("reading {name}"))
}
