//! A client outside and a backend elsewhere: by the shortcut or by the road, to the same effect.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../world/mod.rs"]
#[macro_use]
mod world;
mod exits;
mod ports;
mod removal;
mod same;
mod sizes;

use lb_common::{DeviceRole, DeviceValue, FlowKey, FlowValue, FrontendKind, Hook, Reason};
use lb_ebpf::{Decision, Route, host::craft::Craft, refuse::Answer};
use world::{
    EXTERNAL, OWN, PROTOS, ROUTER, World, addr, expect, hop, key, redirect, sent, stack, via,
};

both_families![
    by_the_road_and_back,
    each_direction_has_a_way_of_its_own,
    a_flow_changes_over_at_any_moment,
    the_first_packet_of_a_generation_goes_by_the_road,
    xdp_sends_only_where_the_driver_transmits,
    two_cpus_make_the_same_second_legs,
];

pub(crate) const IN: (Hook, u32) = (Hook::ExternalIn, EXTERNAL);
pub(crate) const OUT: (Hook, u32) = (Hook::ExternalOut, EXTERNAL);
const XDP: (Hook, u32) = (Hook::Xdp, EXTERNAL);

/// A second device to other networks.
pub(crate) const SECOND: u32 = 3;

/// A flow of a client outside to a backend elsewhere.
pub(crate) struct Talk<A: Answer> {
    /// What the client sends.
    pub(crate) out: Craft,
    /// What the backend answers.
    pub(crate) back: Craft,
    pub(crate) tuple: FlowKey<A>,
    pub(crate) to: FlowKey<A>,
}

impl<A: Answer> Talk<A> {
    /// Begins one; its first packet takes whatever way there is.
    pub(crate) fn begin(world: &mut World<A>, tuple: FlowKey<A>) -> Self {
        let out = sent::<A>(&tuple, [ROUTER, OWN]);
        let (decision, _) = world.run(IN.0, IN.1, &out.frame());
        assert_eq!(decision.reason, Reason::NewFlow, "{decision:?}");
        Self::of(world, tuple)
    }

    /// The one that has begun.
    pub(crate) fn of(world: &World<A>, tuple: FlowKey<A>) -> Self {
        let to = world.flow(&tuple).expect("a flow").translated(tuple.proto);
        let out = sent::<A>(&tuple, [ROUTER, OWN]);
        Self { out, back: sent::<A>(&to.reversed(), [ROUTER, OWN]), tuple, to }
    }

    pub(crate) fn value(&self, world: &World<A>) -> FlowValue<A> {
        let flow = world.flow(&self.tuple).expect("a flow");
        assert_eq!(flow.translated(self.tuple.proto), self.to, "translated as ever");
        flow
    }

    /// The client's packet by the shortcut, at tc and at XDP.
    pub(crate) fn on_by_shortcut(&self, world: &mut World<A>) {
        let becomes = hop(&self.out.translated(&self.to), [OWN, ROUTER]);
        for at in [IN, XDP] {
            expect(world, at, &self.out, redirect(EXTERNAL, Reason::Forward), &becomes);
        }
    }

    /// The backend's packet by the shortcut.
    pub(crate) fn back_by_shortcut(&self, world: &mut World<A>) {
        let becomes = hop(&self.back.translated(&self.tuple.reversed()), [OWN, ROUTER]);
        for at in [IN, XDP] {
            expect(world, at, &self.back, redirect(EXTERNAL, Reason::Reply), &becomes);
        }
    }

    /// The client's packet by the road: the destination where it comes in, the source where it leaves.
    pub(crate) fn on_by_road(&self, world: &mut World<A>) {
        expect(world, XDP, &self.out, Decision::pass(Reason::LeftToTc), &self.out);
        let (decision, bytes) = world.run(IN.0, IN.1, &self.out.frame());
        assert_eq!(decision, stack(Reason::Forward));
        let port = self.value(world).road_port;
        let between = FlowKey { src: self.tuple.src, sport: port, ..self.to };
        let between = self.out.translated(&between);
        assert_eq!(bytes, between.frame(), "the first leg");
        let leaves = hop(&between, [OWN, ROUTER]);
        expect(world, OUT, &leaves, stack(Reason::Forward), &leaves.translated(&self.to));
        world.assert_pairs();
    }

