//! What the agent tells about itself: logs, metrics, and whether the node is healthy.
//!
//! [`Telemetry`] is the one thing that the other parts report to: cheap to clone, never blocking,
//! and told the time rather than reading it.

mod api;
pub mod endpoints;
pub mod exposition;
pub mod health;
pub mod health_check;
pub mod http;
pub mod listen;
pub mod logs;
pub mod metrics;
mod process;
mod proxy;
mod slis;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lb_common::Family;
use tracing::{info, warn};

use self::{
    api::{ApiMetrics, RequestTimeLabel, WatchLabel},
    proxy::{Changes, CodeLabel, FamilyLabel, PolicyLabel, ProxyMetrics},
    slis::Slis,
};
pub use self::{
    api::{Request, WatchError},
    health::{Answer, Eligibility, Health, Moment},
    metrics::Metrics,
};
use crate::model::NoLocalEndpoints;

/// How much a sync looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncKind {
    /// Everything was compared: the first one, a new listing, a change of the node's addresses.
    Full,
    /// Only what changed.
    Partial,
}

/// A kind of object whose changes are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Changed {
    /// EndpointSlices.
    Endpoints,
    /// Services.
    Services,
}

/// Where everything is reported to.
#[derive(Clone)]
pub struct Telemetry {
    metrics: Metrics,
    proxy: ProxyMetrics,
    api: ApiMetrics,
    slis: Slis,
    health: Arc<Mutex<Health>>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Everything at zero. A change that waits for twice `sync_period` makes the node unhealthy.
    pub fn new(sync_period: Duration) -> Self {
        let metrics = Metrics::new();
        let (proxy, api) = metrics.with_registry(|registry| {
            process::register(registry);
            (ProxyMetrics::new(registry), ApiMetrics::new(registry))
        });
        let health = Arc::new(Mutex::new(Health::new(sync_period)));
        Self { metrics, proxy, api, slis: Slis::new(), health }
    }

    /// The metrics that only lb has.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The maps hold what an earlier agent programmed: the node serves from the start.
    pub fn adopted(&self) {
        self.health().adopted();
    }

    /// A change came that the maps of `family` must follow. To be called as soon as it came, so
    /// that it counts as waiting whatever is stuck behind.
    pub fn change_queued(&self, family: Family, at: Moment) {
        self.health().change_queued(family, at.instant);
        let _before = self.proxy.last_queued.get_or_create(&family.into()).set(seconds(at.wall));
    }

    /// The maps of `family` follow every change that was queued until `covers`, as of `at`.
    ///
    /// `covers` is the instant with which the newest change in this sync was queued.
    pub fn sync_done(
        &self,
        family: Family,
        covers: Instant,
        at: Moment,
        kind: SyncKind,
        took: Duration,
    ) {
        self.health().sync_done(family, covers, at);
        let _before = self.proxy.last.get_or_create(&family.into()).set(seconds(at.wall));
        self.sync_took(family, kind, took);
    }

    /// A sync of `family` failed in part or in whole: what was queued still waits.
    pub fn sync_failed(&self, family: Family, kind: SyncKind, took: Duration) {
        self.sync_took(family, kind, took);
    }

    fn sync_took(&self, family: Family, kind: SyncKind, took: Duration) {
        let of_kind = match kind {
            SyncKind::Full => &self.proxy.sync_full,
            SyncKind::Partial => &self.proxy.sync_partial,
        };
        let label = FamilyLabel::from(family);
        self.proxy.sync.get_or_create(&label).observe(took.as_secs_f64());
        of_kind.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// An endpoint change is programmed, `latency` after the time in its trigger annotation.
    /// One call for each trigger.
    pub fn network_programmed(&self, family: Family, latency: Duration) {
        let times = self.proxy.network_programming.get_or_create(&family.into());
        times.observe(latency.as_secs_f64());
    }

    /// So many objects of a kind came, changed or were deleted, and wait to be programmed.
    pub fn changes_received(&self, what: Changed, count: u64) {
        let Changes { pending, total } = self.changes(what);
        let _total = total.inc_by(count);
        let _pending = pending.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many of them no longer wait.
    pub fn changes_programmed(&self, what: Changed, count: u64) {
        let _pending = self.changes(what).pending.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn changes(&self, what: Changed) -> &Changes {
        match what {
            Changed::Endpoints => &self.proxy.endpoint_changes,
            Changed::Services => &self.proxy.service_changes,
        }
    }

    /// So many UDP flows were removed because their backend left.
    pub fn flows_deleted(&self, family: Family, count: usize) {
        let counter = self.proxy.flows_deleted.get_or_create(&family.into());
        let _total = counter.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// So many ports of Services have endpoints, but none here for a policy that wants one here.
    pub fn no_local_endpoints(&self, family: Family, count: NoLocalEndpoints) {
        let NoLocalEndpoints { internal, external } = count;
        for (policy, count) in [("internal", internal), ("external", external)] {
            let label = PolicyLabel::new(policy, family);
            let gauge = self.proxy.no_local_endpoints.get_or_create(&label);
            let _before = gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The watch of a resource (`services`, `endpointslices`, `nodes`) broke, and is begun again.
    pub fn watch_error(&self, resource: &'static str, error: WatchError) {
        let label = WatchLabel { resource, error: error.name() };
        let _total = self.api.watch_errors.get_or_create(&label).inc();
    }

    /// A request to the API server got its answer, or failed, after `took`.
    pub fn api_request(&self, request: Request, took: Duration) {
        let label = RequestTimeLabel { verb: request.method.clone(), host: request.host.clone() };
        self.api.request_times.get_or_create(&label).observe(took.as_secs_f64());
        let _total = self.api.requests.get_or_create(&request).inc();
    }

    /// What the Node object says about sending new connections here.
    pub fn node_eligibility(&self, eligibility: Eligibility) {
        if !self.health().node_eligibility(eligibility) {
            return;
        }
        let _before = self.api.node_eligible.set(i64::from(eligibility.is_eligible()));
        if eligibility.is_eligible() {
            info!("load balancers may send connections to this node");
        } else {
            warn!(why = eligibility.name(), "/healthz fails: this node is to be avoided");
        }
    }

    /// Whether programming keeps up, which a Service's health check node port reports too.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.health().is_healthy(now)
    }

    /// The answer to `/healthz`.
    pub fn healthz(&self, now: Moment) -> Answer {
        let answer = self.health().healthz(now);
        let _total = self.proxy.healthz.get_or_create(&CodeLabel::of(&answer)).inc();
        self.slis.checked("programming", "healthz", answer.healthy);
        self.slis.checked("node-eligible", "healthz", answer.node_eligible.unwrap_or(true));
        answer
    }

    /// The answer to `/livez`.
    pub fn livez(&self, now: Moment) -> Answer {
        let answer = self.health().livez(now);
        let _total = self.proxy.livez.get_or_create(&CodeLabel::of(&answer)).inc();
        self.slis.checked("programming", "livez", answer.healthy);
        answer
    }

    /// Somebody asked whether this process answers at all.
    pub fn pinged(&self) {
        self.slis.checked("ping", "healthz", true);
    }

    /// The results of health checks as metrics, in the OpenMetrics text format.
    pub fn slis(&self) -> String {
        self.slis.render()
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Each change of the health is one assignment: a panic elsewhere leaves it whole.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
