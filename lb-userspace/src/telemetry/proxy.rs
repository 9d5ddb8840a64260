//! The metrics that an operator of kube-proxy knows, under kube-proxy's names and with its buckets.
//!
//! Only those that mean the same here; `docs/metrics.md` lists the others and why.

use lb_common::Family as IpFamily;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::health::{self, Answer};

/// A gauge of seconds since 1970.
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;
/// Histograms by label, whose buckets the constructor knows.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The label of what exists once a family.
#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct FamilyLabel {
    ip_family: &'static str,
}

impl From<IpFamily> for FamilyLabel {
    fn from(family: IpFamily) -> Self {
        Self { ip_family: health::name(family) }
    }
}

/// The label of what is counted by HTTP status.
#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct CodeLabel {
    code: u16,
}

impl CodeLabel {
    pub(super) fn of(answer: &Answer) -> Self {
        Self { code: if answer.ok { 200 } else { 503 } }
    }
}

/// The label of what exists once a family and traffic policy.
#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct PolicyLabel {
    traffic_policy: &'static str,
    ip_family: &'static str,
}

impl PolicyLabel {
    pub(super) fn new(traffic_policy: &'static str, family: IpFamily) -> Self {
        Self { traffic_policy, ip_family: health::name(family) }
    }
}

/// Changes of one kind of object.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    pub(super) pending: Gauge,
    pub(super) total: Counter,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct ProxyMetrics {
    pub(super) sync: Histograms<FamilyLabel>,
    pub(super) sync_full: Histograms<FamilyLabel>,
    pub(super) sync_partial: Histograms<FamilyLabel>,
    pub(super) last: Family<FamilyLabel, Seconds>,
    pub(super) last_queued: Family<FamilyLabel, Seconds>,
    pub(super) network_programming: Histograms<FamilyLabel>,
    pub(super) endpoint_changes: Changes,
    pub(super) service_changes: Changes,
    pub(super) healthz: Family<CodeLabel, Counter>,
    pub(super) livez: Family<CodeLabel, Counter>,
    pub(super) flows_deleted: Family<FamilyLabel, Counter>,
    pub(super) no_local_endpoints: Family<PolicyLabel, Gauge>,
}

/// 1 ms, doubled, 15 buckets.
fn sync_times() -> Histogram {
    Histogram::new((0..15).map(|n| 0.001 * f64::from(1 << n)))
}

/// The buckets by which the service level of network programming is defined.
fn network_programming_times() -> Histogram {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    Histogram::new([0.25, 0.5].into_iter().chain(seconds.map(f64::from)))
}

impl ProxyMetrics {
    /// All at zero, registered without a prefix of the registry's own.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            sync: Family::new_with_constructor(sync_times),
            sync_full: Family::new_with_constructor(sync_times),
            sync_partial: Family::new_with_constructor(sync_times),
            last: Family::default(),
            last_queued: Family::default(),
            network_programming: Family::new_with_constructor(network_programming_times),
            endpoint_changes: Changes::default(),
            service_changes: Changes::default(),
            healthz: Family::default(),
            livez: Family::default(),
            flows_deleted: Family::default(),
            no_local_endpoints: Family::default(),
        };
        metrics.register(registry.sub_registry_with_prefix("kubeproxy"));
        metrics
    }

    fn register(&self, r: &mut Registry) {
        // A field that is forgotten here does not compile.
        let Self {
            sync,
            sync_full,
            sync_partial,
            last,
            last_queued,
            network_programming,
            endpoint_changes,
            service_changes,
            healthz,
            livez,
            flows_deleted,
            no_local_endpoints,
        } = self;
        r.register(
            "sync_proxy_rules_duration_seconds",
            "Planning and writing what changed",
            sync.clone(),
        );
        r.register(
            "sync_full_proxy_rules_duration_seconds",
            "Those where everything was compared",
            sync_full.clone(),
        );
        r.register(
            "sync_partial_proxy_rules_duration_seconds",
            "Those where only what changed was",
            sync_partial.clone(),
        );
        r.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When everything that had come was programmed",
            last.clone(),
        );
        r.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When the last change came",
            last_queued.clone(),
        );
        r.register(
            "network_programming_duration_seconds",
            "From the change that the trigger annotation names to written maps",
            network_programming.clone(),
        );
        for (what, help, changes) in [
            ("endpoint_changes", "EndpointSlice changes", endpoint_changes),
            ("service_changes", "Service changes", service_changes),
        ] {
            let Changes { pending, total } = changes;
            r.register(
                format!("sync_proxy_rules_{what}_pending"),
                format!("{help} that wait"),
                pending.clone(),
            );
            r.register(format!("sync_proxy_rules_{what}"), help, total.clone());
        }
        r.register("proxy_healthz", "Answers of /healthz by status", healthz.clone());
        r.register("proxy_livez", "Answers of /livez by status", livez.clone());
        r.register(
            "conntrack_reconciler_deleted_entries",
            "UDP flows removed because their backend left",
            flows_deleted.clone(),
        );
        // A gauge, whatever its name says.
        r.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports that drop for want of an endpoint on this node",
            no_local_endpoints.clone(),
        );
    }
}
