//! ICMP errors about packets of flows: who sent the packet is told of the addresses that it used.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../world/mod.rs"]
#[macro_use]
mod world;
mod others;
mod untouched;

use lb_common::{Address, FlowKey, FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Decision, Verdict,
    host::craft::{Checksum, Craft, Transport, sum},
    refuse::Answer,
};
use world::{EXTERNAL, OWN, POD_DEVICE, PROTOS, ROUTER, World, addr, key, sent};

both_families![
    beyond_the_backends_side,
    beyond_the_clients_side,
    by_the_nodes_own_stack_between_the_legs,
    by_a_tunnel_of_the_node_about_what_has_left,
    an_error_makes_the_road_that_it_takes,
    without_a_road_an_error_is_lost,
];

pub(crate) const IN: (Hook, u32) = (Hook::ExternalIn, EXTERNAL);
pub(crate) const OUT: (Hook, u32) = (Hook::ExternalOut, EXTERNAL);
pub(crate) const POD_IN: (Hook, u32) = (Hook::PodIn, POD_DEVICE);
pub(crate) const POD_OUT: (Hook, u32) = (Hook::PodOut, POD_DEVICE);
const LOOPBACK_OUT: (Hook, u32) = (Hook::LoopbackOut, 1);

/// An error: who sends it to whom, about which packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Error<A: Address> {
    pub(crate) from: A,
    pub(crate) to: A,
    pub(crate) about: FlowKey<A>,
}

/// One more router than there are names.
pub(crate) fn router<A: Answer>() -> A {
    let (v4, v6) = ("203.0.113.99", "2001:db8:cc::99");
    A::from_ip(if A::FAMILY == lb_common::Family::V4 { v4 } else { v6 }.parse().unwrap()).unwrap()
}

/// Type, code and the word behind the checksum: too big, unreachable, time exceeded, parameter problem.
pub(crate) fn kinds<A: Answer>() -> Vec<([u8; 2], u32)> {
    if A::FAMILY == lb_common::Family::V4 {
        vec![([3, 4], 1400), ([3, 1], 0), ([3, 3], 0), ([11, 0], 0), ([12, 0], 0x0900_0000)]
    } else {
        vec![([2, 0], 1400), ([1, 0], 0), ([1, 4], 0), ([3, 0], 0), ([4, 1], 40)]
    }
}

/// Octets of the transport header and what follows that a router quotes.
pub(crate) const QUOTES: [usize; 6] = [8, 12, 17, 18, 20, 28];

/// How the quoted packet has its checksum.
pub(crate) const CHECKSUMS: [Checksum; 2] = [Checksum::Complete, Checksum::None];

/// A packet with this tuple, as it was quoted: a hop before its end.
fn quoted<A: Answer>(about: &FlowKey<A>, checksum: Checksum) -> Craft {
    let payload = vec![0x77; 24];
    let craft = Craft { hop_limit: 3, payload, ..Craft::of(about) }.flags(0x10);
    // TCP has one always.
    let has_one = matches!(craft.transport, Transport::Tcp { .. });
    Craft { checksum: if has_one { Checksum::Complete } else { checksum }, ..craft }
}

