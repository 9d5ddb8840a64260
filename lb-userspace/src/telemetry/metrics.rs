//! The metrics that only lb has, in the OpenMetrics text format.
//!
//! Counters of the datapath live in its maps; they are read when somebody asks, never copied on a
//! timer, so a scrape shows what `lb status` and bpftool show.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lb_common::{Class, HOOKS, Hook, Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use crate::status::{MapStatus, Status};

/// How often each reason was counted at each hook, or `None` when the map cannot be read.
pub type ReadReasons = dyn Fn() -> Option<Vec<(Hook, Reason, u64)>> + Send + Sync;

/// Labels of gauges that exist once a map.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct MapLabel {
    /// Name of the map.
    pub map: String,
}

/// Label of counters of writes.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct OpLabel {
    /// What was written.
    pub op: &'static str,
}

/// Every metric that the agent itself counts.
#[derive(Clone)]
pub struct Metrics {
    /// Objects of the source that are wrong right now.
    pub problems: Gauge,
    /// Objects that were found wrong since the start.
    pub bad_objects: Counter,
    /// Whether the source has delivered everything once.
    pub synced: Gauge,
    /// Used entries by map.
    pub entries: Family<MapLabel, Gauge>,
    /// Room for entries by map.
    pub capacity: Family<MapLabel, Gauge>,
    /// Time from the first event of a batch to programmed maps.
    pub sync_duration: Histogram,
    /// Time of writing the maps alone.
    pub apply_duration: Histogram,
    /// Writes by kind.
    pub ops: Family<OpLabel, Counter>,
    /// Batches that the kernel refused in part; each is planned again.
    pub apply_errors: Counter,
    /// Devices that carry our programs.
    pub devices: Gauge,
    /// Devices that should carry our programs and do not.
    pub device_errors: Gauge,
    /// Flow entries that the housekeeper removed.
    pub flows_expired: Counter,
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero, registered.
    pub fn new() -> Self {
        // 100 µs to 13 s: one change is to take less than 1 ms, a full load less than 100 ms.
        let times = || Histogram::new((0..18).map(|n| 0.0001 * f64::from(1 << n)));
        let metrics = Self {
            problems: Gauge::default(),
            bad_objects: Counter::default(),
            synced: Gauge::default(),
            entries: Family::default(),
            capacity: Family::default(),
            sync_duration: times(),
            apply_duration: times(),
            ops: Family::default(),
            apply_errors: Counter::default(),
            devices: Gauge::default(),
            device_errors: Gauge::default(),
            flows_expired: Counter::default(),
            registry: Arc::new(Mutex::new(Registry::default())),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = registry.sub_registry_with_prefix("lb");
        r.register("problems", "Objects of the source that are wrong now", self.problems.clone());
        r.register("bad_objects", "Objects found wrong since the start", self.bad_objects.clone());
        r.register("source_synced", "Whether the source has delivered all", self.synced.clone());
        r.register("map_entries", "Used entries by map", self.entries.clone());
        r.register("map_capacity", "Room for entries by map", self.capacity.clone());
        r.register_with_unit(
            "sync_duration",
            "From the first event of a batch to programmed maps",
            Unit::Seconds,
            self.sync_duration.clone(),
        );
        r.register_with_unit(
            "apply_duration",
            "Writing the maps",
            Unit::Seconds,
            self.apply_duration.clone(),
        );
        r.register("ops", "Map writes by kind", self.ops.clone());
        r.register("apply_errors", "Batches refused in part", self.apply_errors.clone());
        r.register("devices", "Devices that carry our programs", self.devices.clone());
        r.register("device_errors", "Devices that should and do not", self.device_errors.clone());
        r.register("flows_expired", "Flow entries removed by age", self.flows_expired.clone());
    }

    /// Adds the counters of the datapath, read by `read` at each scrape.
    pub fn add_reasons(&self, read: Box<ReadReasons>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.sub_registry_with_prefix("lb").register_collector(Box::new(Reasons(read)));
    }

    /// Lets others add metrics of theirs.
    pub(super) fn with_registry<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes one batch of writes: how long they took, and how many of each kind.
    pub fn note_apply(&self, took: Duration, ops: &BTreeMap<&'static str, u64>) {
        self.apply_duration.observe(took.as_secs_f64());
        for (op, count) in ops {
            let _total = self.ops.get_or_create(&OpLabel { op }).inc_by(*count);
        }
    }

    /// Notes what the status file says.
    pub fn note_status(&self, status: &Status) {
        let as_gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let devices = || status.devices.iter().filter(|device| !device.programs.is_empty());
        let failing = status.devices.iter().filter(|device| device.error.is_some());
        let _before = self.problems.set(as_gauge(status.problems.len()));
        let _before = self.synced.set(i64::from(status.source.synced));
        let _before = self.devices.set(as_gauge(devices().count()));
        let _before = self.device_errors.set(as_gauge(failing.count()));
        for MapStatus { map, used, capacity } in &status.maps {
            let label = MapLabel { map: map.clone() };
            let _before = self.entries.get_or_create(&label).set(as_gauge(*used));
            let _before = self.capacity.get_or_create(&label).set(as_gauge(*capacity));
        }
    }

    /// All metrics as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(_fmt) => "# EOF\n".to_owned(),
        }
    }
}

