//! What came from the source and is not programmed yet, and how long that took.
//!
//! Network programming latency is measured as Kubernetes' SIG Scalability defines it: from the time
//! in the annotation of an EndpointSlice, which is when a pod became ready or was deleted, to the
//! moment when the maps follow. For Services it is not defined.

use std::time::{Duration, Instant, UNIX_EPOCH};

use lb_common::Family;

use crate::{
    model::{Event, Model},
    plan::FAMILIES,
    telemetry::{Changed, Moment, SyncKind, Telemetry},
};

/// Changes that are not programmed yet.
#[derive(Debug)]
pub(super) struct Waiting {
    telemetry: Telemetry,
    /// When the agent started, in microseconds since 1970: what happened before is not its doing.
    started: i64,
    v4: Queue,
    v6: Queue,
    services: u64,
    slices: u64,
}

/// Changes that are not programmed in one family.
#[derive(Debug)]
struct Queue {
    /// When the newest change came.
    covers: Option<Instant>,
    /// Whether everything, not only what changed, is being compared.
    full: bool,
    /// Triggers of endpoint changes.
    triggers: Vec<i64>,
}

impl Queue {
    /// Nothing came, and what there is was not compared.
    const fn new() -> Self {
        Self { covers: None, full: true, triggers: Vec::new() }
    }

    fn kind(&self) -> SyncKind {
        if self.full { SyncKind::Full } else { SyncKind::Partial }
    }
}

impl Waiting {
    /// Nothing waits.
    pub(super) fn new(telemetry: Telemetry, now: Moment) -> Self {
        Self {
            telemetry,
            started: micros(now),
            v4: Queue::new(),
            v6: Queue::new(),
            services: 0,
            slices: 0,
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
                    if let Some(family) = slice.family {
                        self.queue(family).triggers.extend(trigger);
                    }
                }
                Event::DeleteSlice(_) => slices += 1,
                Event::Coverage(_) => (self.v4.full, self.v6.full) = (true, true),
                Event::PutNode(_) | Event::DeleteNode | Event::Problems(..) => {}
            }
        }
        if services + slices == 0 {
            return;
        }
        self.services += services;
        self.slices += slices;
        self.telemetry.changes_received(Changed::Services, services);
        self.telemetry.changes_received(Changed::Endpoints, slices);
        for family in FAMILIES {
            self.queue(family).covers = Some(now.instant);
            self.telemetry.change_queued(family, now);
        }
    }

    /// The maps of one family follow everything that came.
    pub(super) fn programmed(&mut self, family: Family, took: Duration, now: Moment) {
        let queue = self.queue(family);
        let (kind, full) = (queue.kind(), std::mem::take(&mut queue.full));
        let Some(covers) = queue.covers.take().or(full.then_some(now.instant)) else { return };
        let triggers = std::mem::take(&mut queue.triggers);
        self.telemetry.sync_done(family, covers, now, kind, took);
        let end = micros(now);
        for trigger in triggers {
            let latency = u64::try_from(end.saturating_sub(trigger)).unwrap_or(0);
            self.telemetry.network_programmed(family, Duration::from_micros(latency));
        }
        if self.v4.covers.or(self.v6.covers).is_none() {
            let (services, slices) = (&mut self.services, &mut self.slices);
            self.telemetry.changes_programmed(Changed::Services, std::mem::take(services));
            self.telemetry.changes_programmed(Changed::Endpoints, std::mem::take(slices));
        }
    }

    /// A pass failed in one family, in part at least.
    pub(super) fn failed(&mut self, family: Family, took: Duration) {
        let kind = self.queue(family).kind();
        self.telemetry.sync_failed(family, kind, took);
    }

    const fn queue(&mut self, family: Family) -> &mut Queue {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
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

    fn both(waiting: &mut Waiting, now: Moment) {
        FAMILIES.into_iter().for_each(|of| waiting.programmed(of, Duration::ZERO, now));
    }

    #[test]
    fn latency_is_from_the_trigger_to_the_maps_and_once_a_change() {
        let telemetry = Telemetry::new(Duration::from_secs(30));
        let mut waiting = Waiting::new(telemetry.clone(), at(100));
        let mut model = Model::new();
        let before_the_start = slice(Some(50));
        waiting.came(&[before_the_start.clone(), Event::Coverage(Coverage::Full)], &model, at(101));
        let _touched = model.apply([before_the_start]);
        both(&mut waiting, at(102));
        let count = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
        assert!(!metric(&telemetry, &format!("{count} 1")), "that was another agent's");
        let changed = slice(Some(110));
        waiting.came(std::slice::from_ref(&changed), &model, at(112));
        let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1";
        assert!(metric(&telemetry, pending), "{}", telemetry.metrics().render());
        let _touched = model.apply([changed.clone()]);
        both(&mut waiting, at(113));
        let sum = "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"} 3.0";
        assert!(metric(&telemetry, sum), "{}", telemetry.metrics().render());
        // The same again, as a listing brings it, is no change.
        waiting.came(&[changed], &model, at(120));
        both(&mut waiting, at(121));
        assert!(metric(&telemetry, &format!("{count} 1")));
    }
    /// FAM-4: each family has its own health and its own metrics.
    #[test]
    fn a_family_that_is_behind_is_ill_alone() {
        let telemetry = Telemetry::new(Duration::from_secs(30));
        let mut waiting = Waiting::new(telemetry.clone(), at(100));
        let mut model = Model::new();
        let listed = slice(Some(101));
        waiting.came(&[listed.clone(), Event::Coverage(Coverage::Full)], &model, at(101));
        let _touched = model.apply([listed]);
        waiting.programmed(Family::V4, Duration::ZERO, at(102));
        waiting.failed(Family::V6, Duration::ZERO);
        let healthy = |now, family: &str| telemetry.livez(now).status[family].healthy;
        assert!(healthy(at(161), "IPv4") && healthy(at(161), "IPv6"));
        assert!(healthy(at(162), "IPv4") && !healthy(at(162), "IPv6"));
        assert!(!telemetry.livez(at(162)).ok);
        let last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family";
        assert!(metric(&telemetry, &format!("{last}=\"IPv4\"}} 102.0")));
        assert!(!metric(&telemetry, &format!("{last}=\"IPv6\"}} 102.0")));
        let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
        assert!(metric(&telemetry, &format!("{pending} 1")), "{}", telemetry.metrics().render());
        waiting.programmed(Family::V6, Duration::ZERO, at(170));
        assert!(healthy(at(300), "IPv4") && healthy(at(300), "IPv6"));
        assert!(metric(&telemetry, &format!("{last}=\"IPv6\"}} 170.0")));
        assert!(metric(&telemetry, &format!("{pending} 0")));
    }
}
