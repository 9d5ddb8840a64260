//! Passes over maps in memory.

use std::sync::Arc;

use lb_common::proto;

use super::*;

mod external;
mod families;

use crate::{
    maps::{Fault, FaultyMaps, MemoryMaps},
    model::{Service, ServicePort},
};

type Memory = FaultyMaps<MemoryMaps>;

fn service(name: &str, last: u8) -> Event {
    Event::PutService(Arc::new(Service {
        vip4: Some([10, 96, 0, last].into()),
        ports: vec![ServicePort { name: "".into(), proto: proto::TCP, port: 80, node_port: None }],
        ..Service::new(ObjectName::new("default", name))
    }))
}

fn reconciler(contents: Contents, now: Instant) -> Reconciler<Memory> {
    let maps = FaultyMaps::new(MemoryMaps::holding(contents.clone(), Limits::default()));
    let mut reconciler = Reconciler::adopt(maps, &contents, Limits::default(), now);
    reconciler.node(NodeAddresses::default());
    reconciler
}

fn contents_with(name: &str, last: u8) -> Contents {
    let now = Instant::now();
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.events([service(name, last), Event::Coverage(Coverage::Full)]);
    assert!(reconciler.pass(now).unwrap().error.is_none());
    reconciler.maps.contents().unwrap()
}

#[test]
fn nothing_is_written_before_the_first_listing() {
    let now = Instant::now();
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.events([service("vote", 10)]);
    assert!(reconciler.pass(now).is_none());
    reconciler.events([Event::Coverage(Coverage::Partial)]);
    let pass = reconciler.pass(now).unwrap();
    assert_eq!(pass.ops["put-frontend"], 2, "the VIP's port, and its marker");
    assert!(reconciler.pass(now).is_none(), "all is done");
}

#[test]
fn what_was_there_is_only_removed_when_all_is_known() {
    let now = Instant::now();
    let mut reconciler = reconciler(contents_with("old", 9), now);
    reconciler.events([service("new", 10), Event::Coverage(Coverage::Partial)]);
    let pass = reconciler.pass(now).unwrap();
    assert!(!pass.ops.contains_key("delete-frontend"), "{pass:?}");
    reconciler.events([Event::Coverage(Coverage::Full)]);
    let pass = reconciler.pass(now).unwrap();
    assert_eq!(pass.ops["delete-frontend"], 2, "{pass:?}");
}

/// SYNC-6: whatever somebody does to the entries, the next comparison finds and repairs it.
#[test]
fn what_others_did_to_the_maps_is_found_and_repaired() {
    let now = Instant::now();
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.events([service("vote", 10), service("shop", 11)]);
    reconciler.events([Event::Coverage(Coverage::Full)]);
    assert!(reconciler.pass(now).unwrap().error.is_none());
    let good = reconciler.maps.contents().unwrap();
    assert!(reconciler.compare(&good, now).is_empty(), "nobody did anything");
    assert!(reconciler.pass(now).is_none());
    type Damage = fn(&mut Contents);
    let damages: [(&str, Damage); 5] = [
        ("frontends", |contents| {
            let _first = contents.frontends.pop_first();
        }),
        ("frontends", |contents| {
            let (frontend, value) = contents.frontends.first_key_value().unwrap();
            let foreign = crate::plan::Frontend { port: 99, ..*frontend };
            let value = *value;
            let _none = contents.frontends.insert(foreign, value);
        }),
        ("LB_SERVICES", |contents| {
            let _last = contents.services.pop_last();
        }),
        ("LB_VIP_FILTER", |contents| contents.filter.clear()),
        ("LB_VIP_FILTER", |contents| {
            let _before = contents.filter.insert(3, 7);
        }),
    ];
    for (map, damage) in damages {
        let mut contents = good.clone();
        damage(&mut contents);
        reconciler.maps.maps =
            FaultyMaps::new(MemoryMaps::holding(contents.clone(), Limits::default()));
        let found = reconciler.compare(&contents, now);
        assert!(found.contains_key(map), "{map}: {found:?}");
        assert!(reconciler.pass(now).unwrap().error.is_none());
        let repaired = reconciler.maps.contents().unwrap();
        let frontends =
            |contents: &Contents| -> Vec<_> { contents.frontends.keys().copied().collect() };
        assert_eq!(frontends(&repaired), frontends(&good), "{map}");
        assert_eq!(repaired.filter, good.filter, "{map}");
        assert_eq!(repaired.services.len(), good.services.len(), "{map}");
    }
}