    /// The backend's packet by the road.
    pub(crate) fn back_by_road(&self, world: &mut World<A>) {
        expect(world, XDP, &self.back, Decision::pass(Reason::LeftToTc), &self.back);
        let (decision, bytes) = world.run(IN.0, IN.1, &self.back.frame());
        assert_eq!(decision, stack(Reason::Reply));
        let port = self.value(world).road_port;
        let between = FlowKey { dst: self.tuple.src, dport: port, ..self.to.reversed() };
        let between = self.back.translated(&between);
        assert_eq!(bytes, between.frame(), "the first leg");
        let leaves = hop(&between, [OWN, ROUTER]);
        let becomes = leaves.translated(&self.tuple.reversed());
        expect(world, OUT, &leaves, stack(Reason::Reply), &becomes);
        world.assert_pairs();
    }
}

/// A world with a node port that leads elsewhere, and the client's packets to it.
pub(crate) fn begun<A: Answer>(
    proto: u8,
    prepare: impl FnOnce(&mut World<A>),
) -> (World<A>, Talk<A>) {
    let mut world = World::<A>::new();
    let device = DeviceValue { role: DeviceRole::External as u8, ..world.env.devices[&EXTERNAL] };
    let _ = world.env.devices.insert(SECOND, device);
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
    prepare(&mut world);
    let talk = Talk::begin(&mut world, key("client", 4000, "node", 30000, proto));
    (world, talk)
}

/// What is known of the ways to either end changes.
fn change<A: Answer>(world: &mut World<A>, change: impl FnOnce(&mut World<A>)) {
    change(world);
    world.env.generation += 1;
    let generation = world.env.generation;
    for route in world.env.routes.values_mut() {
        if let Route::Via(hop) = route {
            hop.generation = generation;
        }
    }
}

fn route<A: Answer>(world: &mut World<A>, to: &str, route: Route) {
    let _ = world.env.routes.insert(addr(to), route);
}

const PLAIN: Route = via(EXTERNAL, ROUTER, OWN);

/// Why there is no shortcut, for both directions alike.
const HINDRANCES: [&str; 5] = ["forbidden", "unknown", "unresolved", "local", "no Ethernet"];

fn hinder<A: Answer>(world: &mut World<A>, by: &str, to: &str) {
    match by {
        "forbidden" => world.env.stack_only = true,
        "unknown" => route(world, to, Route::Unknown),
        "unresolved" => route(world, to, Route::Unresolved(EXTERNAL)),
        // Behind an address that the node has itself, says the route: the slice knows better.
        "local" if to == "remote-pod" => route(world, to, Route::Local),
        "local" => route(world, to, Route::Unknown),
        _ => {
            let tunnel = DeviceValue { ethernet: 0, ..world.env.devices[&SECOND] };
            let _ = world.env.devices.insert(SECOND, tunnel);
            route(world, to, via(SECOND, ROUTER, OWN));
        }
    }
}

fn by_the_road_and_back<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for by in HINDRANCES {
            let (mut world, talk) = begun::<A>(proto, |world| {
                hinder(world, by, "remote-pod");
                hinder(world, by, "client");
            });
            // Nobody else uses the client's port between the two legs.
            assert_eq!(talk.value(&world).road_port, 4000, "{by}");
            assert!((16384..32768).contains(&talk.to.sport), "{by}");
            assert_eq!(talk.to.src, addr("node"));
            for _ in 0..2 {
                talk.on_by_road(&mut world);
                talk.back_by_road(&mut world);
            }
            assert_eq!(world.tables.flows.borrow().len(), 4);
            // A second leg counts nothing: the pair has counted each packet once.
            let packets = talk.value(&world).packets;
            assert_eq!(packets, 3, "{by}");
            assert_eq!(world.tables.stats.borrow().values().map(|s| s.packets).sum::<u64>(), 5);
        }
    }
}

