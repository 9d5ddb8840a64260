//! How many clients are remembered, by whom, and for how long.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Cidr, FAMILIES, Family, PATIENCE, Setup, until},
    worker::{Proto, UdpStyle, Worker},
};

/// As many as a list of iptables' remembers, five times.
const CLIENTS: u16 = 500;

fn address(family: Family, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::V4 => [10, 9, high, low].into(),
        Family::V6 => [0xfd09, 0, 0, 0, 0, 0, 0, number].into(),
    }
}

/// A cluster with a Service that knows its clients again, and a client with many addresses.
fn start() -> Option<Cluster> {
    let setup = Setup { pods: vec![3, 3], ..Setup::default() };
    let cluster = Cluster::start_or_skip(setup, &[])?;
    cluster.lab.serve(8080).unwrap();
    let web =
        Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080)).affinity(10_800);
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web, &endpoints).unwrap();
    let client = &cluster.lab.client;
    for family in FAMILIES {
        for number in 1..=CLIENTS {
            let ip = Cidr::host(address(family, number));
            client.netns.netlink().add_address("eth0", ip).unwrap();
        }
        let network = Cidr(address(family, 0), if family == Family::V4 { 16 } else { 64 });
        for node in &cluster.lab.nodes {
            let by = Some(client.addresses.ip(family));
            node.netns.netlink().add_route(network, by, "eth0").unwrap();
        }
    }
    Some(cluster)
}

/// Who answers each of the first clients at a node.
fn answers(cluster: &Cluster, node: usize, family: Family, clients: u16) -> BTreeMap<u16, String> {
    let at = cluster.lab.nodes[node].addresses.at(family, 30080);
    let ask = |number: u16| {
        let from = Some(SocketAddr::new(address(family, number), 0));
        let patience = Duration::from_secs(10);
        let client = &cluster.lab.client.worker;
        let outcome =
            client.probe_with(Proto::Tcp, UdpStyle::Connected, at, from, patience).unwrap();
        let by = outcome.by().unwrap_or_else(|| panic!("{from:?} at {at}: {outcome}"));
        (number, by.to_owned())
    };
    (1..=clients).map(ask).collect()
}

/// AFF-9: five times as many clients as iptables remembers keep their backends, and the number that is
/// remembered is told beside what there is room for.
#[test]
fn hundreds_of_clients_keep_their_backends_and_are_counted() {
    let Some(cluster) = start() else { return };
    for family in FAMILIES {
        let first = answers(&cluster, 0, family, CLIENTS);
        let backends: BTreeSet<&String> = first.values().collect();
        assert_eq!(backends.len(), 6, "all backends have clients: {backends:?}");
        assert_eq!(answers(&cluster, 0, family, CLIENTS), first, "{family}");
        let map = if family == Family::V4 { "LB4_AFFINITY" } else { "LB6_AFFINITY" };
        until(&format!("{map} to hold the clients"), PATIENCE, || {
            let status = cluster.agents[0].status()?;
            let maps = status["maps"].as_array().cloned().unwrap_or_default();
            let map = maps.into_iter().find(|one| one["map"] == map);
            let held = map.is_some_and(|map| {
                let number = |field: &str| map[field].as_u64().unwrap_or(0);
                let used = number("used");
                used >= u64::from(CLIENTS) && used < number("capacity")
            });
            Ok(held.then_some(()))
        })
        .unwrap();
    }
}

/// AFF-3: a client that comes by another node is a stranger there.
#[test]
fn each_node_remembers_its_own_clients() {
    let Some(cluster) = start() else { return };
    for family in FAMILIES {
        let by_node: Vec<_> = (0..2).map(|node| answers(&cluster, node, family, 40)).collect();
        assert_ne!(by_node[0], by_node[1], "{family}: forty choices among six, twice the same");
        for (node, first) in by_node.iter().enumerate() {
            assert_eq!(answers(&cluster, node, family, 40), *first, "{family} at node {node}");
        }
    }
}

