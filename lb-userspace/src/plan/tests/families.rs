//! What cannot be written in one family holds up nothing of the other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lb_common::{Family, names, proto};
use proptest::prelude::*;

use super::{
    super::{FAMILIES, Frontend, Limits},
    Rig, State, check_consistent, resolve, rig,
    wish::{Wish, name, web},
    world::{self, World, world},
};
use crate::{
    maps::{Contents, Fault, FaultyMaps, MemoryMaps},
    model::{
        Conditions, DesiredService, Endpoint, ObjectName, Service, ServicePort, Slice, SlicePort,
    },
};

const MAPS: [[&str; 3]; 2] = [
    [names::LB4_FRONTENDS, names::LB4_BACKENDS, names::LB4_RANGES],
    [names::LB6_FRONTENDS, names::LB6_BACKENDS, names::LB6_RANGES],
];

type Faulty = Rig<FaultyMaps<MemoryMaps>>;

fn faulty() -> Faulty {
    Rig::new(FaultyMaps::new(MemoryMaps::new(Limits::default())), Limits::default())
}

/// What the frontends of one family lead to.
fn served(contents: &Contents, family: Family) -> BTreeMap<Frontend, State> {
    let of_family = contents.frontends.keys().filter(|frontend| frontend.family() == family);
    let state = |frontend: &Frontend| resolve(contents, frontend).ok()?;
    of_family.filter_map(|frontend| Some((*frontend, state(frontend)?))).collect()
}

/// A Service with a cluster IP and backends of both families.
fn dual(number: u8, hosts: &[u8]) -> DesiredService {
    let mut service = web(number, None, hosts);
    let mut v6 = service.ports[0].clone();
    v6.family = Family::V6;
    v6.vip = Some([0xfd96, 0, 0, 0, 0, 0, 0, u16::from(number)].into());
    for (backend, host) in v6.backends.iter_mut().zip(hosts) {
        backend.addr = [0xfd44, 0, 0, u16::from(number), 0, 0, 0, u16::from(*host)].into();
    }
    service.ports.push(v6);
    service
}

/// FAM-4, SYNC-5: one map of one family fails while a world becomes another; the other family gets to its end,
/// and the first does when the map can be written again.
fn change_while_one_map_fails(
    before: &World,
    after: &World,
    bad: usize,
    map: usize,
) -> Result<(), TestCaseError> {
    let mut plain = rig();
    plain.feed(World::default().events_to(before));
    plain.feed(before.events_to(after));
    let mut rig = faulty();
    rig.feed(World::default().events_to(before));
    rig.maps.set_fault(Some(Fault::Always(MAPS[bad][map])));
    let touched = rig.desired.apply(before.events_to(after));
    rig.planner.mark(touched);
    let (good, bad) = (FAMILIES[1 - bad], FAMILIES[bad]);
    for _ in 0..5 {
        rig.now += Duration::from_secs(2);
        let result = rig.planner.execute(&rig.desired, &mut rig.maps, rig.now);
        prop_assert_eq!(result.is_err(), rig.planner.is_behind(bad));
        prop_assert!(!rig.planner.is_behind(good));
        check_consistent(&rig.contents()).map_err(TestCaseError::fail)?;
    }
    prop_assert_eq!(served(&rig.contents(), good), served(&plain.contents(), good));

    rig.maps.set_fault(None);
    rig.settle();
    prop_assert!(!rig.planner.is_behind(bad));
    rig.release_all();
    plain.release_all();
    prop_assert_eq!(rig.dump(), plain.dump());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_family_that_fails_does_not_stop_the_other(
        before in world(), after in world(), bad in 0usize..2, map in 0usize..3
    ) {
        change_while_one_map_fails(&before, &after, bad, map)?;
    }
}

