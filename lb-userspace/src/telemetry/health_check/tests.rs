//! Servers on loopback addresses, asked over real connections.

use std::{sync::atomic::AtomicU16, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::telemetry::Moment;

const PERIOD: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(30);

fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
}

/// A port of this test alone, out of those that the kernel gives to nobody unasked.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        if std::net::TcpListener::bind(any).is_ok() {
            return port;
        }
    }
}

/// What the model says, with an owner of the name.
struct Said(ObjectName, u16, Option<u32>, Option<u32>);

fn check(name: &str, port: u16, v4: Option<u32>, v6: Option<u32>) -> Said {
    Said(ObjectName::new("shop", name), port, v4, v6)
}

async fn follow(checks: &mut HealthChecks, said: &[Said], places: &Places) {
    let said = said.iter().map(|Said(service, port, v4, v6)| HealthCheck {
        service,
        port: *port,
        v4: *v4,
        v6: *v6,
    });
    checks.follow(said, places).await;
}

fn loopback() -> Places {
    Places {
        v4: Place::At([Ipv4Addr::LOCALHOST.into()].into()),
        v6: Place::At([Ipv6Addr::LOCALHOST.into()].into()),
    }
}

fn everywhere() -> Places {
    Places { v4: Place::Everywhere, v6: Place::Everywhere }
}

fn checks() -> HealthChecks {
    HealthChecks::new(Telemetry::new(PERIOD))
}

