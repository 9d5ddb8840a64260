//! The start of the agent: takes over what is pinned, and brings its parts together.
//!
//! Nothing is attached here but what an earlier agent already served.

use std::{collections::HashSet, time::Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Agent, Reconciler, Waiting, trace};
use crate::{
    config::Config,
    datapath::{Datapath, object::Object, options::Options},
    devices::{
        NodeState, Rules, runtime::RuntimeTable, shortcut::Shortcut, table::DeviceTable,
        watch::Watcher,
    },
    foreign::Watch,
    housekeeper::{Housekeeper, Worker},
    maps::{Maps as _, kernel::KernelMaps, reader::Reader},
    plan::Limits,
    status::{self, NodeStatus, SourceStatus, Status},
    telemetry::{
        Moment, Telemetry, endpoints,
        health_check::HealthChecks,
        listen::{self, BindFailure, Server},
    },
};

impl Agent {
    /// Takes over what is pinned; attaches nothing yet.
    pub(super) fn start(config: Config) -> anyhow::Result<Self> {
        let mut datapath = Datapath::open(&options(&config))?;
        if config.trace {
            trace::forward(datapath.programs_mut().ebpf_mut())?;
        }
        let maps_dir = datapath.paths().maps();
        let maps = datapath.maps()?;
        let reader = Reader::open(&config.pin_dir)?;
        let limits = limits(&config, &reader, &maps)?;
        let contents = maps.contents()?;
        let adopted = !contents.services.is_empty();
        let mut reconciler = Reconciler::adopt(maps, &contents, limits, Instant::now());
        reconciler.set_node_name(&config.node_name);
        reconciler.external_ips(config.external_ips);
        info!(
            version = env!("CARGO_PKG_VERSION"),
            pins = %config.pin_dir.display(),
            services = contents.services.len(),
            backends = contents.backends.len(),
            "datapath loaded"
        );
        drop(contents);
        let rules = Rules {
            external: config.external_devices.clone(),
            workload: config.workload_devices.clone(),
            node_ips: config.node_ips.clone(),
        };
        let beside = Watch::start().context("looking for other Service proxies")?;
        let mut runtime = RuntimeTable::open(&maps_dir)?;
        let forward = config.forward;
        let mut known = None;
        let watcher = Watcher::start(rules, move |routing| {
            let shortcut = Shortcut::decide(forward, routing);
            let flags = shortcut.flags();
            if known.as_ref() != Some(&shortcut) {
                let obstacles: Vec<_> =
                    shortcut.obstacles.iter().map(ToString::to_string).collect();
                let redirect = obstacles.is_empty();
                info!(
                    redirect,
                    ?obstacles,
                    shortcut.source_rules,
                    "how packets leave for other nodes"
                );
                known = Some(shortcut);
            }
            if let Err(error) = runtime.renew(flags) {
                warn!(%error, "next hops cannot be renewed");
            }
        })
        .context("watching the devices")?;
        let (sweeps, swept) = mpsc::unbounded_channel();
        let housekeeper = Worker::start(
            Housekeeper::open(&maps_dir, config.lifetimes)?,
            // Nobody listens while the agent stops.
            move |report| drop(sweeps.send(report)),
        )
        .context("starting the housekeeper")?;
        let telemetry = Telemetry::new(config.sync_period);
        if adopted {
            telemetry.adopted();
        }
        telemetry.metrics().add_reasons(Box::new(move || reader.reasons().ok()));
        let unservable = serve(&config, &telemetry);
        let mut agent = Self {
            status_path: status::path(&config.state_dir, &config.pin_dir),
            status: first_status(&config),
            devices: DeviceTable::open(&maps_dir)?,
            datapath,
            reconciler,
            watcher,
            housekeeper,
            beside,
            swept,
            usage: None,
            looking: None,
            compared: None,
            recorder: None,
            health_checks: HealthChecks::new(telemetry.clone()),
            checks_due: true,
            waiting: Waiting::new(telemetry.clone(), Moment::now()),
            telemetry,
            unservable,
            node: NodeState::default(),
            attached: false,
            attach_problems: Vec::new(),
            outside: Vec::new(),
            known_problems: HashSet::new(),
            stale: true,
            reported: None,
            config,
        };
        let state = agent.watcher.states().borrow().clone();
        agent.devices_changed(state);
        if adopted {
            // What is programmed was right when the last agent ended: no need to wait for the
            // source before its programs are replaced.
            agent.attach();
        }
        Ok(agent)
    }
}

/// Serves the health of the node and the metrics, in the background. What is received is an address
/// that the agent must not live without.
fn serve(config: &Config, telemetry: &Telemetry) -> mpsc::Receiver<BindFailure> {
    let health = config.healthz.map(|at| Server {
        what: "/healthz",
        event: "FailedToStartProxierHealthcheck",
        setting: "--healthz-bind-address",
        at,
        handler: endpoints::health(telemetry.clone()),
    });
    let metrics = config.metrics.map(|at| Server {
        what: "/metrics",
        event: "FailedToStartMetricServer",
        setting: "--metrics-bind-address",
        at,
        handler: endpoints::metrics(telemetry.clone(), config.document()),
    });
    let (sender, receiver) = mpsc::channel(2);
    for server in health.into_iter().chain(metrics) {
        let fatal = config.bind_address_hard_fail.then(|| sender.clone());
        let _task = tokio::spawn(server.run(listen::RETRY, fatal));
    }
    receiver
}

fn options(config: &Config) -> Options {
    Options {
        pin_dir: config.pin_dir.clone(),
        object: if config.trace { Object::Trace } else { Object::Normal },
        capacity: config.capacity,
        xdp: config.xdp,
        tc: config.tc,
        socket_lb: config.socket_lb,
        cgroup_root: config.cgroup_root.clone(),
        snat_first: config.snat_first,
        snat_count: config.snat_count,
        udp_unreplied: config.lifetimes.udp_unreplied,
        udp_replied: config.lifetimes.udp_replied,
    }
}

/// What fits into the maps as they are: adopted ones may have another size than asked for.
fn limits(config: &Config, reader: &Reader, maps: &KernelMaps) -> anyhow::Result<Limits> {
    let costs = reader.costs()?;
    let size = |name: &str, asked: u32| {
        costs.iter().find(|cost| cost.name == name).map_or(asked, |cost| cost.max_entries)
    };
    Ok(Limits {
        services: size(lb_common::names::LB_SERVICES, config.capacity.services),
        frontends: size(lb_common::names::LB4_FRONTENDS, config.capacity.frontends)
            .min(size(lb_common::names::LB6_FRONTENDS, config.capacity.frontends)),
        backends: maps.backend_capacity(),
        slots: maps.slot_capacity(),
        ranges: maps.range_capacity(),
    })
}

fn first_status(config: &Config) -> Status {
    let object = if config.trace { Object::Trace } else { Object::Normal };
    let now = status::now();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: lb_common::ABI_VERSION,
        object: format!("{:016x}", object.hash()),
        trace: config.trace,
        pid: std::process::id(),
        started: now,
        written: now,
        pin_dir: config.pin_dir.clone(),
        node: NodeStatus {
            name: config.node_name.clone(),
            external_ips: config.external_ips.name().to_owned(),
            ..NodeStatus::default()
        },
        source: SourceStatus { description: config.source.to_string(), ..SourceStatus::default() },
        ..Status::default()
    }
}