/// An address of the node goes from a Service that has no backend to one whose backend cannot be written.
#[test]
fn a_frontend_that_changes_hands_while_its_family_fails_is_the_new_owners_in_the_end() {
    let vip = "2001:db8::1".parse().expect("an address");
    let owned_by = |index| {
        let port =
            ServicePort { name: "admin".into(), proto: proto::TCP, port: 30080, node_port: None };
        let service =
            Service { vip6: Some(vip), ports: vec![port], ..Service::new(world::name(index)) };
        let services = [(world::name(index), Arc::new(service))].into();
        World { services, ..World::default() }
    };
    let before = owned_by(2);
    let mut after = owned_by(0);
    let name = ObjectName::new("default", "s0-0");
    let ready = Conditions { ready: true, serving: true, terminating: false };
    let slice = Slice {
        name: name.clone(),
        service: Some("s0".into()),
        ports: vec![SlicePort { name: "admin".into(), proto: proto::TCP, port: 8080 }],
        endpoints: vec![Endpoint::new([0xfd44, 0, 0, 0, 0, 0, 0, 1].into(), ready)],
        ..Slice::new(world::name(0), Family::V6)
    };
    let _new = after.slices.insert(name, Arc::new(slice));
    for (map, name) in MAPS[1].iter().enumerate() {
        change_while_one_map_fails(&before, &after, 1, map).expect(name);
    }
}

/// FAM-4: so it is however many Services there are, and for those that change meanwhile, without
/// another try of the family that fails.
#[test]
fn many_services_are_served_in_the_family_that_can_be_written() {
    let mut wish: Wish = (1..=30).map(|i| (name(i), dual(i, &[1, 2]))).collect();
    for (bad, maps) in MAPS.iter().enumerate() {
        for map in &maps[..2] {
            let mut rig = faulty();
            let (good, bad) = (FAMILIES[1 - bad], FAMILIES[bad]);
            rig.maps.set_fault(Some(Fault::Always(map)));
            rig.planner.mark(wish.keys().cloned());
            let error = rig.planner.execute(&wish, &mut rig.maps, rig.now).expect_err("it fails");
            assert_eq!(error.map, *map);
            // A frontend and a marker each.
            assert_eq!(served(&rig.contents(), good).len(), 60, "{map}");
            assert_eq!(served(&rig.contents(), bad).len(), 0, "{map}");

            let _before = wish.insert(name(29), dual(29, &[3]));
            rig.planner.mark([name(29)]);
            rig.now += Duration::from_secs(2);
            let result = rig.planner.execute_for(&[good], &wish, &mut rig.maps, rig.now);
            let ops = result.expect("nothing of the other family is tried");
            assert!((1..20).contains(&ops), "{ops} ops");
            let vip = wish[&name(29)].ports.iter().find(|port| port.family == good);
            let vip = vip.and_then(|port| port.vip).expect("a VIP of each family");
            let frontend = Frontend::new(vip, 80, proto::TCP);
            assert_eq!(served(&rig.contents(), good)[&frontend].cluster.len(), 1);
            assert!(rig.planner.is_behind(bad) && !rig.planner.is_idle());

            rig.maps.set_fault(None);
            super::settle(&mut rig.planner, &wish, &mut rig.maps, &mut rig.now);
            assert_eq!(served(&rig.contents(), bad).len(), 60, "{map}");
            let _before = wish.insert(name(29), dual(29, &[1, 2]));
        }
    }
}

/// FAM-4, B19: a Service of both families has one where the map of the other is full, and that is
/// told.
#[test]
fn a_full_map_of_one_family_leaves_the_other_alone() {
    let limits = Limits { frontends: 8, ..Limits::default() };
    let wish: Wish = (1..=4).map(|i| (name(i), dual(i, &[1]))).collect();
    for (index, family) in FAMILIES.into_iter().enumerate() {
        let mut rig = Rig::new(MemoryMaps::new(limits), limits);
        // Those that fill the map of one family have none of the other.
        let only =
            |service: &DesiredService| DesiredService { ports: vec![service.ports[index].clone()] };
        let mut narrow: Wish = wish.iter().map(|(n, s)| (n.clone(), only(s))).collect();
        rig.planner.mark(narrow.keys().cloned());
        super::settle(&mut rig.planner, &narrow, &mut rig.maps, &mut rig.now);
        let _new = narrow.insert(name(5), dual(5, &[1]));
        rig.planner.mark([name(5)]);
        super::settle(&mut rig.planner, &narrow, &mut rig.maps, &mut rig.now);
        let contents = rig.contents();
        assert_eq!(served(&contents, family).len(), 8, "{family}: it is full");
        assert_eq!(served(&contents, FAMILIES[1 - index]).len(), 2, "{family}");
        let told = rig.planner.problems();
        assert!(told[0].to_string().contains(MAPS[index][0]), "{told:?}");
    }
}