struct Reasons(Box<ReadReasons>);

impl std::fmt::Debug for Reasons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reasons")
    }
}

impl Collector for Reasons {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counts) = (self.0)() else { return Ok(()) };
        let kind = ConstCounter::<u64>::new(0);
        let mut family = encoder.encode_descriptor(
            "packets",
            "Packets and socket calls by hook and by what became of them",
            None,
            kind.metric_type(),
        )?;
        for (hook, reason, count) in counts {
            let labels = [
                ("hook", hook.name()),
                ("reason", reason.name()),
                ("class", class_name(reason.class())),
            ];
            let counter = ConstCounter::<u64>::new(count);
            counter.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The name of a class in metrics and JSON.
pub const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Pass => "pass",
        Class::Translate => "translate",
        Class::Refuse => "refuse",
        Class::Drop => "drop",
    }
}

/// Every pair of hook and reason, for whoever reads `LB_REASONS` from front to back.
pub fn cells() -> impl Iterator<Item = (Hook, Reason)> {
    HOOKS.iter().flat_map(|hook| Reason::ALL.iter().map(|reason| (*hook, *reason)))
}

const _: fn() = || {
    fn is_sync<T: Send + Sync>() {}
    is_sync::<Metrics>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_datapath_are_read_at_each_scrape() {
        let metrics = Metrics::new();
        metrics.add_reasons(Box::new(|| Some(vec![(Hook::PodIn, Reason::NewFlow, 7)])));
        let text = metrics.render();
        let line = "lb_packets_total{hook=\"pod-in\",reason=\"new-flow\",class=\"translate\"} 7\n";
        assert!(text.contains(line), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn maps_that_cannot_be_read_leave_the_rest_readable() {
        let metrics = Metrics::new();
        metrics.add_reasons(Box::new(|| None));
        let flows = MapStatus { map: "LB4_FLOWS".into(), used: 3, capacity: 10 };
        metrics.note_status(&Status { maps: vec![flows], ..Status::default() });
        metrics.note_apply(Duration::from_micros(50), &BTreeMap::from([("put-frontend", 2)]));
        let text = metrics.render();
        assert!(text.contains("lb_map_entries{map=\"LB4_FLOWS\"} 3\n"), "{text}");
        assert!(text.contains("lb_ops_total{op=\"put-frontend\"} 2\n"), "{text}");
        assert!(text.contains("lb_apply_duration_seconds_count 1\n"), "{text}");
    }

    #[test]
    fn every_cell_of_the_reason_map_has_a_name() {
        assert_eq!(cells().count(), HOOKS.len() * Reason::ALL.len());
    }
}
