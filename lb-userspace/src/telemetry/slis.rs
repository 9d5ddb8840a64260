//! `/metrics/slis`: the results of health checks, under the names of every Kubernetes component.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CheckLabel {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    name: &'static str,
    status: &'static str,
    r#type: &'static str,
}

#[derive(Clone)]
pub(super) struct Slis {
    last: Family<CheckLabel, Gauge>,
    total: Family<ResultLabel, Counter>,
    registry: Arc<Mutex<Registry>>,
}

impl Slis {
    pub(super) fn new() -> Self {
        let (last, total) = (Family::default(), Family::default());
        let mut registry = Registry::with_prefix("kubernetes");
        registry.register("healthcheck", "The last result of a health check", Clone::clone(&last));
        registry.register("healthchecks", "Results of health checks", Clone::clone(&total));
        Self { last, total, registry: Arc::new(Mutex::new(registry)) }
    }

    /// A health check was made.
    pub(super) fn checked(&self, name: &'static str, r#type: &'static str, good: bool) {
        let _before = self.last.get_or_create(&CheckLabel { name, r#type }).set(i64::from(good));
        let status = if good { "success" } else { "error" };
        let _total = self.total.get_or_create(&ResultLabel { name, status, r#type }).inc();
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail.
        let _written = encode(&mut text, &registry);
        text
    }
}