/// Who asks for what, and what it had so far.
struct Asker<'a> {
    client: &'a Worker,
    proto: Proto,
    at: SocketAddr,
    /// Who answered last, and when it was asked.
    last: Option<(String, Instant)>,
    /// Since when it never waited for longer than the time.
    since: Instant,
}

impl Asker<'_> {
    fn ask(&self) -> String {
        let wait = Duration::from_secs(10);
        let (client, proto, at) = (self.client, self.proto, self.at);
        let got = client.probe_with(proto, UdpStyle::Connected, at, None, wait).unwrap();
        let by = got.by().unwrap_or_else(|| panic!("{} by {proto} to {at}: {got}", client.name()));
        by.to_owned()
    }

    /// Asks once more. Whoever was not late gets whom it had.
    fn ask_in_time(&mut self, seconds: Duration) {
        let began = Instant::now();
        let by = self.ask();
        match &self.last {
            Some((had, asked)) if asked.elapsed() < seconds => {
                let Self { client, proto, at, .. } = self;
                let after = asked.elapsed();
                assert_eq!(by, *had, "{} by {proto} to {at} after {after:?}", client.name());
            }
            // The first time, or the machine was busy with other things.
            _ => self.since = began,
        }
        self.last = Some((by, began));
    }
}

/// AFF-2: whoever comes back in time keeps its backend, for longer than the time; whoever does not is a
/// stranger. So for clients outside, pods and processes of the node.
#[test]
fn a_client_that_stays_away_for_longer_than_the_time_is_a_stranger() {
    const SECONDS: u32 = 2;
    let setup = Setup { pods: vec![3, 3], ..Setup::default() };
    let Some(cluster) = Cluster::start_or_skip(setup, &[]) else { return };
    cluster.lab.serve(8080).unwrap();
    let web = Service::new("web", 20)
        .port("tcp", Proto::Tcp, 80, 8080, Some(30080))
        .port("udp", Proto::Udp, 80, 8080, Some(30080))
        .affinity(SECONDS);
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web, &endpoints).unwrap();
    let node = &cluster.lab.nodes[0];
    let mut askers = Vec::new();
    for family in FAMILIES {
        let (node_port, vip) = (node.addresses.at(family, 30080), web.addresses.at(family, 80));
        let outside = &cluster.lab.client.worker;
        for (client, at) in [(outside, node_port), (&node.pods[0].worker, vip), (&node.host, vip)] {
            for proto in [Proto::Tcp, Proto::Udp] {
                askers.push(Asker { client, proto, at, last: None, since: Instant::now() });
            }
        }
    }
    let seconds = Duration::from_secs(SECONDS.into());
    until("everybody to come back in time for twice the time", 2 * PATIENCE, || {
        askers.iter_mut().for_each(|asker| asker.ask_in_time(seconds));
        Ok(askers.iter().all(|asker| asker.since.elapsed() > 2 * seconds).then_some(()))
    })
    .unwrap();
    // Each stranger has five of six others.
    for _ in 0..20 {
        until("all entries to be over or gone", PATIENCE, || {
            let dump = cluster.agents[0].commands.json(&["dump"])?;
            let entries = dump["affinity"].as_array().cloned().unwrap_or_default();
            let over = |age: Option<u64>| age.is_some_and(|age| age > SECONDS.into());
            Ok(entries.iter().all(|entry| over(entry["age"].as_u64())).then_some(()))
        })
        .unwrap();
        askers.retain(|asker| asker.last.as_ref().is_some_and(|(had, _)| asker.ask() == *had));
        if askers.is_empty() {
            return;
        }
    }
    let kept = askers.iter().map(|a| format!("{} by {} to {}", a.client.name(), a.proto, a.at));
    panic!("they keep a backend for ever: {:?}", kept.collect::<Vec<_>>());
}