/// The whole answer to this request, or why there is none.
async fn ask(at: impl Into<IpAddr>, port: u16, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::new(at.into(), port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let _length = stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn status(at: impl Into<IpAddr>, port: u16) -> Option<u16> {
    let answer = ask(at, port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

const V4: Ipv4Addr = Ipv4Addr::LOCALHOST;
const V6: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// HC-3, HC-6, HC-7: whatever the path and the method.
#[test]
fn any_path_and_any_method_gets_the_answer() {
    run(async {
        let (mut checks, port) = (checks(), free_port());
        follow(&mut checks, &[check("vote", port, Some(2), None)], &loopback()).await;
        for request in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /healthz?a=b HTTP/1.0\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
            "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            let answer = ask(V4, port, request).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{request}: {answer}");
            for header in [
                "Content-Type: application/json",
                "X-Content-Type-Options: nosniff",
                "X-Load-Balancing-Endpoint-Weight: 2",
            ] {
                assert!(head.lines().any(|line| line == header), "{request}: {answer}");
            }
            assert!(body.contains("\"localEndpoints\": 2"), "{request}: {answer}");
        }
        let answer = ask(V4, port, "hello\r\n\r\n").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    });
}

/// HC-4, HC-8: the number of endpoints is followed, and a node whose programming is stuck fails.
#[test]
fn a_node_without_endpoints_or_with_programming_stuck_answers_503() {
    run(async {
        let telemetry = Telemetry::new(PERIOD);
        let (mut checks, port) = (HealthChecks::new(telemetry.clone()), free_port());
        for (count, expected) in [(1, 200), (0, 503), (3, 200)] {
            follow(&mut checks, &[check("vote", port, Some(count), None)], &loopback()).await;
            assert_eq!(status(V4, port).await, Some(expected), "{count} endpoints");
        }
        let stuck = Moment::now().instant.checked_sub(PERIOD * 3).unwrap();
        telemetry.change_queued(Family::V4, Moment { instant: stuck, ..Moment::now() });
        let answer = ask(V4, port, "GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.contains("X-Load-Balancing-Endpoint-Weight: 3\r\n"), "{answer}");
        assert!(answer.ends_with("\"serviceProxyHealthy\": false\n}"), "{answer}");
        let now = Moment::now();
        telemetry.sync_done(
            Family::V4,
            now.instant,
            now,
            crate::telemetry::SyncKind::Full,
            Duration::ZERO,
        );
        assert_eq!(status(V4, port).await, Some(200));
    });
}

/// HC-13: that the node is to be deleted is told by /healthz alone.
#[test]
fn the_fate_of_the_node_is_not_told() {
    run(async {
        let telemetry = Telemetry::new(PERIOD);
        telemetry.adopted();
        let (mut checks, port) = (HealthChecks::new(telemetry.clone()), free_port());
        follow(&mut checks, &[check("vote", port, Some(1), None)], &loopback()).await;
        telemetry.node_eligibility(crate::telemetry::Eligibility::Tainted);
        assert!(!telemetry.healthz(Moment::now()).ok);
        assert_eq!(status(V4, port).await, Some(200));
    });
}

/// HC-2: a family that the Service has not is not served, nor one that has no address for it.
#[test]
fn each_family_is_served_by_itself() {
    run(async {
        for places in [loopback(), everywhere()] {
            let (mut checks, port) = (checks(), free_port());
            follow(&mut checks, &[check("vote", port, Some(1), None)], &places).await;
            assert_eq!(status(V4, port).await, Some(200));
            assert_eq!(status(V6, port).await, None);
            follow(&mut checks, &[check("vote", port, None, Some(0))], &places).await;
            assert_eq!(status(V4, port).await, None);
            assert_eq!(status(V6, port).await, Some(503));
            follow(&mut checks, &[check("vote", port, Some(1), Some(0))], &places).await;
            assert_eq!(status(V4, port).await, Some(200));
            assert_eq!(status(V6, port).await, Some(503));
            follow(&mut checks, &[check("vote", port, Some(1), Some(1))], &Places::default()).await;
            assert_eq!((status(V4, port).await, status(V6, port).await), (None, None));
        }
    });
}

/// HC-2, D3: other addresses are followed at run time.
#[test]
fn the_addresses_are_followed() {
    run(async {
        let (mut checks, port) = (checks(), free_port());
        let other = Ipv4Addr::new(127, 0, 0, 2);
        let at = |ips: &[Ipv4Addr]| Places {
            v4: Place::At(ips.iter().copied().map(IpAddr::from).collect()),
            v6: Place::default(),
        };
        let one = || [check("vote", port, Some(1), None)];
        follow(&mut checks, &one(), &at(&[V4])).await;
        assert_eq!((status(V4, port).await, status(other, port).await), (Some(200), None));
        follow(&mut checks, &one(), &at(&[V4, other])).await;
        assert_eq!((status(V4, port).await, status(other, port).await), (Some(200), Some(200)));
        follow(&mut checks, &one(), &at(&[other])).await;
        assert_eq!((status(V4, port).await, status(other, port).await), (None, Some(200)));
        follow(&mut checks, &one(), &everywhere()).await;
        assert_eq!((status(V4, port).await, status(other, port).await), (Some(200), Some(200)));
        assert_eq!(checks.served(), 1);
    });
}

/// HC-9, HC-11: what ends is closed when the call returns, connections too, and two Services may
/// change their ports with each other.
#[test]
fn what_ends_is_closed_at_once() {
    run(async {
        let mut checks = checks();
        let (one, two) = (free_port(), free_port());
        let both = |one: u16, two: u16| {
            [check("vote", one, Some(1), None), check("shop", two, Some(0), None)]
        };
        follow(&mut checks, &both(one, two), &loopback()).await;
        let mut waiting = TcpStream::connect((V4, one)).await.unwrap();
        follow(&mut checks, &both(two, one), &loopback()).await;
        assert_eq!((status(V4, one).await, status(V4, two).await), (Some(503), Some(200)));
        let mut answer = Vec::new();
        // The end of the connection, in whichever way.
        let _sent = waiting.write_all(b"GET / HTTP/1.1\r\n\r\n").await.is_ok();
        let _end = waiting.read_to_end(&mut answer).await.is_ok();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        follow(&mut checks, &[], &loopback()).await;
        assert_eq!((status(V4, one).await, status(V4, two).await), (None, None));
    });
}

/// HC-11: who is asked while it ends has nothing to offer.
#[test]
fn a_check_that_ends_tells_of_no_endpoints() {
    run(async {
        let (mut checks, port) = (checks(), free_port());
        follow(&mut checks, &[check("vote", port, Some(1), None)], &loopback()).await;
        let told = Arc::clone(&checks.open.values().next().unwrap().local);
        follow(&mut checks, &[], &loopback()).await;
        assert_eq!(told.load(Ordering::Relaxed), 0);
    });
}

/// HC-10: a port that is taken is told, and served once it is free.
#[test]
fn a_port_that_is_taken_is_tried_again() {
    run(async {
        let mut checks = checks();
        let occupant = TcpListener::bind((V4, free_port())).await.unwrap();
        let at = occupant.local_addr().unwrap();
        let wanted = || [check("vote", at.port(), Some(1), Some(1))];
        for _ in 0..2 {
            follow(&mut checks, &wanted(), &loopback()).await;
            let failures: Vec<_> = checks.failures().cloned().collect();
            assert_eq!(failures.len(), 1, "{failures:?}");
            assert_eq!(failures[0].at, at);
            assert!(failures[0].error.contains("in use"), "{failures:?}");
            assert_eq!(status(V6, at.port()).await, Some(200), "the other family works");
        }
        drop(occupant);
        follow(&mut checks, &wanted(), &loopback()).await;
        assert_eq!(checks.failures().count(), 0);
        assert_eq!(status(V4, at.port()).await, Some(200));
    });
}

/// HC-2, NP-20: with all addresses every one that comes; else those that serve node ports now, and
/// none of a family that has none.
#[test]
fn they_listen_where_node_ports_are_served() {
    let places = |words: &str, node_port: &[&str]| {
        let selectors: Vec<Selector> = words.split(',').map(|w| w.parse().unwrap()).collect();
        let node_port: Vec<IpAddr> = node_port.iter().map(|ip| ip.parse().unwrap()).collect();
        Places::of(&selectors, &node_port)
    };
    let at = |ips: &[&str]| Place::At(ips.iter().map(|ip| ip.parse().unwrap()).collect());
    assert_eq!(places("all", &["192.0.2.1", "127.0.0.1", "::1"]), everywhere());
    let primary = places("primary", &["192.0.2.1"]);
    assert_eq!(primary, Places { v4: at(&["192.0.2.1"]), v6: at(&[]) });
    let mixed = places("0.0.0.0/0,localhost", &["192.0.2.1", "127.0.0.1", "::1"]);
    assert_eq!(mixed, Places { v4: Place::Everywhere, v6: at(&["::1"]) });
}
