//! The agent: what sources and devices say becomes maps and attached programs, until it is told to
//! stop.
//!
//! Invariants: one part that fails (a device, an object, a map that is full, the source) never
//! stops the rest; and the end of the agent, however it comes, changes nothing in the kernel.

mod guard;
mod local;
mod notes;
mod passes;
mod reconcile;
mod report;
mod setup;
mod trace;
mod waiting;

use std::{
    collections::HashSet,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::future::OptionFuture;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, error, info, warn};

pub use self::reconcile::{Pass, Reconciler};
use self::waiting::Waiting;
use crate::{
    config::{Config, watch::Watch},
    datapath::{Datapath, attach::AttachProblem, order::Outside, probe},
    devices::{NodeState, shortcut::Shortcut, table::DeviceTable, watch::Watcher},
    foreign,
    housekeeper::{Report, Worker},
    maps::kernel::KernelMaps,
    model::{Coverage, Event, Problem},
    nodeport,
    plan::NodeAddresses,
    privileges,
    source::{self, kube::recorder::Recorder},
    status::{self, MapStatus, Status},
    telemetry::{Eligibility, Moment, Telemetry, health_check::HealthChecks, listen::BindFailure},
};

/// How long a batch of events may grow before it is written: endpoints often change in groups.
const COALESCE: Duration = Duration::from_millis(2);
/// How often what could not be attached is tried again, and the status file renewed.
const TICK: Duration = Duration::from_secs(10);
/// Shortest time between two status files.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// Runs the agent until SIGTERM or SIGINT, or until its configuration file changes.
///
/// # Errors
///
/// When the datapath cannot be started: one sentence that says what is missing and what to do.
pub fn run(config: Config, file: Option<Watch>) -> anyhow::Result<()> {
    probe::machine(&config.pin_dir)?;
    privileges::reduce()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(async { Agent::start(config)?.serve(file).await });
    // Whatever runs in the background only reads, or removes what is over: it is not waited for.
    runtime.shutdown_background();
    result
}

/// A running agent.
struct Agent {
    config: Config,
    datapath: Datapath,
    reconciler: Reconciler<KernelMaps>,
    watcher: Watcher,
    housekeeper: Worker,
    /// Other Service proxies on this node.
    beside: foreign::Watch,
    /// What the housekeeper found.
    swept: mpsc::UnboundedReceiver<Report>,
    /// A count of the entries of the maps that is under way.
    usage: Option<JoinHandle<Vec<MapStatus>>>,
    /// A reading of the maps that is under way.
    looking: Option<JoinHandle<guard::Look>>,
    /// When the maps were compared with what was written.
    compared: Option<Instant>,
    devices: DeviceTable,
    telemetry: Telemetry,
    /// Addresses that the agent must serve and cannot.
    unservable: mpsc::Receiver<BindFailure>,
    /// The health check ports of Services, and whether they may be behind what is programmed.
    health_checks: HealthChecks,
    checks_due: bool,
    /// What is not programmed yet.
    waiting: Waiting,
    /// Where events go, if anywhere.
    recorder: Option<Recorder>,
    status: Status,
    status_path: PathBuf,
    /// The devices when they were last seen.
    node: NodeState,
    /// Whether the programs of this process were attached at least once.
    attached: bool,
    attach_problems: Vec<AttachProblem>,
    /// Programs of others outside of ours, which we do not overtake any more.
    outside: Vec<Outside>,
    /// Problems that were logged, and not yet logged as gone.
    known_problems: HashSet<Problem>,
    /// Whether the status file is behind, and when it was written last.
    stale: bool,
    reported: Option<Instant>,
}

