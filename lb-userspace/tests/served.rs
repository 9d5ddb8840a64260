//! What the agent serves, over real sockets on loopback addresses: no privilege needed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::Family;
use lb_userspace::telemetry::{
    Eligibility, Moment, SyncKind, Telemetry, endpoints,
    http::Handler,
    listen::{BindFailure, Server},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const PERIOD: Duration = Duration::from_secs(30);
/// Pause between two attempts to get an address.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a loaded machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn server(at: SocketAddr, handler: Arc<Handler>) -> Server {
    let event = "FailedToStartProxierHealthcheck";
    Server { what: "/healthz", event, setting: "--healthz-bind-address", at, handler }
}

/// An address that is free now.
async fn free(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

/// Serves, and waits until it does.
async fn start(at: SocketAddr, handler: Arc<Handler>) {
    let _task = tokio::spawn(server(at, handler).run(PAUSE, None));
    drop(connect(at).await);
}

/// Connects as soon as somebody listens.
async fn connect(at: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(at).await {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{at}: {error}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Status, head and body of what is under a path.
async fn ask(at: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = connect(at).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _read = stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

fn programmed() -> Telemetry {
    let telemetry = Telemetry::new(PERIOD);
    let now = Moment::now();
    for family in [Family::V4, Family::V6] {
        telemetry.sync_done(family, now.instant, now, SyncKind::Full, Duration::from_millis(3));
    }
    telemetry
}

/// HZ-1, HZ-2: one wildcard address serves both families, with the keys that load balancers and
/// tests of Kubernetes look for.
#[tokio::test]
async fn health_is_served_to_both_families() {
    let at = free("0.0.0.0").await;
    start(at, endpoints::health(programmed())).await;
    for ip in ["127.0.0.1", "::1"] {
        let at = SocketAddr::new(ip.parse().unwrap(), at.port());
        let (status, head, body) = ask(at, "/healthz").await;
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("Content-Type: application/json\r\n"), "{head}");
        assert!(head.contains("X-Content-Type-Options: nosniff\r\n"), "{head}");
        let json: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["nodeEligible"], true, "{body}");
        assert_eq!(json["healthy"], true, "{body}");
        assert_eq!(json["lastUpdated"], json["currentTime"], "{body}");
        for family in ["IPv4", "IPv6"] {
            assert_eq!(json["status"][family]["healthy"], true, "{body}");
            assert!(json["status"][family]["lastUpdated"].is_string(), "{body}");
        }
        let (status, _, body) = ask(at, "/livez").await;
        assert_eq!(status, 200);
        assert!(body.contains("lastUpdated") && !body.contains("nodeEligible"), "{body}");
    }
    assert_eq!(ask(at, "/metrics").await.0, 404, "not for the network");
}

/// HZ-3, HZ-7, HZ-8, HZ-11.
#[tokio::test]
async fn a_tainted_node_and_one_that_is_late_answer_503() {
    let telemetry = programmed();
    let at = free("127.0.0.1").await;
    start(at, endpoints::health(telemetry.clone())).await;
    telemetry.node_eligibility(Eligibility::of(false, ["ToBeDeletedByClusterAutoscaler"]));
    let (status, _, body) = ask(at, "/healthz").await;
    assert_eq!(status, 503);
    assert!(body.contains("\"nodeEligible\":false"), "{body}");
    assert_eq!(ask(at, "/livez").await.0, 200);
    telemetry.node_eligibility(Eligibility::Eligible);
    assert_eq!(ask(at, "/healthz").await.0, 200);
    let now = Moment::now();
    let Some(long_ago) = now.instant.checked_sub(PERIOD * 2 + Duration::from_secs(1)) else {
        println!("SKIPPED: this machine was started a minute ago: no instant lies before that");
        return;
    };
    telemetry.change_queued(Family::V6, Moment { instant: long_ago, ..now });
    assert_eq!(ask(at, "/healthz").await.0, 503);
    assert_eq!(ask(at, "/livez").await.0, 503);
    let text = telemetry.metrics().render();
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"503\"} 2",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_livez_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 1",
    ] {
        assert!(text.lines().any(|other| other == line), "no {line} in {text}");
    }
}

/// HZ-1.
#[tokio::test]
async fn an_address_that_is_taken_is_served_once_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let task = tokio::spawn(server(at, endpoints::health(programmed())).run(PAUSE, None));
    // Several attempts fail meanwhile.
    assert!(tokio::time::timeout(PAUSE * 5, taken.accept()).await.is_err());
    assert!(!task.is_finished());
    drop(taken);
    assert_eq!(ask(at, "/healthz").await.0, 200);
}

/// HZ-1: `--bind-address-hard-fail`.
#[tokio::test]
async fn an_address_that_is_taken_can_be_fatal() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    server(at, endpoints::health(programmed())).run(PAUSE, Some(sender)).await;
    let failure: BindFailure = receiver.recv().await.unwrap();
    assert_eq!(failure.event, "FailedToStartProxierHealthcheck");
    let text = failure.to_string();
    assert!(text.contains("/healthz") && text.contains("--healthz-bind-address"), "{text}");
}

/// HZ-12.
#[tokio::test]
async fn the_paths_of_the_metrics_port_are_those_of_kube_proxy() {
    let at = free("127.0.0.1").await;
    let configuration = r#"{"lb":{"nodeName":"worker-1"}}"#;
    start(at, endpoints::metrics(programmed(), configuration.to_owned())).await;
    let (status, head, body) = ask(at, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    for line in [
        "# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_total counter",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(body.lines().any(|other| other == line), "no {line} in {body}");
    }
    let (status, _, body) = ask(at, "/healthz").await;
    assert_eq!((status, body.as_str()), (200, "ok"));
    let (_, _, body) = ask(at, "/metrics/slis").await;
    let ping = "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1";
    assert!(body.lines().any(|line| line == ping), "{body}");
    let (status, _, body) = ask(at, "/proxyMode").await;
    assert_eq!((status, body.as_str()), (200, "ebpf"));
    let (status, head, body) = ask(at, "/configz").await;
    assert_eq!((status, body.as_str()), (200, configuration));
    assert!(head.contains("application/json"), "{head}");
    for path in ["/debug/pprof/", "/debug/flags/v", "/flagz", "/statusz", "/"] {
        assert_eq!(ask(at, path).await.0, 404, "{path}");
    }
}
