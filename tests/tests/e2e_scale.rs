//! Endpoints come and go under clients that never stop.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lb_tests::{
    cluster::{Cluster, Condition, Endpoint, Service},
    lab::{FAMILIES, PATIENCE, Setup, until},
    worker::{MonitorKind, MonitorReport, Outcome, Proto, Running, UdpStyle, Worker},
};

const EVERY: Duration = Duration::from_millis(5);

fn vote() -> Service {
    Service::new("vote", 10).port("http", Proto::Tcp, 80, 8080, Some(30000)).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        Some(30000),
    )
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn start() -> Option<(Cluster, Vec<Endpoint>)> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![3, 2], ..Setup::default() }, &[])?;
    cluster.lab.serve(8080).unwrap();
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&vote(), &endpoints).unwrap();
    Some((cluster, endpoints))
}

struct Flow<'a> {
    client: &'a Worker,
    what: String,
    running: Running,
}

impl<'a> Flow<'a> {
    /// Starts one, and waits for its first answer.
    fn start(client: &'a Worker, kind: MonitorKind, at: SocketAddr) -> Self {
        let running = client.monitor(kind, at, EVERY).unwrap();
        let flow = Self { client, what: format!("client to {at}"), running };
        let _ = flow.wait("answers", |seen| seen.answered > 0);
        flow
    }

    fn wait(&self, what: &str, condition: impl Fn(&MonitorReport) -> bool) -> MonitorReport {
        let seen = until(&format!("{}: {what}", self.what), PATIENCE, || {
            let seen = self.client.peek(self.running)?;
            Ok(condition(&seen).then_some(seen))
        });
        seen.unwrap_or_else(|error| {
            panic!("{error}; it saw {:?}", self.client.peek(self.running).unwrap())
        })
    }

    /// When the client saw a state of this kind for the first time after `since`.
    fn first(&self, since: u64, refused: bool) -> u64 {
        let is = |state: &str| state != "broken" && (state == "refused") == refused;
        let seen = self.wait(if refused { "refused" } else { "answered" }, |seen| {
            seen.transitions.iter().any(|one| one.at_ms >= since && is(&one.state))
        });
        seen.transitions.iter().find(|one| one.at_ms >= since && is(&one.state)).unwrap().at_ms
    }
}

#[test]
fn a_udp_client_that_never_stops_is_refused_while_empty_and_answered_within_a_second_after() {
    let Some((cluster, endpoints)) = start() else { return };
    let lab = &cluster.lab;
    let mut flows = Vec::new();
    for family in FAMILIES {
        let node_port = lab.nodes[0].addresses.at(family, 30000);
        let cluster_ip = vote().addresses.at(family, 80);
        for (client, at) in [
            (&lab.client.worker, node_port),
            (&lab.nodes[0].pods[0].worker, cluster_ip),
            (&lab.nodes[1].pods[0].worker, node_port),
            (&lab.nodes[0].unhooked, cluster_ip),
        ] {
            let ping = MonitorKind::Ping(UdpStyle::Connected);
            let running = client.monitor(ping, at, EVERY).unwrap();
            flows.push(Flow { client, what: format!("{} to {at}", client.name()), running });
        }
    }
    for flow in &flows {
        let _ = flow.wait("answers", |seen| seen.answered >= 20);
    }
    for round in 0..3 {
        // The servers go on: an answer while there are no endpoints would come by a stale flow.
        let emptied = now_ms();
        cluster.directory.put_endpoints(&vote(), &[]).unwrap();
        let mut worst = 0;
        for flow in &flows {
            worst = worst.max(flow.first(emptied, true) - emptied);
        }
        assert!(worst < 1000, "round {round}: refused only after {worst} ms");
        // Let everybody be refused for a while, and by nobody else.
        for flow in &flows {
            let before = flow.client.peek(flow.running).unwrap();
            let after = flow.wait("more refusals", |seen| seen.refused >= before.refused + 20);
            assert_eq!(after.answered, before.answered, "{}: answered while empty", flow.what);
        }
        let filled = now_ms();
        cluster.directory.put_endpoints(&vote(), &endpoints).unwrap();
        let mut slowest = 0;
        for flow in &flows {
            slowest = slowest.max(flow.first(filled, false) - filled);
        }
        println!("refused after {worst} ms, answered after {slowest} ms");
        assert!(slowest < 1000, "round {round}: answered only after {slowest} ms");
        for flow in &flows {
            let before = flow.client.peek(flow.running).unwrap().answered;
            let _ = flow.wait("more answers", |seen| seen.answered >= before + 20);
        }
    }
    for flow in &flows {
        let seen = flow.client.end(flow.running).unwrap();
        assert_eq!((seen.lost, seen.broken.len()), (0, 0), "{}: {seen:?}", flow.what);
    }
}

