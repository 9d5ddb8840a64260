//! Which external IPs are served: as the flag says, and as the node's addresses are.

use std::net::IpAddr;

use lb_common::FrontendKind;

use super::*;

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node(primary: &str) -> NodeAddresses {
    NodeAddresses { primary: [addr(primary)].into(), ..NodeAddresses::default() }
}

/// A Service, as old as its number says.
fn changed(name: &str, last: u8, change: impl FnOnce(&mut Service)) -> Event {
    let Event::PutService(one) = service(name, last) else { panic!("it is one") };
    let mut service = Service { created: Some(last.into()), ..Service::clone(&one) };
    change(&mut service);
    Event::PutService(service.into())
}

fn start(which: ExternalIps, primary: &str, events: &[Event]) -> Reconciler<Memory> {
    let mut reconciler = reconciler(Contents::default(), Instant::now());
    reconciler.external_ips(which);
    reconciler.node(node(primary));
    reconciler.events(events.iter().cloned().chain([Event::Coverage(Coverage::Full)]));
    reconciler
}

/// Which of `addrs` are served at port 80 once all is written, and what is told.
fn served<const N: usize>(
    reconciler: &mut Reconciler<Memory>,
    addrs: [IpAddr; N],
) -> ([bool; N], Vec<String>) {
    while let Some(pass) = reconciler.pass(Instant::now()) {
        assert!(pass.error.is_none(), "{pass:?}");
    }
    let contents = reconciler.maps.contents().unwrap();
    let served = addrs.map(|addr| {
        contents.frontends.contains_key(&crate::plan::Frontend::new(addr, 80, proto::TCP))
    });
    let problems = reconciler.problems();
    (served, problems.iter().map(|p| format!("{} {p}", p.severity.name())).collect())
}

/// EIP-5, EIP-6: an address of the node is not taken from it unless that is asked for, any other is
/// programmed; what is an address of the node follows the node.
#[test]
fn an_external_ip_of_the_node_is_refused_aloud() {
    let ips = ["127.0.0.1", "192.0.2.1", "192.0.2.7"].map(addr);
    let web = changed("web-1", 1, |service| service.external_ips = ips.to_vec());
    let mut reconciler = start(ExternalIps::Foreign, "192.0.2.1", std::slice::from_ref(&web));
    let refused = "warning Service default/web-1: external IPs 127.0.0.1, 192.0.2.1: not programmed, \
                   because the node itself is reached by that: take it out of spec.externalIPs, or \
                   start the agent with --external-ips=all";
    let is = served(&mut reconciler, ips);
    assert_eq!(is, ([false, false, true], vec![refused.to_owned()]));

    reconciler.node(node("192.0.2.7"));
    let is = served(&mut reconciler, ips);
    assert_eq!(is.0, [false, true, false]);
    assert_eq!(is.1, [refused.replace("192.0.2.1", "192.0.2.7")]);

    let mut all = start(ExternalIps::All, "192.0.2.1", &[web]);
    assert_eq!(served(&mut all, ips), ([true; 3], Vec::new()));
}

/// EIP-7.
#[test]
fn external_ips_can_be_switched_off() {
    let web = changed("web-1", 1, |service| {
        service.external_ips = vec![addr("203.0.113.7")];
        service.load_balancer_ips = vec![addr("198.51.100.7")];
    });
    let mut reconciler = start(ExternalIps::Off, "192.0.2.1", &[web]);
    let ips = ["203.0.113.7", "198.51.100.7", "10.96.0.1"].map(addr);
    let (is, told) = served(&mut reconciler, ips);
    assert_eq!(is, [false, true, true]);
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("notice Service default/web-1: external IP 203.0.113.7: "),
        "{told:?}"
    );
    let contents = reconciler.maps.contents().unwrap();
    let kinds: Vec<u8> = contents.frontends.values().map(|value| value.kind).collect();
    let (marker, vip) = (FrontendKind::Marker as u8, FrontendKind::ClusterIp as u8);
    assert_eq!(kinds, [marker, vip, FrontendKind::LoadBalancer as u8]);
}

/// SVC-15, EIP-5, EIP-7: an external IP that is not served here is held by nobody: each Service that
/// names it is told why, and none that another has it. Once it is served it is the oldest one's.
#[test]
fn an_external_ip_that_is_refused_is_held_by_nobody() {
    let shared = addr("192.0.2.1");
    let names_it =
        |name: &str, last| changed(name, last, |service| service.external_ips = vec![shared]);
    let events = [names_it("young", 9), names_it("old", 3)];
    let refused = |told: &[String], severity: &str| {
        let starts = |told: &String, name: &str| {
            told.starts_with(&format!("{severity} Service default/{name}: external IP {shared}: "))
        };
        told.len() == 2 && starts(&told[0], "old") && starts(&told[1], "young")
    };
    let mut reconciler = start(ExternalIps::Foreign, "192.0.2.1", &events);
    let (is, told) = served(&mut reconciler, [shared]);
    assert!(is == [false] && refused(&told, "warning"), "{told:?}");

    reconciler.node(node("192.0.2.9"));
    let lost = "warning Service default/young: 192.0.2.1:80/TCP belongs to Service default/old, \
                which is older or had it first: not programmed";
    assert_eq!(served(&mut reconciler, [shared]), ([true], vec![lost.to_owned()]));
    let name = ObjectName::new("default", "old");
    assert!(reconciler.holders().iter().any(|(claim, holder)| {
        matches!(claim, Claim::Vip { addr, .. } if *addr == shared) && *holder == name
    }));

    reconciler.node(node("192.0.2.1"));
    let (is, told) = served(&mut reconciler, [shared]);
    assert!(is == [false] && refused(&told, "warning"), "{told:?}");

    let mut off = start(ExternalIps::Off, "192.0.2.9", &events);
    let (is, told) = served(&mut off, [shared]);
    assert!(is == [false] && refused(&told, "notice"), "{told:?}");
}

/// EIP-5, SVC-12: what is refused of a Service is no part of the Service that the source told of:
/// the same again is no change, and another refused address is one.
#[test]
fn what_is_refused_is_still_part_of_the_object() {
    let web = |last| {
        changed("web", 1, move |service| {
            service.external_ips = vec![addr("192.0.2.1"), IpAddr::from([127, 0, 0, last])];
        })
    };
    let mut reconciler = start(ExternalIps::Foreign, "192.0.2.1", &[web(1)]);
    let (_, told) = served(&mut reconciler, []);
    let Event::PutService(given) = web(1) else { panic!("it is one") };
    assert_eq!(reconciler.model().service(&given.name), Some(&*given));
    reconciler.events([web(1)]);
    assert!(reconciler.settled());
    reconciler.events([web(2)]);
    assert_eq!(served(&mut reconciler, []).1, [told[0].replace("127.0.0.1", "127.0.0.2")]);
    reconciler.events([Event::DeleteService(given.name.clone())]);
    assert_eq!(served(&mut reconciler, []), ([], Vec::new()));
}
