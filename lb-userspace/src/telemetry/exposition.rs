//! Prometheus' classic text format, which is what kube-proxy serves and every scraper reads, out of
//! the OpenMetrics text that the library writes.

/// The content type of the classic format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same metrics in the classic format: counters are described under the name of their samples,
/// bounds of buckets have no needless fraction, and there are no units and no end mark.
pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let counter = lines.peek().is_some_and(|next| counter(next).is_some());
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let suffix = if counter { "_total" } else { "" };
            // The library ends each help text with a full stop.
            text.push_str(&format!("# HELP {name}{suffix} {}\n", help.trim_end_matches('.')));
        } else if let Some(name) = counter(line) {
            text.push_str(&format!("# TYPE {name}_total counter\n"));
        } else if line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        } else {
            text.push_str(&sample(line));
            text.push('\n');
        }
    }
    text
}

/// The name of the counter that this line describes.
fn counter(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.strip_suffix(" counter")
}

/// `le="1.0"` as `le="1"`, and `1.0` as `1`.
fn sample(line: &str) -> String {
    let line = line.strip_suffix(".0").unwrap_or(line);
    let Some((before, rest)) = line.split_once("{le=\"") else { return line.to_owned() };
    let Some((bound, after)) = rest.split_once('"') else { return line.to_owned() };
    format!("{before}{{le=\"{}\"{after}", bound.strip_suffix(".0").unwrap_or(bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_as_they_are_sampled() {
        let open = "# HELP a Some help.\n# TYPE a counter\na_total{x=\"1.0\"} 3\n# EOF\n";
        let classic = classic(open);
        assert_eq!(
            classic,
            "# HELP a_total Some help\n# TYPE a_total counter\na_total{x=\"1.0\"} 3\n"
        );
    }

    #[test]
    fn bounds_and_values_are_written_as_kube_proxy_writes_them() {
        let open = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
            a_seconds_sum 2.0\na_seconds_bucket{le=\"1.0\",f=\"x\"} 0\n\
            a_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let expected = "# HELP a_seconds Time\n# TYPE a_seconds histogram\na_seconds_sum 2\n\
            a_seconds_bucket{le=\"1\",f=\"x\"} 0\na_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(classic(open), expected);
    }
}
