//! Attempts to get round a load balancer's source ranges, and to take addresses by external IPs: each with
//! its outcome.
//!
//! SR-1 to SR-10, EIP-3, EIP-5 to EIP-7, SVC-17.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

mod addresses;

use std::{net::SocketAddr, thread, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Addresses, FAMILIES, Setup, external_address, load_balancer_address},
    worker::{Outcome, Proto, UdpStyle, Worker},
};

/// What must come of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Want {
    /// A backend answers.
    Served,
    /// Nothing comes back.
    Dropped,
    /// No backend answers; who else may, and how, is not the Service's.
    Untouched,
    /// Refused at once.
    Refused,
}

/// A way of asking.
#[derive(Clone, Copy, Debug)]
struct Way(Proto, UdpStyle);

const TCP: Way = Way(Proto::Tcp, UdpStyle::Connected);
const UDP: Way = Way(Proto::Udp, UdpStyle::Connected);
const SENDTO: Way = Way(Proto::Udp, UdpStyle::Unconnected);
const FRAGMENTS: Way = Way(Proto::Udp, UdpStyle::Fragmented);
const OPTIONS: Way = Way(Proto::Udp, UdpStyle::Options);
const PLAIN: [Way; 3] = [TCP, UDP, SENDTO];

/// A network that no machine of the lab is in.
const NOBODY: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/48"];

fn web(number: u8) -> Service {
    let node_port = Some(30000 + u16::from(number));
    Service::new("web", number).exposed(number).port("tcp", Proto::Tcp, 80, 8080, node_port).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        node_port,
    )
}

fn start(flags: &[&str]) -> Option<Cluster> {
    let setup = Setup { pods: vec![2, 1], ..Setup::default() };
    let cluster = Cluster::start_or_skip(setup, flags)?;
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    Some(cluster)
}

fn endpoints(cluster: &Cluster) -> Vec<Endpoint> {
    // Both nodes, but not the pod that asks.
    [&cluster.lab.nodes[0].pods[1], &cluster.lab.nodes[1].pods[0]].map(Endpoint::pod).into()
}

/// Who tries, and with which address.
fn clients(cluster: &Cluster) -> [(&'static str, &Worker, Addresses); 4] {
    let node = &cluster.lab.nodes[0];
    [
        ("pod", &node.pods[0].worker, node.pods[0].addresses),
        ("host process", &node.host, node.addresses),
        ("host process without socket hooks", &node.unhooked, node.addresses),
        ("outside", &cluster.lab.client.worker, cluster.lab.client.addresses),
    ]
}

#[derive(Default)]
struct Attempts {
    count: u32,
    wrong: String,
}

impl Attempts {
    fn attempt(&mut self, what: &str, by: &Worker, way: Way, at: SocketAddr, want: Want) {
        let Way(proto, style) = way;
        let wait = if want == Want::Served { 3000 } else { 500 };
        let got = by.probe_with(proto, style, at, None, Duration::from_millis(wait)).unwrap();
        let right = match want {
            Want::Served => got.by().is_some(),
            Want::Dropped => got == Outcome::Timeout,
            Want::Untouched => got.by().is_none_or(|by| !by.starts_with("pod")),
            Want::Refused => got == Outcome::Refused,
        };
        self.count += 1;
        println!("{what}, {way:?} to {at}: {got}");
        if !right {
            self.wrong += &format!("{what}, {way:?} to {at}: {got}; wanted {want:?}\n");
        }
    }

    fn end(self) {
        assert!(
            self.wrong.is_empty(),
            "of {} attempts these went wrong:\n{}",
            self.count,
            self.wrong
        );
    }
}

/// SR-1, SR-2, SR-3, SR-9: whoever is outside the ranges is dropped at the load balancer's address, by every
/// hook and in every shape of packet; no other address of the Service is guarded.
#[test]
fn source_ranges_hold_at_every_hook_and_against_every_shape_of_packet() {
    for flags in [&["--xdp=off"][..], &["--xdp=generic"]] {
        let Some(cluster) = start(flags) else { return };
        let service = web(1).from_ranges(NOBODY);
        cluster.put(&service, &endpoints(&cluster)).unwrap();
        thread::scope(|threads| {
            for (who, by, _) in clients(&cluster) {
                let (cluster, service) = (&cluster, &service);
                let _trying = threads.spawn(move || attempts_of(who, by, cluster, service).end());
            }
        });
    }
}

/// Everything that one client tries against a Service that nobody may use.
fn attempts_of(who: &str, by: &Worker, cluster: &Cluster, service: &Service) -> Attempts {
    let mut tried = Attempts::default();
    for family in FAMILIES {
        let vip = load_balancer_address(1).at(family, 80);
        let node_port = cluster.lab.nodes[0].addresses.at(family, 30001);
        for way in PLAIN {
            tried.attempt(who, by, way, vip, Want::Dropped);
            // SR-1, NP-15, EIP-3: nothing but the load balancer's address is guarded.
            tried.attempt(who, by, way, service.addresses.at(family, 80), Want::Served);
            tried.attempt(who, by, way, external_address(1).at(family, 80), Want::Served);
            tried.attempt(who, by, way, node_port, Want::Served);
        }
        // What cannot be looked into is not translated, so it reaches no backend.
        tried.attempt(who, by, FRAGMENTS, vip, Want::Untouched);
        tried.attempt(who, by, OPTIONS, vip, Want::Untouched);
        // Another port of the address is nobody's.
        tried.attempt(who, by, TCP, SocketAddr::new(vip.ip(), 81), Want::Untouched);
    }
    tried
}

/// SR-1, SR-2, SR-4: each client alone in the ranges is served, and the others are not.
#[test]
fn a_range_lets_in_whom_it_holds_and_nobody_else() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let mut tried = Attempts::default();
    for (inside, _, addresses) in clients(&cluster) {
        let ranges = [format!("{}/32", addresses.v4), format!("{}/128", addresses.v6)];
        cluster.put(&web(1).from_ranges(ranges), &endpoints(&cluster)).unwrap();
        for family in FAMILIES {
            let vip = load_balancer_address(1).at(family, 80);
            for (who, by, other) in clients(&cluster) {
                // A node's processes have its address, however their packets come to us.
                let want = if other == addresses { Want::Served } else { Want::Dropped };
                let what = format!("{who} where {inside} is let in");
                for way in PLAIN {
                    tried.attempt(&what, by, way, vip, want);
                }
            }
        }
    }
    tried.end();
}