impl Agent {
    /// Follows all changes until told to stop.
    async fn serve(mut self, mut file: Option<Watch>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
        let source::Source { mut events, state: mut health, api } =
            source::start(&self.config.source, &self.config.node_name, &self.telemetry)?;
        self.recorder = api.map(|api| Recorder::start(api, &self.config.node_name));
        self.note_start();
        info!(source = %self.config.source, node = self.config.node_name, "agent started");
        let mut states = self.watcher.states();
        let mut routing = self.watcher.routing();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pass();
            self.tell_local_endpoints().await;
            self.report();
            let wake = self.wake().map(tokio::time::Instant::from_std);
            tokio::select! {
                batch = events.recv() => match batch {
                    Some(batch) => self.events(coalesce(batch, &mut events).await),
                    None => anyhow::bail!("the source ended"),
                },
                Ok(()) = states.changed() => {
                    let state = states.borrow_and_update().clone();
                    self.devices_changed(state);
                    if self.attached {
                        self.attach();
                    }
                }
                Ok(()) = routing.changed() => self.stale = true,
                () = sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)), if wake.is_some() => {}
                Ok(()) = health.changed() => {
                    let state = health.borrow_and_update().clone();
                    report::source(&mut self.status.source, &state);
                    self.stale = true;
                }
                Some(report) = self.swept.recv() => self.swept(&report),
                Some(maps) = OptionFuture::from(self.usage.as_mut()) => {
                    self.usage = None;
                    self.status.maps = maps.unwrap_or_default();
                    self.stale = true;
                }
                Some(look) = OptionFuture::from(self.looking.as_mut()) => self.looked_at_maps(look),
                _ = tick.tick() => self.tick(),
                Some(failure) = self.unservable.recv() => {
                    self.note_failure(&failure).await;
                    return Err(failure.into());
                }
                Some(Some(())) = OptionFuture::from(file.as_mut().map(|file| file.changed.recv())) => {
                    info!("ending, so that the next start reads the configuration that changed");
                    break;
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.stale = true;
        self.reported = None;
        self.report();
        info!("agent stopped; the datapath stays and goes on forwarding (`lb cleanup` removes it)");
        Ok(())
    }

    /// Takes in what the source says.
    fn events(&mut self, events: Vec<Event>) {
        let before = self.reconciler.model().coverage();
        self.waiting.came(&events, self.reconciler.model(), Moment::now());
        let node = events.iter().rev().find_map(|event| match event {
            Event::PutNode(node) => {
                Some(Eligibility::of(node.deleting, node.taints.iter().map(AsRef::as_ref)))
            }
            Event::DeleteNode => Some(Eligibility::Missing),
            Event::PutService(_)
            | Event::DeleteService(_)
            | Event::PutSlice(_)
            | Event::DeleteSlice(_)
            | Event::Problems(..)
            | Event::Coverage(_) => None,
        });
        if let Some(eligibility) = node {
            self.telemetry.node_eligibility(eligibility);
            eligibility.name().clone_into(&mut self.status.node.eligibility);
        }
        self.reconciler.events(events);
        let coverage = self.reconciler.model().coverage();
        if before == Coverage::None && coverage != Coverage::None {
            let services = self.reconciler.model().service_names().len();
            info!(services, complete = coverage == Coverage::Full, "source synced");
        }
        self.status.source.last_event = Some(status::now());
        if self.config.node_ips.is_empty()
            && let Some(node) = self.reconciler.model().node()
        {
            let node_ips = one_a_family(&node.addresses);
            self.watcher.set_node_ips(node_ips);
        }
        self.tell_addresses();
        self.note_problems();
        self.checks_due = true;
        self.stale = true;
    }

    /// Takes in which devices and addresses the node has.
    fn devices_changed(&mut self, state: NodeState) {
        self.node = state;
        match self.devices.sync(&self.node) {
            Ok(_) => {}
            Err(error) => error!(%error, "the devices cannot be told to the programs"),
        }
        self.tell_addresses();
        self.checks_due = true;
        self.stale = true;
    }

    /// Tells the planner which addresses the node has.
    fn tell_addresses(&mut self) {
        let selectors = &self.config.nodeport_addresses;
        let node_port = nodeport::select(selectors, &self.node.addresses, &self.primary());
        if node_port != self.status.node.nodeport_addresses {
            info!(addresses = ?node_port, "node ports are served at");
        }
        self.status.node.addresses = self.primary();
        self.status.node.nodeport_addresses = node_port.clone();
        self.reconciler.node(NodeAddresses {
            local: self.node.addresses.iter().copied().collect(),
            node_port: node_port.into_iter().collect(),
            primary: self.primary().into_iter().collect(),
        });
    }

    /// The addresses by which the node is known.
    fn primary(&self) -> Vec<IpAddr> {
        let NodeState { primary4, primary6, .. } = self.node;
        primary4.map(IpAddr::V4).into_iter().chain(primary6.map(IpAddr::V6)).collect()
    }

