//! Source ports, full tables, collisions and races: two flows never share a reply.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use lb_common::{
    AffinityKey, AffinityValue, BackendValue, FlowKey, FlowValue, FragmentKey, FragmentValue,
    FrontendKey, FrontendKind, FrontendValue, Hook, Reason, SockKey, SockValue, proto,
};
use lb_ebpf::{
    Decision, InsertError, Place, Tables, Verdict, Work,
    host::{MemoryFlow, MemoryTables},
    refuse::Answer,
};
use proptest::prelude::*;
use world::{
    EXTERNAL, OWN, POD, POD_DEVICE, POD_OWN, ROUTER, World, addr, key, run_with, seen_at, sent,
};

both_families![
    ports_are_unique_up_to_the_last,
    occupancy_of_three_quarters_fails_nobody,
    occupancy_of_nine_tenths_fails_few,
    two_vips_of_one_backend_keep_their_replies_apart,
    a_full_table_leaves_nothing_behind,
    a_race_for_the_forward_entry_leaves_one_whole_pair,
    a_race_with_another_choice_leaves_the_winners_pair,
    half_a_pair_is_replaced,
    the_same_tuple_at_two_hooks_is_two_flows,
];

fn snat_world<A: Answer>(count: u16) -> World<A> {
    let mut world = World::new();
    world.env.settings.snat_count = count;
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::UDP, &["remote-pod"]);
    world
}

/// Flows of clients with distinct ports; returns how many got none.
fn fill<A: Answer>(world: &mut World<A>, clients: std::ops::Range<u16>) -> usize {
    let mut failed = 0;
    for port in clients {
        let tuple = key("client", port, "node", 30000, proto::UDP);
        let craft = sent::<A>(&tuple, [ROUTER, OWN]);
        let (decision, bytes) = world.run(Hook::ExternalIn, EXTERNAL, &craft.frame());
        if decision.verdict != Verdict::Redirect {
            assert_eq!(decision, Decision::drop(Reason::SnatPortsExhausted));
            assert_eq!(bytes, craft.frame());
            assert!(world.flow(&tuple).is_none());
            failed += 1;
        }
    }
    failed
}

fn assert_unique<A: Answer>(world: &World<A>) {
    world.assert_pairs();
    let settings = world.env.settings;
    let mut ports = HashSet::new();
    for flow in world.tables.flows.borrow().values() {
        let flow = flow.get();
        if flow.reverse == 0 && flow.second == 0 {
            let offset = flow.sport.wrapping_sub(settings.snat_first);
            assert!(offset < settings.snat_count);
            assert!(ports.insert(flow.sport), "port {} twice", flow.sport);
        }
    }
}

fn ports_are_unique_up_to_the_last<A: Answer>(_: &mut World<A>) {
    let test = |(seed, count): (u32, u16)| {
        let mut world = snat_world::<A>(count);
        world.env.random.set(seed);
        let failed = fill(&mut world, 1..3 * count);
        assert_unique(&world);
        // Three times as many as there are ports: hardly one port is left.
        assert!(usize::from(3 * count - 1) - failed > usize::from(count) * 8 / 10);
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(48));
    runner.run(&(any::<u32>(), 10u16..120), test).unwrap();
}

/// Fails for one flow in ten thousand by the odds: one in this many may.
fn occupancy_of_three_quarters_fails_nobody<A: Answer>(_: &mut World<A>) {
    let mut world = snat_world::<A>(4000);
    assert!(fill(&mut world, 1..3001) <= 1);
    assert_unique(&world);
}

fn occupancy_of_nine_tenths_fails_few<A: Answer>(_: &mut World<A>) {
    let mut world = snat_world::<A>(4000);
    let _ = fill(&mut world, 1..3601);
    assert_unique(&world);
    let occupied = world.tables.flows.borrow().len() / 2;
    // From here on each takes a port away again, so the share stays what it is.
    let mut failed = 0;
    for port in 10_000..12_000u16 {
        failed += fill(&mut world, port..port + 1);
        let tuple = key("client", port, "node", 30000, proto::UDP);
        if let Some((key, flow)) = world.entry(&tuple) {
            world.tables.remove_flow(&key);
            world.tables.remove_flow(&flow.other_key(proto::UDP));
        }
    }
    assert!((3400..=3600).contains(&occupied), "{occupied}");
    // One in thirty by the odds (0.9 to the 32nd).
    assert!((10..150).contains(&failed), "{failed} of 2000");
}