#[test]
fn an_unconnected_socket_of_a_host_process_follows_the_endpoints() {
    let Some((cluster, endpoints)) = start() else { return };
    let host = &cluster.lab.nodes[0].host;
    for family in FAMILIES {
        let at = vote().addresses.at(family, 80);
        let ping = MonitorKind::Ping(UdpStyle::Unconnected);
        let running = host.monitor(ping, at, EVERY).unwrap();
        let flow = Flow { client: host, what: format!("host to {at}"), running };
        let first = flow.wait("answers", |seen| seen.answered > 0);
        let by = first.by.keys().next().unwrap().clone();
        // Its backend leaves, the others stay: the same socket must get another one.
        let rest: Vec<_> = endpoints.iter().filter(|one| one.name != by).cloned().collect();
        let since = now_ms();
        cluster.put(&vote(), &rest).unwrap();
        let moved = flow.wait("another backend", |seen| {
            seen.transitions.iter().any(|one| one.at_ms >= since && one.state != by)
        });
        assert!(moved.broken.is_empty(), "{moved:?}");
        let emptied = now_ms();
        cluster.put(&vote(), &[]).unwrap();
        let _ = flow.first(emptied, true);
        let filled = now_ms();
        cluster.put(&vote(), &endpoints).unwrap();
        let _ = flow.first(filled, false);
        let _ = host.end(running).unwrap();
    }
}

#[test]
fn a_udp_flow_moves_when_its_backend_leaves_or_its_port_changes() {
    let Some((cluster, endpoints)) = start() else { return };
    let lab = &cluster.lab;
    for pod in lab.pods() {
        pod.serve(9090).unwrap();
    }
    for family in FAMILIES {
        cluster.put(&vote(), &endpoints).unwrap();
        let at = lab.nodes[0].addresses.at(family, 30000);
        let ping = MonitorKind::Ping(UdpStyle::Connected);
        let client = &lab.client.worker;
        let running = client.monitor(ping, at, EVERY).unwrap();
        let flow = Flow { client, what: format!("client to {at}"), running };
        let by = flow.wait("answers", |seen| seen.answered > 0).by.keys().next().unwrap().clone();
        let rest: Vec<_> = endpoints.iter().filter(|one| one.name != by).cloned().collect();
        cluster.put(&vote(), &rest).unwrap();
        let moved = flow.wait("another backend", |seen| seen.last().is_some_and(|one| one != by));
        // The port of every pod changes, the old ports close: the same socket must find the new.
        let mut other = vote();
        other.ports.iter_mut().for_each(|port| port.target = 9090);
        cluster.put(&other, &rest).unwrap();
        for pod in lab.pods() {
            pod.worker.stop(Proto::Udp, pod.addresses.at(family, 8080)).unwrap();
        }
        let _ = flow.wait("answers", |seen| seen.answered >= moved.answered + 50);
        let seen = client.end(running).unwrap();
        assert_eq!((seen.lost, seen.refused, seen.broken.len()), (0, 0, 0), "{seen:?}");
        for pod in lab.pods() {
            pod.worker.serve(Proto::Udp, pod.addresses.at(family, 8080)).unwrap();
        }
    }
}

