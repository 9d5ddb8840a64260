//! Properties that hold for all worlds, and for all damage.

use std::{collections::BTreeSet, time::Duration};

use lb_common::{BackendState, Family, FrontendValue, Location, ServiceInfo};
use proptest::prelude::*;

use super::{
    super::{Backend, BackendId, Frontend, Limits, Range, RangeSetId, ServiceId},
    Rig, addr, check_complete, check_consistent, resolve, rig,
    world::{World, name, world},
};
use crate::{
    maps::{Contents, Dump, Fault, FaultyMaps, Maps, MemoryMaps},
    model::{Event, Service},
};

/// The same with an age for every Service: of those that are equally old, who has something already
/// keeps it, so that the order does matter.
fn aged(events: Vec<Event>) -> Vec<Event> {
    let aged = |event| match event {
        Event::PutService(service) => {
            let age = service.name.name.bytes().map(i64::from).sum::<i64>() % 7;
            let name = service.name.name.bytes().rev().fold(0, |n, byte| n * 31 + i64::from(byte));
            let created = Some(age * 1_000_000 + name);
            Event::PutService(Service { created, ..Service::clone(&service) }.into())
        }
        other @ (Event::DeleteService(_)
        | Event::PutSlice(_)
        | Event::DeleteSlice(_)
        | Event::PutNode(_)
        | Event::DeleteNode
        | Event::Problems(..)
        | Event::Coverage(_)) => other,
    };
    events.into_iter().map(aged).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// SYNC-2. After every prefix of a plan nothing refers to anything missing, and each frontend
    /// leads to its old or its new backends.
    #[test]
    fn every_prefix_is_safe(before in world(), after in world()) {
        let mut rig = rig();
        rig.feed(World::default().events_to(&before));
        let old = rig.contents();
        check_complete(&old).map_err(TestCaseError::fail)?;

        let touched = rig.desired.apply(before.events_to(&after));
        rig.planner.mark(touched);
        rig.now += Duration::from_secs(2);
        let plan = rig.planner.plan(&rig.desired, rig.now);
        let mut new = MemoryMaps::holding(old.clone(), Limits::default());
        new.apply(&plan.ops).expect("it fits");
        let mut maps = MemoryMaps::holding(old.clone(), Limits::default());
        for op in &plan.ops {
            maps.apply(std::slice::from_ref(op)).expect("it fits");
            check_consistent(maps.get()).map_err(|why| TestCaseError::fail(format!("{why} after {op}")))?;
            let all = old.frontends.keys().chain(new.get().frontends.keys());
            for frontend in all.collect::<BTreeSet<_>>() {
                let leads_to = resolve(maps.get(), frontend).expect("it is consistent");
                // Backends that leave are only marked after the switch, so the old ones resolve.
                let was = resolve(&old, frontend).expect("it is consistent");
                let will = resolve(new.get(), frontend).expect("it is consistent");
                prop_assert!(leads_to == was || leads_to == will, "{frontend} after {op}");
            }
        }
        let ops = plan.ops.len();
        rig.planner.commit(plan, ops, rig.now);
        rig.maps = new;
        rig.settle();
        check_complete(&rig.contents()).map_err(TestCaseError::fail)?;
    }

    /// A restarted agent writes nothing, and ids are as before.
    #[test]
    fn restart_writes_nothing(before in world(), after in world(), coming in world()) {
        let mut rig = rig();
        rig.feed(World::default().events_to(&before));
        rig.feed(before.events_to(&after));
        let contents = rig.contents();

        let mut restarted = Rig::new(FaultyMaps::new(rig.maps.clone()), Limits::default());
        restarted.maps.set_fault(Some(Fault::Nth(0)));
        restarted.planner.prune();
        restarted.feed(World::default().events_to(&after));
        prop_assert_eq!(restarted.maps.tried, 0, "{}", Dump::with_ids(&contents));
        prop_assert_eq!(restarted.contents(), contents);

        // From there it goes on as if it had never stopped.
        restarted.maps.set_fault(None);
        rig.feed(after.events_to(&coming));
        restarted.feed(after.events_to(&coming));
        rig.release_all();
        restarted.release_all();
        prop_assert_eq!(restarted.dump(), rig.dump());
        check_complete(&restarted.contents()).map_err(TestCaseError::fail)?;
    }

    /// Whatever order events come in, one by one, the result is the same; an unchanged object
    /// writes nothing.
    #[test]
    fn order_does_not_matter(world in world(), seed in any::<u64>()) {
        let mut events = aged(World::default().events_to(&world));
        let mut at_once = rig();
        at_once.feed(events.clone());
        shuffle(&mut events, seed);
        let mut one_by_one = rig();
        for event in events.clone() {
            one_by_one.feed([event]);
            check_complete(&one_by_one.contents()).map_err(TestCaseError::fail)?;
        }
        one_by_one.release_all();
        prop_assert_eq!(one_by_one.dump(), at_once.dump());
        let before = at_once.contents();
        for event in events {
            let touched = at_once.desired.apply([event]);
            at_once.planner.mark(touched);
            prop_assert_eq!(at_once.planner.execute(&at_once.desired, &mut at_once.maps, at_once.now).ok(), Some(0));
        }
        prop_assert_eq!(at_once.contents(), before);
    }

    /// Wherever maps fail, the next attempts lead to the same end.
    #[test]
    fn failures_heal(before in world(), after in world(), nth in 0usize..60) {
        let mut plain = rig();
        plain.feed(World::default().events_to(&before));
        plain.feed(before.events_to(&after));
        plain.release_all();

        let mut faulty = Rig::new(FaultyMaps::new(MemoryMaps::default_sized()), Limits::default());
        faulty.maps.set_fault(Some(Fault::Nth(nth)));
        faulty.feed(World::default().events_to(&before));
        faulty.maps.set_fault(Some(Fault::Nth(nth)));
        faulty.feed(before.events_to(&after));
        faulty.release_all();
        prop_assert_eq!(faulty.dump(), plain.dump());
        check_complete(&faulty.contents()).map_err(TestCaseError::fail)?;
    }

    /// Nothing is left behind.
    #[test]
    fn it_ends_empty(worlds in proptest::collection::vec(world(), 1..4)) {
        let mut rig = rig();
        let mut before = World::default();
        for world in worlds {
            rig.feed(before.events_to(&world));
            before = world;
        }
        rig.feed(before.events_to(&World::default()));
        rig.release_all();
        prop_assert_eq!(Contents { slots: Vec::new(), ..rig.contents() }, Contents::default());
        // Every slot can be used again.
        rig.now += Duration::from_secs(2);
        let _plan = rig.planner.plan(&rig.desired, rig.now);
        let all = rig.planner.actual.free_slots.take(Limits::default().slots);
        prop_assert_eq!(all, Some(0));
    }

    /// Damaged maps are adopted and repaired.
    #[test]
    fn damage_is_repaired(contents in damaged(), world in world()) {
        let limits = Limits { slots: 64, backends: 64, ..Limits::default() };
        let mut fresh = rig();
        fresh.feed(aged(World::default().events_to(&world)));

        let mut rig = Rig::new(MemoryMaps::holding(contents, limits), limits);
        rig.planner.prune();
        rig.feed(aged(World::default().events_to(&world)));
        rig.release_all();
        prop_assert_eq!(rig.dump(), fresh.dump());
        check_complete(&rig.contents()).map_err(TestCaseError::fail)?;
        rig.feed(world.events_to(&World::default()));
        rig.release_all();
        prop_assert_eq!(Contents { slots: Vec::new(), ..rig.contents() }, Contents::default());
        let _plan = rig.planner.plan(&rig.desired, rig.now + Duration::from_secs(2));
        prop_assert_eq!(rig.planner.actual.free_slots.take(64), Some(0));
    }

    /// Where maps are too small, what fits is there, what does not is reported, and everything
    /// fits again once there is room.
    #[test]
    fn small_maps_hold_what_fits(before in world(), after in world(), size in 2u32..12) {
        let limits = Limits {
            services: size,
            frontends: 2 * size,
            backends: size,
            slots: size,
            ranges: size,
        };
        let mut rig = Rig::new(MemoryMaps::new(limits), limits);
        let mut old = World::default();
        for new in [before, after] {
            let touched = rig.desired.apply(old.events_to(&new));
            rig.planner.mark(touched);
            for _ in 0..5 {
                rig.now += Duration::from_secs(2);
                let result = rig.planner.execute(&rig.desired, &mut rig.maps, rig.now);
                prop_assert!(result.is_ok(), "{result:?}");
                check_consistent(&rig.contents()).map_err(TestCaseError::fail)?;
                let gone = rig.planner.gone_before(rig.now);
                rig.planner.release(gone, rig.now);
            }
            old = new;
        }
        let all = &mut self::rig();
        all.feed(World::default().events_to(&old));
        let wanted = all.contents().frontends.len();
        let programmed = rig.contents().frontends.len();
        prop_assert!(programmed == wanted || !rig.planner.problems().is_empty());
        rig.feed(old.events_to(&World::default()));
        rig.release_all();
        prop_assert_eq!(Contents { slots: Vec::new(), ..rig.contents() }, Contents::default());
    }
}

