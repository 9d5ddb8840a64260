//! One client, from one port, reaches one pod first one way and then another: what the first way left in
//! the flow tables of either node does not swallow the answers of the second.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Addresses, FAMILIES, Family, Setup},
    worker::{Outcome, Proto, Shot, UdpStyle, Worker},
};

const PROTOS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Sctp];
const NODE_PORT: u16 = 30060;

/// Who asks. The processes of the node share its address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Client {
    Pod,
    Host,
    Unhooked,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum To {
    /// Translated on node 1, by packet or by socket.
    ClusterIp,
    /// Translated on node 1.
    NodePort,
    /// Translated on node 2, which leaves the client its address where the pod is its own.
    OtherNodePort,
    /// Not translated.
    Itself,
}

type Way = (Client, To);

const POD: [Way; 4] = [
    (Client::Pod, To::ClusterIp),
    (Client::Pod, To::NodePort),
    (Client::Pod, To::OtherNodePort),
    (Client::Pod, To::Itself),
];

const NODE: [Way; 6] = [
    (Client::Host, To::ClusterIp),
    (Client::Unhooked, To::ClusterIp),
    (Client::Host, To::NodePort),
    (Client::Unhooked, To::NodePort),
    (Client::Unhooked, To::OtherNodePort),
    (Client::Unhooked, To::Itself),
];

/// Two ways, by a port that no other case has.
#[derive(Clone, Copy, Debug)]
struct Case {
    ways: [Way; 2],
    proto: Proto,
    family: Family,
    port: u16,
}

/// All of them, with ports from `base` on.
fn cases(base: u16) -> Vec<Case> {
    let mut cases = Vec::new();
    let pairs = |ways: &'static [Way]| {
        ways.iter().flat_map(move |first| ways.iter().map(move |second| [*first, *second]))
    };
    for ways in pairs(&POD).chain(pairs(&NODE)).filter(|[first, second]| first != second) {
        for proto in PROTOS {
            for family in FAMILIES {
                let port = base + u16::try_from(cases.len()).unwrap();
                cases.push(Case { ways, proto, family, port });
            }
        }
    }
    cases
}

struct Scene<'a> {
    cluster: &'a Cluster,
    service: Service,
    backend: Endpoint,
}

impl Scene<'_> {
    fn client(&self, client: Client) -> (&Worker, Addresses) {
        let node = &self.cluster.lab.nodes[0];
        match client {
            Client::Pod => (&node.pods[0].worker, node.pods[0].addresses),
            Client::Host => (&node.host, node.addresses),
            Client::Unhooked => (&node.unhooked, node.addresses),
        }
    }

    fn shot(&self, case: &Case, (client, to): Way) -> Shot {
        let nodes = &self.cluster.lab.nodes;
        let family = case.family;
        let from = SocketAddr::new(self.client(client).1.ip(family), case.port);
        let to = match to {
            To::ClusterIp => self.service.addresses.at(family, 80),
            To::NodePort => nodes[0].addresses.at(family, NODE_PORT),
            To::OtherNodePort => nodes[1].addresses.at(family, NODE_PORT),
            To::Itself => self.backend.addresses.at(family, 8080),
        };
        let style = UdpStyle::Connected;
        Shot { proto: case.proto, style, to, from: Some(from), timeout_ms: 3000 }
    }

    /// Asks by one of the two ways of each case; what came of it, in the order of the cases.
    fn ask(&self, cases: &[Case], way: usize) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Timeout; cases.len()];
        for client in [Client::Pod, Client::Host, Client::Unhooked] {
            let theirs: Vec<usize> =
                (0..cases.len()).filter(|at| cases[*at].ways[way].0 == client).collect();
            let shots =
                theirs.iter().map(|at| self.shot(&cases[*at], cases[*at].ways[way])).collect();
            let got = self.client(client).0.each(shots, 32).unwrap();
            for (at, outcome) in theirs.into_iter().zip(got) {
                outcomes[at] = outcome;
            }
        }
        outcomes
    }

    /// Asks until all are answered by the backend. Returns those that are not, with what came last.
    fn unanswered(&self, cases: &[Case], way: usize, patience: Duration) -> Vec<(Case, Outcome)> {
        let deadline = Instant::now() + patience;
        let mut left: Vec<Case> = cases.to_vec();
        loop {
            let outcomes = self.ask(&left, way);
            let wrong: Vec<_> = left
                .into_iter()
                .zip(outcomes)
                .filter(|(_, outcome)| outcome.by() != Some(&self.backend.name))
                .collect();
            if wrong.is_empty() || Instant::now() >= deadline {
                return wrong;
            }
            left = wrong.into_iter().map(|(case, _)| case).collect();
        }
    }
}

/// Every pair of ways to a backend on the client's node and to one on the other. What opens a connection is
/// answered at once; a datagram once the first way's flow was left alone for a moment.
#[test]
fn what_one_way_to_a_pod_left_does_not_swallow_the_answers_of_another() {
    let Some(cluster) = Cluster::start_or_skip(Setup::default(), &["--xdp=off"]) else { return };
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    let mut service = Service::new("ways", 60);
    for proto in PROTOS {
        let name = proto.name().to_lowercase();
        service = service.port(&name, proto, 80, 8080, Some(NODE_PORT));
    }
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    for (pod, base) in [(&one.pods[1], 20000), (&two.pods[0], 21000)] {
        let backend = Endpoint::pod(pod);
        cluster.put(&service, std::slice::from_ref(&backend)).unwrap();
        let scene = Scene { cluster: &cluster, service: service.clone(), backend };
        let cases = cases(base);
        let first = scene.unanswered(&cases, 0, Duration::ZERO);
        assert!(first.is_empty(), "the first way: {first:#?}");
        let (datagrams, connections): (Vec<_>, Vec<_>) =
            cases.into_iter().partition(|case| case.proto == Proto::Udp);
        let wrong = scene.unanswered(&connections, 1, Duration::ZERO);
        assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), connections.len());
        let wrong = scene.unanswered(&datagrams, 1, Duration::from_secs(15));
        assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), datagrams.len());
    }
}