/// Only one of the two is hindered; where that is the replies' way, a reply makes the second legs.
fn each_direction_has_a_way_of_its_own<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for by in &HINDRANCES[1..] {
            let (mut world, talk) = begun::<A>(proto, |world| hinder(world, by, "remote-pod"));
            talk.on_by_road(&mut world);
            talk.back_by_shortcut(&mut world);
            let (mut world, talk) = begun::<A>(proto, |world| hinder(world, by, "client"));
            talk.on_by_shortcut(&mut world);
            assert_eq!(talk.value(&world).road_port, 0, "{by}");
            talk.back_by_road(&mut world);
            talk.on_by_shortcut(&mut world);
            assert_eq!(talk.value(&world).road_port, 4000, "{by}");
            world.assert_pairs();
        }
    }
}

/// The source port stays, by which backend and client know each other.
fn a_flow_changes_over_at_any_moment<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for by in HINDRANCES {
            let (mut world, talk) = begun::<A>(proto, |_| {});
            for _ in 0..3 {
                talk.on_by_shortcut(&mut world);
                talk.back_by_shortcut(&mut world);
                change(&mut world, |world| {
                    hinder(world, by, "remote-pod");
                    hinder(world, by, "client");
                });
                for _ in 0..2 {
                    talk.on_by_road(&mut world);
                    talk.back_by_road(&mut world);
                }
                change(&mut world, |world| {
                    world.env.stack_only = false;
                    route(world, "remote-pod", PLAIN);
                    route(world, "client", PLAIN);
                });
                talk.on_by_road(&mut world);
                talk.back_by_road(&mut world);
            }
            assert_eq!(world.tables.flows.borrow().len(), 4, "{by}");
        }
    }
}

/// So the kernel uses the neighbour too. XDP, which comes first, leaves that packet to tc.
fn the_first_packet_of_a_generation_goes_by_the_road<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, talk) = begun::<A>(proto, |_| {});
        for _ in 0..3 {
            change(&mut world, |_| {});
            talk.on_by_road(&mut world);
            talk.on_by_shortcut(&mut world);
            talk.back_by_road(&mut world);
            talk.back_by_shortcut(&mut world);
        }
        // The new way is used, not the one of before.
        change(&mut world, |world| route(world, "remote-pod", via(SECOND, OWN, ROUTER)));
        talk.on_by_road(&mut world);
        let becomes = hop(&talk.out.translated(&talk.to), [ROUTER, OWN]);
        expect(&mut world, IN, &talk.out, redirect(SECOND, Reason::Forward), &becomes);
    }
}

fn xdp_sends_only_where_the_driver_transmits<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, talk) = begun::<A>(proto, |world| {
            route(world, "remote-pod", via(SECOND, ROUTER, OWN));
        });
        let becomes = hop(&talk.out.translated(&talk.to), [OWN, ROUTER]);
        let on = redirect(SECOND, Reason::Forward);
        let packets = talk.value(&world).packets;
        expect(&mut world, XDP, &talk.out, Decision::pass(Reason::LeftToTc), &talk.out);
        assert_eq!(talk.value(&world).packets, packets, "tc will count it");
        expect(&mut world, IN, &talk.out, on, &becomes);
        world.env.transmitters.push(SECOND);
        expect(&mut world, XDP, &talk.out, on, &becomes);
        // Out of the device where it came in is no redirect.
        world.env.transmitters.clear();
        talk.back_by_shortcut(&mut world);
    }
}

/// The other one has read the entries before this one wrote the port into them.
fn two_cpus_make_the_same_second_legs<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for reply_first in [false, true] {
            let (mut world, talk) = begun::<A>(proto, |world| world.env.stack_only = true);
            let made = talk.value(&world).road_port;
            for flow in world.tables.flows.borrow().values() {
                flow.set(FlowValue { road_port: 0, ..flow.get() });
            }
            if reply_first {
                talk.back_by_road(&mut world);
            }
            talk.on_by_road(&mut world);
            assert_eq!(talk.value(&world).road_port, made);
            assert_eq!(world.tables.flows.borrow().len(), 4);
        }
    }
}