fn two_vips_of_one_backend_keep_their_replies_apart<A: Answer>(world: &mut World<A>) {
    for proto in world::PROTOS {
        for vip in ["vip", "other-vip"] {
            let _ = world.serve(FrontendKind::ClusterIp, vip, 80, proto, &["other-pod"]);
        }
        let mut replies = Vec::new();
        for vip in ["vip", "other-vip"] {
            let tuple = key("pod", 4000, vip, 80, proto);
            let craft = sent::<A>(&tuple, [POD, POD_OWN]);
            let (decision, bytes) = world.run(Hook::PodIn, POD_DEVICE, &craft.frame());
            assert_eq!(decision.verdict, Verdict::Stack);
            let to = world.flow(&tuple).unwrap().translated(proto);
            assert_eq!(bytes, craft.translated(&to).frame());
            assert_eq!((to.src, to.dst), (addr("pod"), addr("other-pod")));
            replies.push((to.reversed(), tuple.reversed()));
        }
        assert_eq!(replies[0].0.dport, 4000);
        assert_ne!(replies[1].0.dport, 4000);
        for (seen, wanted) in replies {
            let craft = sent::<A>(&seen, [POD_OWN, POD]);
            let (_, bytes) = world.run(Hook::PodOut, POD_DEVICE, &craft.frame());
            assert_eq!(bytes, craft.translated(&wanted).frame());
        }
        world.assert_pairs();
    }
}

fn a_full_table_leaves_nothing_behind<A: Answer>(_: &mut World<A>) {
    // No room for the reverse entry, then none for the forward one.
    for room in [0, 1] {
        for (hook, from, frontend) in [
            (Hook::PodIn, "pod", "vip"),
            (Hook::PodIn, "pod", "node"),
            (Hook::ExternalIn, "client", "node"),
            (Hook::ExternalOut, "node", "vip"),
        ] {
            let mut world = World::<A>::new();
            world.tables.max_flows = room;
            let kind =
                if frontend == "vip" { FrontendKind::ClusterIp } else { FrontendKind::NodePort };
            let _ = world.serve(kind, frontend, 80, proto::TCP, &["remote-pod"]);
            let craft = sent::<A>(&key(from, 4000, frontend, 80, proto::TCP), [POD, POD_OWN]);
            let (decision, bytes) = world.run(hook, EXTERNAL, &craft.frame());
            assert_eq!(decision, Decision::drop(Reason::FlowTableFull));
            assert_eq!(bytes, craft.frame());
            assert!(world.tables.flows.borrow().is_empty());
            assert!(world.tables.stats.borrow().is_empty());
        }
    }
}

/// Half of a pair, as a crash between two removals leaves it, does not bar its own flow.
fn half_a_pair_is_replaced<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::UDP, &["other-pod"]);
    let tuple = key("pod", 4000, "vip", 80, proto::UDP);
    let craft = sent::<A>(&tuple, [POD, POD_OWN]);
    let first = world.run(Hook::PodIn, POD_DEVICE, &craft.frame());
    world.tables.remove_flow(&seen_at(Hook::PodIn, tuple));
    assert_eq!(world.run(Hook::PodIn, POD_DEVICE, &craft.frame()), first);
    world.assert_pairs();
}

/// The node's packets to itself leave by the loopback device or by another, as the routes change: what has
/// the same tuple at another hook is another flow, and no half of this one.
fn the_same_tuple_at_two_hooks_is_two_flows<A: Answer>(_: &mut World<A>) {
    for proto in world::PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["node"]);
        let tuple = key("node", 4000, "vip", 80, proto);
        for hook in [Hook::LoopbackOut, Hook::ExternalOut] {
            let frame = sent::<A>(&tuple, [OWN, ROUTER]).frame();
            assert_eq!(world.run(hook, EXTERNAL, &frame).0.reason, Reason::NewFlow);
        }
        world.assert_pairs();
        assert_eq!(world.tables.flows.borrow().len(), 4);
    }
}

type Meanwhile<'a, A> = Box<dyn FnOnce(&MemoryTables<A>) + 'a>;

/// Tables in which something happens just before the insertion with this number.
struct Raced<'a, A: Answer> {
    tables: &'a MemoryTables<A>,
    insertions: Cell<u32>,
    at: u32,
    meanwhile: RefCell<Option<Meanwhile<'a, A>>>,
}