    /// Brings the programs to the devices.
    fn attach(&mut self) {
        self.attached = true;
        let before: HashSet<String> = self.attach_problems.iter().map(text).collect();
        self.attach_problems = self.datapath.attach(&self.node.devices);
        for problem in &self.attach_problems {
            let error = text(problem);
            if !before.contains(&error) {
                error!(device = problem.device, error, "no program attached");
            }
        }
        self.stale = true;
    }

    /// Takes in what the housekeeper found: backends that no flow names may have their ids freed.
    fn swept(&mut self, Report { removed, round }: &Report) {
        let flows = removed.flows();
        if flows + removed.socks + removed.sockets + removed.affinity > 0 {
            debug!(?removed, "flows ended");
        }
        let expired = u64::try_from(flows).unwrap_or(u64::MAX);
        self.status.counters.flows_expired += expired;
        let _total = self.telemetry.metrics().flows_expired.inc_by(expired);
        self.telemetry.flows_deleted(lb_common::Family::V4, removed.stale4);
        self.telemetry.flows_deleted(lb_common::Family::V6, removed.stale6);
        if let Some(round) = round {
            let gone = self.reconciler.gone_before(round.began);
            let unused = gone.into_iter().filter(|id| !round.names(*id)).collect();
            self.reconciler.release(unused, round.began);
        }
    }

    /// What has to be done now and then.
    fn tick(&mut self) {
        if self.usage.as_ref().is_none_or(JoinHandle::is_finished) {
            let pin_dir = self.config.pin_dir.clone();
            let count = move || crate::cli::usage(&pin_dir).unwrap_or_default();
            self.usage = Some(tokio::task::spawn_blocking(count));
        }
        let missing = self.heal();
        if self.attached && (missing || !self.attach_problems.is_empty()) {
            self.attach();
        }
        self.keep_outermost();
        self.look_at_maps();
        self.checks_due = true;
        self.stale = true;
    }

    /// When there is something to do although nothing happened.
    fn wake(&self) -> Option<Instant> {
        let report = self.reported.filter(|_| self.stale).map(|then| then + REPORT_PAUSE);
        match (report, self.reconciler.wake()) {
            (Some(report), Some(pass)) => Some(report.min(pass)),
            (one, other) => one.or(other),
        }
    }

    /// Renews the status file, if it is behind and not just written.
    fn report(&mut self) {
        let now = Instant::now();
        if !self.stale || self.reported.is_some_and(|then| now < then + REPORT_PAUSE) {
            return;
        }
        self.stale = false;
        self.reported = Some(now);
        let links = self.datapath.paths().links();
        let attached = report::attached(&links, &self.node.devices, &self.config);
        let coverage = self.reconciler.model().coverage();
        self.status.written = status::now();
        self.status.beside = self.beside.texts();
        self.status.source.synced = coverage != Coverage::None;
        self.status.source.complete = coverage == Coverage::Full;
        self.status.devices =
            report::devices(&self.node, &attached, self.datapath.xdp(), &self.attach_problems);
        let shortcut = Shortcut::decide(self.config.forward, &self.watcher.routing().borrow());
        self.status.forwarding = report::forwarding(&shortcut);
        let cgroup = self.datapath.cgroup_root().map(ToOwned::to_owned);
        self.status.sockets =
            report::sockets(&self.config, cgroup, &attached, &self.attach_problems);
        let checks = self.health_check_problems();
        let problems: Vec<&Problem> = self.known_problems.iter().chain(&checks).collect();
        self.status.problems = report::problems(&problems, &self.outside);
        self.status.note_health();
        self.telemetry.metrics().note_status(&self.status);
        if let Err(error) = status::write(&self.status_path, &self.status) {
            warn!(path = %self.status_path.display(), %error, "the status file cannot be written");
        }
    }
}

/// Adds what else comes within a moment.
async fn coalesce(mut batch: Vec<Event>, events: &mut mpsc::Receiver<Vec<Event>>) -> Vec<Event> {
    let deadline = tokio::time::Instant::now() + COALESCE;
    while let Ok(Some(more)) = tokio::time::timeout_at(deadline, events.recv()).await {
        batch.extend(more);
    }
    batch
}

fn text(problem: &AttachProblem) -> String {
    report::chain(problem)
}

/// The first address of each family.
fn one_a_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = addresses.iter().find(|ip| ip.is_ipv4());
    let v6 = addresses.iter().find(|ip| ip.is_ipv6());
    v4.into_iter().chain(v6).copied().collect()
}