#[test]
fn a_tcp_connection_stays_with_a_backend_that_leaves() {
    let Some((cluster, endpoints)) = start() else { return };
    let lab = &cluster.lab;
    for family in FAMILIES {
        cluster.put(&vote(), &endpoints).unwrap();
        let at = lab.nodes[0].addresses.at(family, 30000);
        let client = &lab.client.worker;
        let flow = Flow::start(client, MonitorKind::Stream, at);
        for left in [&endpoints[..1], &[]] {
            cluster.put(&vote(), left).unwrap();
            let before = client.peek(flow.running).unwrap().answered;
            let _ = flow.wait("more answers", |seen| seen.answered >= before + 20);
        }
        assert_eq!(client.probe(Proto::Tcp, at).unwrap(), Outcome::Refused);
        let seen = client.end(flow.running).unwrap();
        assert_eq!((seen.lost, seen.broken.len(), seen.by.len()), (0, 0, 1), "{seen:?}");
    }
}

/// SVC-14: established connections of a Service that is deleted live on, new ones find nobody.
#[test]
fn a_tcp_connection_lives_on_when_its_service_is_deleted() {
    let Some((cluster, endpoints)) = start() else { return };
    let lab = &cluster.lab;
    for family in FAMILIES {
        cluster.put(&vote(), &endpoints).unwrap();
        let at = lab.nodes[0].addresses.at(family, 30000);
        let client = &lab.client.worker;
        let flow = Flow::start(client, MonitorKind::Stream, at);
        cluster.directory.delete(&vote()).unwrap();
        until("refusal of new connections", PATIENCE, || {
            Ok((client.probe(Proto::Tcp, at)? == Outcome::Refused).then_some(()))
        })
        .unwrap();
        let before = client.peek(flow.running).unwrap().answered;
        let _ = flow.wait("more answers", |seen| seen.answered >= before + 20);
        let seen = client.end(flow.running).unwrap();
        assert_eq!((seen.lost, seen.broken.len(), seen.by.len()), (0, 0, 1), "{seen:?}");
    }
}

/// SVC-14, CT-7: a client of a deleted Service that never pauses is refused, whatever flow it has.
#[test]
fn a_udp_flow_ends_when_its_service_is_deleted() {
    let Some((cluster, endpoints)) = start() else { return };
    let lab = &cluster.lab;
    for family in FAMILIES {
        cluster.put(&vote(), &endpoints).unwrap();
        let at = lab.nodes[0].addresses.at(family, 30000);
        let client = &lab.client.worker;
        let flow = Flow::start(client, MonitorKind::Ping(UdpStyle::Connected), at);
        cluster.directory.delete(&vote()).unwrap();
        let _ = flow.wait("refused", |seen| seen.last() == Some("refused"));
        let answered = client.end(flow.running).unwrap().answered;
        assert!(answered > 0);
    }
}

#[test]
fn terminating_backends_serve_only_when_none_is_ready() {
    let Some((cluster, endpoints)) = start() else { return };
    let client = &cluster.lab.client.worker;
    let draining = endpoints[0].clone().is(Condition::Draining);
    let at = cluster.lab.nodes[0].addresses.at(FAMILIES[0], 30000);
    let answered_by = |wanted: &str| {
        until(&format!("only {wanted} to answer"), PATIENCE, || {
            let share = client.many(Proto::Tcp, at, 30)?;
            Ok((share.by.len() == 1 && share.by.contains_key(wanted)).then_some(()))
        })
    };
    cluster.put(&vote(), &[draining.clone(), endpoints[1].clone()]).unwrap();
    answered_by(&endpoints[1].name).unwrap();
    let gone = endpoints[1].clone().is(Condition::NotReady);
    cluster.directory.put_endpoints(&vote(), &[draining, gone.clone()]).unwrap();
    answered_by(&endpoints[0].name).unwrap();
    let dead = endpoints[0].clone().is(Condition::Terminated);
    cluster.directory.put_endpoints(&vote(), &[dead, gone]).unwrap();
    until("refusal", PATIENCE, || {
        Ok((client.probe(Proto::Tcp, at)? == Outcome::Refused).then_some(()))
    })
    .unwrap();
}
