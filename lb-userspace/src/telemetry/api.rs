//! What is counted about the Kubernetes API: requests under the names of Kubernetes' own clients,
//! and why watches break.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// A request to the API, for counting.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct Request {
    /// HTTP status, or `<error>` when there was no answer.
    pub code: String,
    /// HTTP method.
    pub method: String,
    /// Host and port of the API server.
    pub host: String,
}

/// Why a watch broke.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum WatchError {
    /// The credentials are wrong or have expired: 401.
    Unauthorized,
    /// The credentials do not allow this: 403.
    Forbidden,
    /// The API server answers that it has too much to do: 429, 5xx.
    Overloaded,
    /// Nobody answers, or the connection broke.
    Unreachable,
    /// What the watch should go on from is no longer kept, and everything is listed again: 410.
    Expired,
    /// Something else.
    Other,
}

impl WatchError {
    /// The value of the label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Overloaded => "overloaded",
            Self::Unreachable => "unreachable",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct RequestTimeLabel {
    pub(super) verb: String,
    pub(super) host: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct WatchLabel {
    pub(super) resource: &'static str,
    pub(super) error: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct ApiMetrics {
    pub(super) requests: Family<Request, Counter>,
    pub(super) request_times: Family<RequestTimeLabel, Histogram, fn() -> Histogram>,
    pub(super) watch_errors: Family<WatchLabel, Counter>,
    pub(super) node_eligible: Gauge,
}

/// The buckets of Kubernetes' own clients.
fn request_times() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
}

impl ApiMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            request_times: Family::new_with_constructor(request_times),
            watch_errors: Family::default(),
            node_eligible: Gauge::default(),
        };
        let _unset = metrics.node_eligible.set(1);
        let Self { requests, request_times, watch_errors, node_eligible } = &metrics;
        let client = registry.sub_registry_with_prefix("rest_client");
        client.register("requests", "Requests to the API server", requests.clone());
        client.register(
            "request_duration_seconds",
            "Time until the API server answered",
            request_times.clone(),
        );
        let ours = registry.sub_registry_with_prefix("lb");
        ours.register("watch_errors", "Watches that broke", watch_errors.clone());
        ours.register(
            "node_eligible",
            "Whether the Node object wants new connections sent here",
            node_eligible.clone(),
        );
        metrics
    }
}