/// SR-4, SR-5, SR-7, SR-8, SR-10: what a list means for each family.
#[test]
fn lists_of_ranges_mean_what_they_say() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let [v4, v6] = NOBODY;
    let both = [Want::Dropped, Want::Dropped];
    let mut tried = Attempts::default();
    for (ranges, wants) in [
        (vec![v4, v6], both),
        // A /0 voids the list of its family.
        (vec![v4, "0.0.0.0/0", v6], [Want::Served, Want::Dropped]),
        (vec![v4, v6, "::/0"], [Want::Dropped, Want::Served]),
        // Only one family is spoken of: the other is open.
        (vec![v4], [Want::Dropped, Want::Served]),
        (vec![v6], [Want::Served, Want::Dropped]),
        // Spaces are nothing; what is no range is left out.
        (vec![" 198.51.100.0/24 ", v6], both),
        (vec!["garbage", v4, v6], both),
        // Where nothing of the list can be used, nobody is let in.
        (vec!["garbage"], both),
        (vec![], [Want::Served, Want::Served]),
    ] {
        let service = web(1).from_ranges(ranges.clone());
        cluster.put(&service, &endpoints(&cluster)).unwrap();
        for (family, want) in FAMILIES.into_iter().zip(wants) {
            let vip = load_balancer_address(1).at(family, 80);
            let client = &cluster.lab.client.worker;
            let what = format!("outside with ranges {ranges:?}");
            tried.attempt(&what, client, TCP, vip, want);
            tried.attempt(&what, client, UDP, vip, want);
        }
    }
    tried.end();
}

/// SR-7: without any endpoint those outside the ranges are dropped and those inside refused.
#[test]
fn ranges_come_before_the_want_of_endpoints() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let pod = cluster.lab.nodes[0].pods[0].addresses;
    let ranges = [format!("{}/32", pod.v4), format!("{}/128", pod.v6)];
    cluster.put(&web(1).from_ranges(ranges), &[]).unwrap();
    let mut tried = Attempts::default();
    for family in FAMILIES {
        let vip = load_balancer_address(1).at(family, 80);
        for (who, by, addresses) in clients(&cluster) {
            let want = if addresses == pod { Want::Refused } else { Want::Dropped };
            for way in [TCP, UDP] {
                tried.attempt(who, by, way, vip, want);
            }
        }
    }
    tried.end();
}

/// An address that is external IP and load balancer's address of one Service is guarded; an external IP of
/// another, younger Service cannot take it either.
#[test]
fn an_external_ip_opens_no_guarded_address() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let guarded = Service {
        external_ips: load_balancer_address(1).both().into(),
        ..web(1).from_ranges(NOBODY)
    };
    cluster.put(&guarded, &endpoints(&cluster)).unwrap();
    let thief = Service::new("zz-thief", 2).external(load_balancer_address(1)).port(
        "tcp",
        Proto::Tcp,
        80,
        8080,
        None,
    );
    cluster.put(&thief, &endpoints(&cluster)).unwrap();
    let mut tried = Attempts::default();
    for family in FAMILIES {
        let vip = load_balancer_address(1).at(family, 80);
        for (who, by, _) in clients(&cluster) {
            tried.attempt(who, by, TCP, vip, Want::Dropped);
            tried.attempt(who, by, UDP, vip, Want::Dropped);
        }
    }
    tried.end();
}

/// SR-6, LB-7: a load balancer's address that stands on the node itself is the source of the node's own
/// requests to it; a range that holds the node lets them in.
#[test]
fn a_node_in_the_ranges_may_use_the_address_that_it_has_itself() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let node = &cluster.lab.nodes[0];
    for (ip, length) in load_balancer_address(1).both().into_iter().zip([32, 128]) {
        node.netns.netlink().add_address("lo", lb_tests::lab::Cidr(ip, length)).unwrap();
    }
    let mut tried = Attempts::default();
    let own = node.addresses;
    let ranges = [format!("{}/32", own.v4), format!("{}/128", own.v6)];
    for (ranges, want) in
        [(ranges.to_vec(), Want::Served), (NOBODY.map(str::to_owned).to_vec(), Want::Dropped)]
    {
        cluster.put(&web(1).from_ranges(ranges.clone()), &endpoints(&cluster)).unwrap();
        for family in FAMILIES {
            let vip = load_balancer_address(1).at(family, 80);
            for (who, by) in [("host process", &node.host), ("unhooked", &node.unhooked)] {
                let what = format!("{who} with ranges {ranges:?}");
                tried.attempt(&what, by, TCP, vip, want);
                tried.attempt(&what, by, UDP, vip, want);
            }
            let outside = &cluster.lab.client.worker;
            tried.attempt("outside", outside, TCP, vip, Want::Dropped);
        }
    }
    tried.end();
}