/// The frame of an error, with every checksum summed in full over what it covers. `was` is the packet before
/// its translation.
pub(crate) fn frame<A: Answer>(
    error: &Error<A>,
    was: &FlowKey<A>,
    ([kind, code], rest): ([u8; 2], u32),
    quote: usize,
    checksum: Checksum,
) -> Vec<u8> {
    let ip = if A::FAMILY == lb_common::Family::V4 { 20 } else { 40 };
    let mut quoted_frame = quoted(&error.about, checksum).frame();
    // Of SCTP nobody corrects a part, and of TCP's checksum not a half.
    let kept = match error.about.proto {
        proto::SCTP => 8..12,
        proto::TCP if quote < 18 => 16..18,
        _ => 0..0,
    };
    let kept = 14 + ip + kept.start..14 + ip + kept.end;
    let before = quoted(was, checksum).frame();
    quoted_frame[kept.clone()].copy_from_slice(&before[kept]);
    let outer = FlowKey { src: error.from, dst: error.to, ..error.about };
    let craft = Craft {
        transport: Transport::Icmp(kind, code),
        payload: quoted_frame[14..14 + ip + quote].to_vec(),
        ..sent(&outer, [ROUTER, OWN])
    };
    let mut bytes = craft.frame();
    let icmp = 14 + ip;
    bytes[icmp + 4..icmp + 8].copy_from_slice(&rest.to_be_bytes());
    bytes[icmp + 2..icmp + 4].fill(0);
    let mut covered = bytes[icmp..].to_vec();
    if ip == 40 {
        let length = u32::try_from(covered.len()).unwrap().to_be_bytes();
        covered = [&bytes[22..54], &length, &[0, 0, 0, 58], &covered].concat();
    }
    let check = !sum(&covered);
    bytes[icmp + 2..icmp + 4].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// Every kind of error with every length of a quote becomes another one, and the flows stay as they are.
pub(crate) fn turns<A: Answer>(
    world: &mut World<A>,
    (hook, ifindex): (Hook, u32),
    error: &Error<A>,
    wanted: Decision,
    becomes: &Error<A>,
) {
    let flows = |world: &World<A>| {
        let flows = world.tables.flows.borrow();
        let mut all: Vec<_> = flows.iter().map(|(key, value)| (*key, value.get())).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    };
    let before = flows(world);
    for kind in kinds::<A>() {
        for quote in QUOTES {
            for checksum in CHECKSUMS {
                let arrives = frame(error, &error.about, kind, quote, checksum);
                let (decision, bytes) = world.run(hook, ifindex, &arrives);
                let what = format!("{kind:?} quoting {quote} at {hook:?}: {error:?} {checksum:?}");
                assert_eq!(
                    (decision.verdict, decision.reason),
                    (wanted.verdict, wanted.reason),
                    "{what}"
                );
                assert_eq!(bytes, frame(becomes, &error.about, kind, quote, checksum), "{what}");
                if decision.verdict == Verdict::ToHost {
                    assert_eq!(decision.ifindex, wanted.ifindex, "{what}");
                }
            }
        }
    }
    assert_eq!(flows(world), before, "{error:?}");
}

/// On its way to who is told.
pub(crate) const TURNED: Decision = Decision::new(Verdict::Stack, Reason::Error);

/// A flow from outside to a backend elsewhere, and its tuples: as the client sends it, between the legs,
/// and as it leaves.
pub(crate) fn elsewhere<A: Answer>(proto: u8, by_road: bool) -> (World<A>, [FlowKey<A>; 3]) {
    let mut world = World::new();
    world.env.stack_only = by_road;
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
    // Somebody else's flow has the client's port on the road.
    let _ = world.serve(FrontendKind::NodePort, "public", 80, proto, &["remote-pod"]);
    let mut tuple = FlowKey::default();
    for (name, port) in [("public", 80), ("node", 30000)] {
        tuple = key("client", 4000, name, port, proto);
        let _ = world.run(IN.0, IN.1, &sent(&tuple, [ROUTER, OWN]).frame());
    }
    let flow = world.flow(&tuple).unwrap();
    let to = flow.translated(proto);
    let between = FlowKey { src: tuple.src, sport: flow.road_port, ..to };
    (world, [tuple, between, to])
}

fn beyond_the_backends_side<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [tuple, between, to]) = elsewhere::<A>(proto, true);
        // The receiver itself, or a router between: only the former is the one that was asked.
        for (from, seen) in [(to.dst, tuple.dst), (router(), router())] {
            let error = Error { from, to: to.src, about: to };
            let on_road = Error { from, to: tuple.src, about: between };
            turns(&mut world, IN, &error, TURNED, &on_road);
            let told = Error { from: seen, to: tuple.src, about: tuple };
            turns(&mut world, OUT, &on_road, TURNED, &told);
        }
    }
}

