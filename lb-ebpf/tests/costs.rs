//! How many look-ups a packet costs: what a Service does not use, its packets do not pay for.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use std::cell::RefCell;

use lb_common::{
    AffinityKey, AffinityValue, BackendValue, FlowKey, FlowValue, FragmentKey, FragmentValue,
    FrontendKey,
    FrontendKind::{ClusterIp, LoadBalancer},
    FrontendValue, Hook, SockKey, SockValue, proto,
};
use lb_ebpf::{
    InsertError, Place, Tables,
    host::{MemoryFlow, MemoryTables},
    refuse::Answer,
};
use world::{EXTERNAL, OWN, Offer, ROUTER, World, key, run_with, sent};

both_families![
    an_established_packet_costs_one_look_up,
    a_plain_service_pays_for_nothing_that_it_does_not_use,
    what_is_not_ours_costs_a_bit_of_the_filter,
];

/// Tables that note what is looked up and written.
struct Counted<'a, A: Answer> {
    tables: &'a MemoryTables<A>,
    calls: RefCell<Vec<&'static str>>,
}

impl<A: Answer> Counted<'_, A> {
    fn note(&self, call: &'static str) {
        self.calls.borrow_mut().push(call);
    }
}

impl<A: Answer> Tables<A> for Counted<'_, A> {
    type Flow = MemoryFlow<A>;

    fn flow(&self, key: &FlowKey<A>) -> Option<MemoryFlow<A>> {
        self.note("flow");
        self.tables.flow(key)
    }
    fn insert_flow(&self, key: &FlowKey<A>, value: &FlowValue<A>) -> Result<(), InsertError> {
        self.note("insert");
        self.tables.insert_flow(key, value)
    }
    fn remove_flow(&self, key: &FlowKey<A>) {
        self.note("remove");
        self.tables.remove_flow(key);
    }
    fn vip_filter(&self, word: u32) -> u64 {
        self.note("filter");
        self.tables.vip_filter(word)
    }
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendValue> {
        self.note("frontend");
        self.tables.frontend(key)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.note("slot");
        self.tables.slot(index)
    }
    fn backend(&self, id: u32) -> Option<BackendValue<A>> {
        self.note("backend");
        self.tables.backend(id)
    }
    fn count_backend(&self, id: u32, flows: u64, packets: u64, bytes: u64) {
        self.tables.count_backend(id, flows, packets, bytes);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentValue<A>> {
        self.note("fragment");
        self.tables.fragment(key)
    }
    fn put_fragment(&self, key: &FragmentKey<A>, value: &FragmentValue<A>) {
        self.tables.put_fragment(key, value);
    }
    fn remove_fragment(&self, key: &FragmentKey<A>) {
        self.tables.remove_fragment(key);
    }
    fn affinity(&self, key: &AffinityKey<A>) -> Option<AffinityValue> {
        self.note("affinity");
        self.tables.affinity(key)
    }
    fn put_affinity(&self, key: &AffinityKey<A>, value: &AffinityValue) {
        self.note("put affinity");
        self.tables.put_affinity(key, value);
    }
    fn in_range(&self, set: u32, client: &A) -> bool {
        self.note("range");
        self.tables.in_range(set, client)
    }
    fn sock(&self, key: &SockKey<A>) -> Option<SockValue<A>> {
        self.note("sock");
        self.tables.sock(key)
    }
    fn put_sock(&self, key: &SockKey<A>, value: &SockValue<A>) {
        self.note("put sock");
        self.tables.put_sock(key, value);
    }
}

/// What a packet from outside costs: look-ups and writes in their order.
fn cost<A: Answer>(world: &mut World<A>, proto: u8, to: &str) -> Vec<&'static str> {
    cost_at(world, Hook::ExternalIn, proto, to)
}

/// What a packet costs at a hook.
fn cost_at<A: Answer>(world: &mut World<A>, hook: Hook, proto: u8, to: &str) -> Vec<&'static str> {
    let World { tables, env, work, .. } = world;
    let counted = Counted { tables, calls: RefCell::default() };
    let frame = sent(&key::<A>("client", 4000, to, 80, proto), [ROUTER, OWN]).frame();
    let place = Place::new(hook, EXTERNAL);
    let _ = run_with(&counted, env, work, place, &frame);
    counted.calls.into_inner()
}

/// A pod's new flow to a Service without any of the rarer features. From outside, where the backend is
/// counts too.
const NEW: [&str; 7] = ["flow", "filter", "frontend", "slot", "backend", "insert", "insert"];
const FROM_OUTSIDE: [&str; 8] =
    ["flow", "filter", "frontend", "slot", "backend", "backend", "insert", "insert"];

fn an_established_packet_costs_one_look_up<A: Answer>(world: &mut World<A>) {
    let used = Offer::of(LoadBalancer, "public", 80, proto::UDP, &["pod"], &["pod"]);
    world.tables.ranges.push((1, world::addr("client"), 8));
    let _ = world.offer(&Offer { ranges: 1, affinity: 10, ..used });
    let _ = cost(world, proto::UDP, "public");
    // A datagram asks besides whether its backend still serves.
    assert_eq!(cost(world, proto::UDP, "public"), ["flow", "backend"]);
}

fn a_plain_service_pays_for_nothing_that_it_does_not_use<A: Answer>(world: &mut World<A>) {
    let offer = Offer::of(ClusterIp, "vip", 80, proto::UDP, &["pod"], &[]);
    for offer in [offer, Offer { local: &["pod"], is_local: true, ..offer }] {
        for (hook, new) in [(Hook::PodIn, &NEW[..]), (Hook::ExternalIn, &FROM_OUTSIDE)] {
            *world = World::new();
            let _ = world.offer(&offer);
            assert_eq!(cost_at(world, hook, proto::UDP, "vip"), new);
        }
    }
    *world = World::new();
    let _ = world.offer(&Offer { affinity: 10, ..offer });
    let used = cost_at(world, Hook::PodIn, proto::UDP, "vip");
    assert_eq!(used.iter().filter(|call| NEW.contains(call)).count(), NEW.len());
    assert_eq!(used.len(), NEW.len() + 2, "{used:?}");
}

fn what_is_not_ours_costs_a_bit_of_the_filter<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(ClusterIp, "vip", 80, proto::UDP, &["pod"]);
    assert_eq!(cost(world, proto::TCP, "remote-pod")[..2], ["flow", "filter"]);
    assert_eq!(cost(world, 47, "remote-pod"), ["filter"]);
    // A datagram is looked at once more, for what its answer would meet.
    for (hook, looks) in [
        (Hook::Xdp, 0),
        (Hook::ExternalIn, 1),
        (Hook::PodIn, 1),
        (Hook::PodOut, 1),
        (Hook::ExternalOut, 1),
        (Hook::LoopbackOut, 1),
    ] {
        let calls = cost_at(world, hook, proto::UDP, "remote-pod");
        assert_eq!(calls[..2], ["flow", "filter"]);
        assert_eq!(calls[2..], ["flow"][..looks], "{hook:?}");
    }
}