impl<A: Answer> Tables<A> for Raced<'_, A> {
    type Flow = MemoryFlow<A>;

    fn flow(&self, key: &FlowKey<A>) -> Option<MemoryFlow<A>> {
        self.tables.flow(key)
    }
    fn insert_flow(&self, key: &FlowKey<A>, value: &FlowValue<A>) -> Result<(), InsertError> {
        self.insertions.set(self.insertions.get() + 1);
        if self.insertions.get() == self.at
            && let Some(meanwhile) = self.meanwhile.take()
        {
            meanwhile(self.tables);
        }
        self.tables.insert_flow(key, value)
    }
    fn remove_flow(&self, key: &FlowKey<A>) {
        self.tables.remove_flow(key);
    }
    fn vip_filter(&self, word: u32) -> u64 {
        self.tables.vip_filter(word)
    }
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendValue> {
        self.tables.frontend(key)
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.tables.slot(index)
    }
    fn backend(&self, id: u32) -> Option<BackendValue<A>> {
        self.tables.backend(id)
    }
    fn count_backend(&self, id: u32, flows: u64, packets: u64, bytes: u64) {
        self.tables.count_backend(id, flows, packets, bytes);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentValue<A>> {
        self.tables.fragment(key)
    }
    fn put_fragment(&self, key: &FragmentKey<A>, value: &FragmentValue<A>) {
        self.tables.put_fragment(key, value);
    }
    fn remove_fragment(&self, key: &FragmentKey<A>) {
        self.tables.remove_fragment(key);
    }
    fn affinity(&self, key: &AffinityKey<A>) -> Option<AffinityValue> {
        self.tables.affinity(key)
    }
    fn put_affinity(&self, key: &AffinityKey<A>, value: &AffinityValue) {
        self.tables.put_affinity(key, value);
    }
    fn in_range(&self, set: u32, client: &A) -> bool {
        self.tables.in_range(set, client)
    }
    fn sock(&self, key: &SockKey<A>) -> Option<SockValue<A>> {
        self.tables.sock(key)
    }
    fn put_sock(&self, key: &SockKey<A>, value: &SockValue<A>) {
        self.tables.put_sock(key, value);
    }
}

/// Another CPU carries the same first packet through while this one is about to make its
/// insertion number `at`, with the random number `theirs`.
fn race<A: Answer>(world: &World<A>, at: u32, ours: u32, theirs: u32) {
    let proto = proto::UDP;
    let tuple = key("pod", 4000, "vip", 80, proto);
    let craft = sent::<A>(&tuple, [POD, POD_OWN]);
    let place = Place::new(Hook::PodIn, POD_DEVICE);
    let env = &world.env;
    let other_env = env.clone();
    other_env.random.set(theirs);
    env.random.set(ours);
    let frame = craft.frame();
    let raced = Raced {
        tables: &world.tables,
        insertions: Cell::new(0),
        at,
        meanwhile: RefCell::new(Some(Box::new(|tables: &MemoryTables<A>| {
            let _ = run_with(tables, &other_env, &mut Work::default(), place, &frame);
        }))),
    };
    let (decision, bytes) = run_with(&raced, env, &mut Work::default(), place, &frame);
    assert!(raced.meanwhile.borrow().is_none(), "no insertion {at}");
    assert_eq!(decision.verdict, Verdict::Stack);
    // Whoever won: this packet goes where the flow goes, and the pair is whole.
    let to = world.flow(&tuple).expect("the winner's entry").translated(proto);
    assert_eq!(bytes, craft.translated(&to).frame());
    world.assert_pairs();
    assert_eq!(world.tables.flows.borrow().len(), 2);
}

fn a_race_for_the_forward_entry_leaves_one_whole_pair<A: Answer>(_: &mut World<A>) {
    for at in [1, 2] {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::UDP, &["other-pod"]);
        race(&world, at, 1, 2);
    }
}

fn a_race_with_another_choice_leaves_the_winners_pair<A: Answer>(_: &mut World<A>) {
    for at in [1, 2] {
        let mut world = World::<A>::new();
        let backends = ["other-pod", "remote-pod"];
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::UDP, &backends);
        race(&world, at, 0, u32::MAX);
    }
}
