//! The documentation of settings and metrics says what the code does: no more, no less.
//!
//! `UPDATE_EXPECT=1` rewrites the table of settings.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use lb_common::{Family, Hook, Reason};
use lb_userspace::{
    config::proxy::table::{Flag, SETTINGS, Setting, Treatment},
    model::NoLocalEndpoints,
    status::{MapStatus, Status},
    telemetry::{
        Changed, Moment, Request, SyncKind, Telemetry, WatchError,
        endpoints::{self, PROXY_MODE},
    },
};

fn document(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// One row of the table in docs/kube-proxy-flags.md.
fn row(setting: &Setting) -> String {
    let Setting { field, flag, default, treatment, note, .. } = setting;
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let flag = match flag {
        Flag::None => String::new(),
        Flag::Compat(name) | Flag::Shared(name) => format!("`--{name}`"),
        Flag::Always(name) | Flag::SharedAlways(name) => format!("`--{name}` \\*"),
    };
    let treatment = match treatment {
        Treatment::Honoured => "**honoured**",
        Treatment::Ignored => "ignored",
        Treatment::Refused => "**refused** when true",
    };
    format!("| {} | {flag} | {} | {treatment}: {note} |", code(field), code(default))
}

/// §1.22: each field and flag that the code knows, with its treatment, and no other.
#[test]
fn the_table_of_settings_is_that_of_the_code() {
    let path = document("kube-proxy-flags.md");
    let text = fs::read_to_string(&path).unwrap();
    let expected: Vec<String> = SETTINGS.iter().map(row).collect();
    let head = "| field | flag | default | |\n| --- | --- | --- | --- |\n";
    let (before, rest) = text.split_once(head).unwrap();
    let table: Vec<&str> = rest.lines().take_while(|line| line.starts_with('|')).collect();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let after: String =
            rest.lines().skip(table.len()).map(|line| format!("{line}\n")).collect();
        fs::write(&path, format!("{before}{head}{}\n{after}", expected.join("\n"))).unwrap();
        return;
    }
    for (line, expected) in table.iter().zip(&expected) {
        assert_eq!(line, expected, "run again with UPDATE_EXPECT=1, and read what it wrote");
    }
    assert_eq!(table.len(), expected.len());
}

/// Every metric of an agent that has met everything once, under the name of its samples.
fn metrics() -> BTreeSet<String> {
    let telemetry = Telemetry::new(Duration::from_secs(30));
    let now = Moment::now();
    for kind in [SyncKind::Full, SyncKind::Partial] {
        telemetry.change_queued(Family::V4, now);
        telemetry.sync_done(Family::V4, now.instant, now, kind, Duration::ZERO);
    }
    telemetry.network_programmed(Family::V4, Duration::ZERO);
    telemetry.flows_deleted(Family::V4, 1);
    telemetry.no_local_endpoints(Family::V4, NoLocalEndpoints::default());
    telemetry.changes_received(Changed::Endpoints, 1);
    telemetry.watch_error("services", WatchError::Expired);
    let request = Request { code: "200".into(), method: "GET".into(), host: "a".into() };
    telemetry.api_request(request, Duration::ZERO);
    telemetry.metrics().add_reasons(Box::new(|| Some(vec![(Hook::PodIn, Reason::NewFlow, 1)])));
    let maps = vec![MapStatus { map: "LB4_FLOWS".into(), used: 1, capacity: 2 }];
    telemetry.metrics().note_status(&Status { maps, ..Status::default() });
    telemetry.metrics().note_apply(Duration::ZERO, &[("put-frontend", 1)].into());
    let health = endpoints::health(telemetry.clone());
    let _answers = (health("/healthz"), health("/livez"));
    let server = endpoints::metrics(telemetry, String::new());
    let _answer = server("/healthz");
    let text = server("/metrics").body + &server("/metrics/slis").body;
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split(' ').next())
        .map(ToOwned::to_owned)
        .collect()
}

/// §1.21: each metric that is served, and no other, is in the first two tables; each that
/// kube-proxy has besides is in the third.
#[test]
fn the_tables_of_metrics_are_those_of_the_agent() {
    let text = fs::read_to_string(document("metrics.md")).unwrap();
    let (offered, others) = text.split_once("## Not offered").unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        cells.map(ToOwned::to_owned).collect()
    };
    let (documented, served) = (names(offered), metrics());
    let missing: Vec<_> = served.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&served).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
    let not_offered = names(others);
    assert!(not_offered.is_disjoint(&served), "{not_offered:?}");
    let families = [
        "kubeproxy_sync_proxy_rules_iptables_total",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
    ];
    for name in families {
        assert!(not_offered.contains(name), "{name}");
    }
    assert!(text.contains(&format!("`{PROXY_MODE}`")), "what /proxyMode answers");
}