/// SVC-15: the Service that has a VIP or a node port keeps it against one that is not older,
/// also when the agent starts anew.
#[test]
fn what_a_service_has_it_keeps() {
    let now = Instant::now();
    let claims_both = |name: &str| {
        let Event::PutService(service) = service(name, 10) else { panic!("it is one") };
        let mut service = Service::clone(&service);
        service.ports[0].node_port = Some(30000);
        Event::PutService(service.into())
    };
    let start = |contents| {
        let mut reconciler = reconciler(contents, now);
        let node_port = [std::net::IpAddr::from([192, 0, 2, 1])].into();
        reconciler.node(NodeAddresses { node_port, ..NodeAddresses::default() });
        reconciler
    };
    let mut reconciler = start(Contents::default());
    reconciler.events([claims_both("zoo"), Event::Coverage(Coverage::Full)]);
    assert!(reconciler.pass(now).unwrap().error.is_none());
    let before = reconciler.maps.contents().unwrap();
    let holder = |reconciler: &Reconciler<Memory>, name| {
        let name = ObjectName::new("default", name);
        let ports = crate::model::Desired::desired(reconciler.model(), &name).ports;
        ports.iter().all(|port| port.vip.is_some() && port.node_port.is_some())
    };
    reconciler.events([claims_both("ape")]);
    assert!(holder(&reconciler, "zoo") && !holder(&reconciler, "ape"));
    // The holder is changed otherwise, and changes nothing of this.
    reconciler.events([claims_both("zoo"), claims_both("ape")]);
    assert!(holder(&reconciler, "zoo") && !holder(&reconciler, "ape"));
    // A new agent sees both at once, and what is in the maps.
    let mut next = start(before);
    next.events([claims_both("ape"), claims_both("zoo"), Event::Coverage(Coverage::Full)]);
    assert!(holder(&next, "zoo") && !holder(&next, "ape"));
    next.events([Event::DeleteService(ObjectName::new("default", "zoo"))]);
    assert!(holder(&next, "ape"));
    // And now that one has it.
    next.events([claims_both("zoo")]);
    assert!(holder(&next, "ape") && !holder(&next, "zoo"));
}

#[test]
fn what_failed_is_planned_again_after_a_growing_pause() {
    let now = Instant::now();
    let mut reconciler = reconciler(Contents::default(), now);
    reconciler.maps.maps.set_fault(Some(Fault::Always(lb_common::names::LB4_FRONTENDS)));
    reconciler.events([service("vote", 10), Event::Coverage(Coverage::Full)]);
    let mut then = now;
    let mut pauses = Vec::new();
    for _ in 0..3 {
        assert!(reconciler.pass(then).unwrap().error.is_some());
        assert!(reconciler.pass(then).is_none(), "resting");
        let wake = reconciler.wake().unwrap();
        pauses.push(wake - then);
        then = wake;
    }
    assert!(pauses.is_sorted() && pauses[0] == PAUSE.0 && pauses[2] > pauses[1], "{pauses:?}");
    reconciler.maps.maps.set_fault(None);
    assert!(reconciler.pass(then).unwrap().error.is_none());
    assert_eq!(reconciler.maps.contents().unwrap().frontends.len(), 2);
    assert_eq!(reconciler.wake(), None);
}