impl MemoryMaps {
    fn default_sized() -> Self {
        Self::new(Limits::default())
    }
}

fn shuffle(events: &mut [Event], mut seed: u64) {
    for i in (1..events.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        events.swap(i, (seed >> 33) as usize % (i + 1));
    }
}

/// Contents that no agent would write, which look a little as if one had.
fn damaged() -> impl Strategy<Value = Contents> {
    let service = (0u32..8, 0u8..5, 0usize..3, any::<bool>());
    let services = proptest::collection::vec(service, 0..8);
    let backend = (1u32..20, 0u32..8, 0u8..6, 0u16..2, any::<bool>(), any::<bool>());
    let backends = proptest::collection::vec(backend, 0..20);
    let slots = proptest::collection::vec(0u32..20, 0..70);
    let filter = proptest::collection::btree_map(0u32..20_000, any::<u64>(), 0..4);
    let frontend = (0usize..7, 0u16..4, 0usize..3);
    let value = ((0u32..8, 0u32..70, 0u32..10, 0u8..6), (0u32..4, 0u32..4, 0u8..2));
    let range = (0u32..4, any::<bool>(), 0u32..180);
    let ranges = proptest::collection::vec(range, 0..6);
    let frontends = proptest::collection::vec((frontend, value), 0..20);
    (services, backends, slots, filter, frontends, ranges).prop_map(
        |(services, backends, slots, filter, frontends, ranges)| {
            let mut contents = Contents { slots, ..Contents::default() };
            contents.filter = filter.into_iter().filter(|(word, _)| *word < 16_384).collect();
            for (id, of, port, v4) in services {
                let (ns, name) = (name(of).namespace, name(of).name);
                let (port, proto) = [("http", 6), ("dns", 17), ("admin", 6)][port];
                let family = if v4 { Family::V4 } else { Family::V6 };
                let info = ServiceInfo::new(&ns, &name, port, proto, family).expect("short");
                let _before = contents.services.insert(ServiceId(id), info);
            }
            for (id, service, host, port, v4, serving) in backends {
                let state = if serving { BackendState::Serving } else { BackendState::Gone };
                let addr = match v4 {
                    true => std::net::IpAddr::from([10, 244, 0, host + 1]),
                    false => [0xfd44, 0, 0, 0, 0, 0, 0, u16::from(host) + 1].into(),
                };
                let backend = Backend {
                    addr,
                    port: 8080 + port,
                    proto: 6,
                    state,
                    service: ServiceId(service),
                    sets: if serving { lb_common::BackendSets::CLUSTER } else { 0 },
                    location: Location::Unknown,
                };
                let _before = contents.backends.insert(BackendId(id), backend);
            }
            let addrs = [
                "10.96.0.1",
                "192.0.2.1",
                "10.96.0.3",
                "fd96::1",
                "2001:db8::1",
                "fd96::3",
                "10.1.1.1",
            ];
            for (set, v4, bits) in ranges {
                let addr = addr(if v4 { "198.51.100.7" } else { "2001:db8:7::" });
                let _new = contents.ranges.insert(Range { set: RangeSetId(set), addr, bits });
            }
            for ((address, port, proto), (value, more)) in frontends {
                let ((service, base, len, kind), (local_len, ranges, local)) = (value, more);
                let port = if port == 3 { 0 } else { 30080 + port };
                let frontend = Frontend::new(addr(addrs[address]), port, [0, 6, 17][proto]);
                let affinity = local_len * 100;
                let pad = 0;
                let value = FrontendValue {
                    service,
                    base,
                    len,
                    local_len,
                    ranges,
                    affinity,
                    kind,
                    local,
                    pad,
                };
                let _before = contents.frontends.insert(frontend, value);
            }
            contents
        },
    )
}