fn beyond_the_clients_side<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [tuple, between, to]) = elsewhere::<A>(proto, true);
        for (from, seen) in [(tuple.src, to.src), (router(), router())] {
            let error = Error { from, to: tuple.dst, about: tuple.reversed() };
            let on_road = Error { from, to: to.dst, about: between.reversed() };
            turns(&mut world, IN, &error, TURNED, &on_road);
            let told = Error { from: seen, to: to.dst, about: to.reversed() };
            turns(&mut world, OUT, &on_road, TURNED, &told);
        }
    }
}

/// The packet does not fit where it is to leave, or its hop limit is used up.
fn by_the_nodes_own_stack_between_the_legs<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [tuple, between, to]) = elsewhere::<A>(proto, true);
        let error = Error { from: addr("node"), to: tuple.src, about: between };
        let told = Error { about: tuple, ..error };
        turns(&mut world, OUT, &error, TURNED, &told);
        let error = Error { from: addr("node"), to: to.dst, about: between.reversed() };
        let told = Error { about: to.reversed(), ..error };
        turns(&mut world, OUT, &error, TURNED, &told);
    }
}

/// It is told to the node, whose address the packet has, and goes up the stack again for who is meant.
fn by_a_tunnel_of_the_node_about_what_has_left<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [tuple, between, to]) = elsewhere::<A>(proto, true);
        let error = Error { from: addr("node"), to: to.src, about: to };
        let on_road = Error { from: addr("node"), to: tuple.src, about: between };
        let again = Decision { ifindex: 1, verdict: Verdict::ToHost, reason: Reason::Error };
        turns(&mut world, LOOPBACK_OUT, &error, again, &on_road);
        let told = Error { about: tuple, ..on_road };
        turns(&mut world, OUT, &on_road, TURNED, &told);
    }
}

/// The packets take the shortcut; what is told about them goes by the stack.
fn an_error_makes_the_road_that_it_takes<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for backwards in [false, true] {
            let (mut world, [tuple, _, to]) = elsewhere::<A>(proto, false);
            assert_eq!(world.tables.flows.borrow().len(), 4);
            let from = router();
            let error = if backwards {
                Error { from, to: tuple.dst, about: tuple.reversed() }
            } else {
                Error { from, to: to.src, about: to }
            };
            let kind = kinds::<A>()[0];
            let arrives = frame(&error, &error.about, kind, 28, Checksum::Complete);
            let (decision, between) = world.run(IN.0, IN.1, &arrives);
            assert_eq!(decision, TURNED);
            world.assert_pairs();
            assert_eq!(world.tables.flows.borrow().len(), 6);
            let (decision, bytes) = world.run(OUT.0, OUT.1, &between);
            assert_eq!(decision, TURNED);
            let told = if backwards {
                Error { from, to: to.dst, about: to.reversed() }
            } else {
                Error { from, to: tuple.src, about: tuple }
            };
            assert_eq!(bytes, frame(&told, &error.about, kind, 28, Checksum::Complete));
            let packets = world.flow(&tuple).unwrap().packets;
            assert_eq!(packets, 1, "no packet of the flow");
        }
    }
}

fn without_a_road_an_error_is_lost<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, [_, _, to]) = elsewhere::<A>(proto, false);
        world.tables.max_flows = 4;
        let error = Error { from: router(), to: to.src, about: to };
        let arrives = frame(&error, &to, kinds::<A>()[0], 28, Checksum::Complete);
        let (decision, bytes) = world.run(IN.0, IN.1, &arrives);
        assert_eq!((decision, bytes), (Decision::drop(Reason::FlowTableFull), arrives));
        world.assert_pairs();
    }
}
