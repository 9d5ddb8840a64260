//! What every Prometheus client tells about its process, read from /proc when somebody asks, and
//! the build.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};

/// Adds `process_*` and `kubernetes_build_info`.
pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
    let build = Family::<[(&'static str, String); 3], Gauge>::default();
    let version = env!("CARGO_PKG_VERSION");
    let labels = [
        ("git_version", format!("v{version}-lb")),
        ("compiler", "rustc".to_owned()),
        ("platform", format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)),
    ];
    let _unset = build.get_or_create(&labels).set(1);
    registry.register("kubernetes_build_info", "The build of this component", build);
}

#[derive(Debug)]
struct Process;

/// What /proc says about this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Readings {
    cpu_seconds: f64,
    start_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut add = |name: &str, help: &str, metric: &dyn Metric| {
            metric.add(encoder.encode_descriptor(name, help, None, metric.kind())?)
        };
        if let Some(readings) = read() {
            let Readings { cpu_seconds, start_seconds, virtual_bytes, resident_bytes } = readings;
            add("process_cpu_seconds", "CPU time", &ConstCounter::new(cpu_seconds))?;
            add("process_start_time_seconds", "Start", &gauge(start_seconds))?;
            add("process_virtual_memory_bytes", "Virtual memory", &gauge_of(virtual_bytes))?;
            add("process_resident_memory_bytes", "Resident memory", &gauge_of(resident_bytes))?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            add("process_open_fds", "Open files", &gauge_of(entries.count() as u64))?;
        }
        if let Some(max) = max_open_files() {
            add("process_max_fds", "Most files that may be open", &gauge_of(max))?;
        }
        Ok(())
    }
}

/// A metric with a value that does not change.
trait Metric {
    fn kind(&self) -> prometheus_client::metrics::MetricType;
    fn add(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result;
}

impl<M: EncodeMetric> Metric for M {
    fn kind(&self) -> prometheus_client::metrics::MetricType {
        self.metric_type()
    }

    fn add(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> std::fmt::Result {
        self.encode(encoder)
    }
}

fn gauge(value: f64) -> ConstGauge<f64> {
    ConstGauge::new(value)
}

fn gauge_of(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn read() -> Option<Readings> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    // SAFETY: `sysconf` takes no pointer.
    let (ticks, page) =
        unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    parse(&stat, boot, u64::try_from(ticks).ok()?, u64::try_from(page).ok()?)
}

/// Reads a line of /proc/PID/stat: the fields behind the name, which is in parentheses and may hold
/// anything.
fn parse(stat: &str, boot: u64, ticks: u64, page: u64) -> Option<Readings> {
    let (_, fields) = stat.rsplit_once(") ")?;
    // The state, field 3 in proc(5), is the first here.
    let field = |number: usize| fields.split(' ').nth(number - 3)?.trim().parse::<u64>().ok();
    #[expect(clippy::cast_precision_loss, reason = "centuries fit")]
    let seconds = |clock: u64| clock as f64 / ticks.max(1) as f64;
    #[expect(clippy::cast_precision_loss, reason = "centuries fit")]
    let boot = boot as f64;
    Some(Readings {
        cpu_seconds: seconds(field(14)? + field(15)?),
        start_seconds: boot + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
    })
}

/// The soft limit of open files.
fn max_open_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 150 0 0 20 0 3 0 1000 4096000 25 1";
        let expected = Readings {
            cpu_seconds: 4.0,
            start_seconds: 1010.0,
            virtual_bytes: 4_096_000,
            resident_bytes: 102_400,
        };
        assert_eq!(parse(stat, 1000, 100, 4096), Some(expected));
        assert_eq!(parse("7 (a", 0, 100, 4096), None);
    }

    /// §1.21: process_* and kubernetes_build_info.
    #[test]
    fn the_process_and_its_build_are_told() {
        let mut registry = Registry::default();
        register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "process_cpu_seconds_total ",
            "process_start_time_seconds ",
            "process_virtual_memory_bytes ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            "kubernetes_build_info{git_version=\"v",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
        }
    }
}
