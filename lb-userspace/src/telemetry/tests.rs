use super::*;

const PERIOD: Duration = Duration::from_secs(30);

fn moment(seconds: u64) -> Moment {
    let wall = UNIX_EPOCH + Duration::from_secs(seconds);
    Moment { instant: Instant::now(), wall }
}

fn check(telemetry: &Telemetry, lines: &[&str]) {
    let text = telemetry.metrics().render();
    for line in lines {
        assert!(text.lines().any(|other| other == *line), "no {line:?} in {text}");
    }
}

/// §1.21: names, labels and buckets of kube-proxy.
#[test]
fn a_change_and_its_sync_stand_under_the_names_of_kube_proxy() {
    let telemetry = Telemetry::new(PERIOD);
    let at = moment(1000);
    telemetry.changes_received(Changed::Endpoints, 3);
    telemetry.changes_received(Changed::Services, 2);
    telemetry.change_queued(Family::V4, at);
    check(
        &telemetry,
        &[
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 3",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 3",
            "kubeproxy_sync_proxy_rules_service_changes_pending 2",
            "kubeproxy_sync_proxy_rules_service_changes_total 2",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 1000.0",
        ],
    );
    let took = Duration::from_micros(1500);
    telemetry.changes_programmed(Changed::Endpoints, 3);
    telemetry.sync_done(Family::V4, at.instant, moment(1001), SyncKind::Partial, took);
    telemetry.network_programmed(Family::V4, Duration::from_millis(1400));
    telemetry.flows_deleted(Family::V6, 2);
    check(
        &telemetry,
        &[
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1001.0",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv6\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.001\",ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"16.384\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"1.0\",ip_family=\"IPv4\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"2.0\",ip_family=\"IPv4\"} 1",
        ],
    );
}

/// §1.21: the buckets of the service level indicator, all of them.
#[test]
fn network_programming_has_exactly_the_buckets_of_kube_proxy() {
    let telemetry = Telemetry::new(PERIOD);
    telemetry.network_programmed(Family::V6, Duration::ZERO);
    let text = telemetry.metrics().render();
    let bounds: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("kubeproxy_network_programming_duration_seconds_bucket{le=\"")
        })
        .filter_map(|rest| rest.split('"').next()?.parse().ok())
        .collect();
    let mut expected = vec![0.25, 0.5];
    expected.extend((1..=59).map(f64::from));
    expected.extend([60, 65, 70, 75, 80, 85, 90, 95, 100, 105, 110, 115].map(f64::from));
    expected.extend([120, 150, 180, 210, 240, 270, 300].map(f64::from));
    assert_eq!(bounds.split_last().unwrap(), (&f64::INFINITY, &expected[..]));
}

/// TP-14: a gauge, whose name is kube-proxy's.
#[test]
fn ports_without_local_endpoints_are_counted_by_policy_and_family() {
    let telemetry = Telemetry::new(PERIOD);
    telemetry.no_local_endpoints(Family::V4, NoLocalEndpoints { internal: 1, external: 2 });
    telemetry.no_local_endpoints(Family::V6, NoLocalEndpoints { internal: 5, external: 0 });
    telemetry.no_local_endpoints(Family::V6, NoLocalEndpoints::default());
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    check(
        &telemetry,
        &[
            &format!("# TYPE {name} gauge"),
            &format!("{name}{{traffic_policy=\"internal\",ip_family=\"IPv4\"}} 1"),
            &format!("{name}{{traffic_policy=\"external\",ip_family=\"IPv4\"}} 2"),
            &format!("{name}{{traffic_policy=\"internal\",ip_family=\"IPv6\"}} 0"),
        ],
    );
}

/// HZ-11.
#[test]
fn answers_are_counted_by_status() {
    let telemetry = Telemetry::new(PERIOD);
    telemetry.adopted();
    assert!(telemetry.healthz(moment(1)).ok);
    telemetry.node_eligibility(Eligibility::Tainted);
    assert!(!telemetry.healthz(moment(2)).ok);
    assert!(telemetry.livez(moment(3)).ok);
    check(
        &telemetry,
        &[
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1",
            "lb_node_eligible 0",
        ],
    );
}

#[test]
fn a_failed_sync_is_timed_but_leaves_what_waits() {
    let telemetry = Telemetry::new(PERIOD);
    let queued = moment(1000);
    telemetry.change_queued(Family::V6, queued);
    telemetry.sync_failed(Family::V6, SyncKind::Full, Duration::from_millis(1));
    check(
        &telemetry,
        &["kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1"],
    );
    assert!(!telemetry.is_healthy(queued.instant + PERIOD * 3));
    let text = telemetry.metrics().render();
    assert!(!text.contains("last_timestamp_seconds{"), "{text}");
}

/// §1.21: rest_client_*.
#[test]
fn requests_to_the_api_and_broken_watches_are_counted() {
    let telemetry = Telemetry::new(PERIOD);
    let request =
        Request { code: "200".into(), method: "GET".into(), host: "192.0.2.1:6443".into() };
    telemetry.api_request(request, Duration::from_millis(30));
    telemetry.watch_error("services", WatchError::Unauthorized);
    check(
        &telemetry,
        &[
            "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"192.0.2.1:6443\"} 1",
            "rest_client_request_duration_seconds_count{verb=\"GET\",host=\"192.0.2.1:6443\"} 1",
            "lb_watch_errors_total{resource=\"services\",error=\"unauthorized\"} 1",
        ],
    );
}
