//! What came from the source and is not programmed yet, and how long that took.
//!
//! Network programming latency is measured as Kubernetes' SIG Scalability defines it: from the time
//! in the annotation of an EndpointSlice, which is when a pod became ready or was deleted, to the
//! moment when the maps follow. For Services it is not defined.

use std::time::{Duration, Instant, UNIX_EPOCH};

use lb_common::Family;

use crate::{
    model::{Event, Model},
    telemetry::{Changed, Moment, SyncKind, Telemetry},
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Changes that are not programmed yet.
#[derive(Debug)]
pub(super) struct Waiting {
    telemetry: Telemetry,
    /// When the agent started, in microseconds since 1970: what happened before is not its doing.
    started: i64,
    /// When the newest change came.
    covers: Option<Instant>,
    /// Whether everything, not only what changed, is being compared.
    full: bool,
    services: u64,
    slices: u64,
    /// Triggers of endpoint changes.
    triggers: Vec<(Family, i64)>,
}

impl Waiting {
    /// Nothing waits.
    pub(super) fn new(telemetry: Telemetry, now: Moment) -> Self {
        Self {
            telemetry,
            started: micros(now),
            covers: None,
            full: true,
            services: 0,
            slices: 0,
            triggers: Vec::new(),
        }
    }

    /// Takes note of events that `model` is about to take in.
    pub(super) fn came(&mut self, events: &[Event], model: &Model, now: Moment) {
        let (mut services, mut slices) = (0, 0);
        for event in events {
            match event {
                Event::PutService(service) => {
                    services += u64::from(model.service(&service.name) != Some(&**service));
                }
                Event::DeleteService(_) => services += 1,
                Event::PutSlice(slice) => {
                    if model.slice(&slice.name) == Some(&**slice) {
                        continue;
                    }
                    slices += 1;
                    let trigger = slice.triggered.filter(|at| *at >= self.started);
                    self.triggers.extend(slice.family.zip(trigger));
                }
                Event::DeleteSlice(_) => slices += 1,
                Event::Coverage(_) => self.full = true,
                Event::PutNode(_) | Event::DeleteNode | Event::Problems(..) => {}
            }
        }
        if services + slices == 0 {
            return;
        }
        self.services += services;
        self.slices += slices;
        self.covers = Some(now.instant);
        self.telemetry.changes_received(Changed::Services, services);
        self.telemetry.changes_received(Changed::Endpoints, slices);
        for family in FAMILIES {
            self.telemetry.change_queued(family, now);
        }
    }

    /// The maps follow everything that came.
    pub(super) fn programmed(&mut self, took: Duration, now: Moment) {
        let full = std::mem::take(&mut self.full);
        let Some(covers) = self.covers.take().or(full.then_some(now.instant)) else { return };
        let kind = if full { SyncKind::Full } else { SyncKind::Partial };
        for family in FAMILIES {
            self.telemetry.sync_done(family, covers, now, kind, took);
        }
        let end = micros(now);
        for (family, trigger) in self.triggers.drain(..) {
            let latency = u64::try_from(end.saturating_sub(trigger)).unwrap_or(0);
            self.telemetry.network_programmed(family, Duration::from_micros(latency));
        }
        self.telemetry.changes_programmed(Changed::Services, std::mem::take(&mut self.services));
        self.telemetry.changes_programmed(Changed::Endpoints, std::mem::take(&mut self.slices));
    }

    /// A pass failed, in part at least.
    pub(super) fn failed(&self, took: Duration) {
        let kind = if self.full { SyncKind::Full } else { SyncKind::Partial };
        for family in FAMILIES {
            self.telemetry.sync_failed(family, kind, took);
        }
    }
}

fn micros(at: Moment) -> i64 {
    let since = at.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Coverage, ObjectName, Slice};

    fn at(seconds: u64) -> Moment {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        let since = Duration::from_secs(seconds);
        Moment { instant: start + since, wall: UNIX_EPOCH + since }
    }

    fn slice(triggered: Option<i64>) -> Event {
        Event::PutSlice(Arc::new(Slice {
            service: Some("a".into()),
            triggered: triggered.map(|seconds| seconds * 1_000_000),
            ..Slice::new(ObjectName::new("default", "a-1"), Family::V4)
        }))
    }

    fn metric(telemetry: &Telemetry, line: &str) -> bool {
        let text = telemetry.metrics().render();
        text.lines().any(|found| found == line)
    }

    #[test]
    fn latency_is_from_the_trigger_to_the_maps_and_once_a_change() {
        let telemetry = Telemetry::new(Duration::from_secs(30));
        let mut waiting = Waiting::new(telemetry.clone(), at(100));
        let mut model = Model::new();
        let before_the_start = slice(Some(50));
        waiting.came(&[before_the_start.clone(), Event::Coverage(Coverage::Full)], &model, at(101));
        let _touched = model.apply([before_the_start]);
        waiting.programmed(Duration::ZERO, at(102));
        let count = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
        assert!(!metric(&telemetry, &format!("{count} 1")), "that was another agent's");
        let changed = slice(Some(110));
        waiting.came(std::slice::from_ref(&changed), &model, at(112));
        let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1";
        assert!(metric(&telemetry, pending), "{}", telemetry.metrics().render());
        let _touched = model.apply([changed.clone()]);
        waiting.programmed(Duration::ZERO, at(113));
        let sum = "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"} 3.0";
        assert!(metric(&telemetry, sum), "{}", telemetry.metrics().render());
        // The same again, as a listing brings it, is no change.
        waiting.came(&[changed], &model, at(120));
        waiting.programmed(Duration::ZERO, at(121));
        assert!(metric(&telemetry, &format!("{count} 1")));
    }
}
