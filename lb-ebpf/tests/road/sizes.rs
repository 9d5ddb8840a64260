//! What the shortcut cannot carry takes the road, where the kernel knows what to do with it.

use lb_common::{NextHop, Reason, proto};
use lb_ebpf::{
    Route,
    host::craft::{Craft, Transport},
    refuse::Answer,
};

use crate::{
    EXTERNAL, IN, Talk, begun, route,
    world::{OWN, PROTOS, ROUTER, World, redirect, stack},
};

both_families![
    what_is_too_large_for_the_next_hop_takes_the_road,
    a_first_packet_that_is_too_large_takes_the_road,
    what_is_cut_into_segments_that_fit_takes_the_shortcut,
    the_kernel_tells_whose_hop_limit_is_used_up,
];

const MTU: u16 = 1400;

fn narrow<A: Answer>(world: &mut World<A>) {
    let generation = world.env.generation;
    let hop = NextHop { ifindex: EXTERNAL, generation, mtu: MTU, dmac: ROUTER, smac: OWN };
    route(world, "remote-pod", Route::Via(hop));
}

/// The client's packet with so many bytes from the IP header on.
fn of_length<A: Answer>(talk: &Talk<A>, length: usize) -> Craft {
    let bare = Craft { payload: Vec::new(), ..talk.out.clone() };
    let headers = bare.frame().len() - 14;
    Craft { payload: vec![0x5a; length - headers], ..bare }
}

fn what_is_too_large_for_the_next_hop_takes_the_road<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, mut talk) = begun::<A>(proto, narrow);
        let mtu = usize::from(MTU);
        for length in [mtu, mtu + 1, 100, 1500, mtu - 1] {
            talk.out = of_length(&talk, length);
            if length > mtu {
                let (decision, _) = world.run(IN.0, IN.1, &talk.out.frame());
                assert_eq!(decision, stack(Reason::Forward), "{length} bytes");
                talk.on_by_road(&mut world);
            } else {
                talk.on_by_shortcut(&mut world);
            }
        }
        // The way back has room.
        talk.back = Craft { payload: vec![1; 1400], ..talk.back };
        talk.back_by_shortcut(&mut world);
    }
}

fn a_first_packet_that_is_too_large_takes_the_road<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, talk) = begun::<A>(proto, narrow);
        let large = of_length(&talk, 1401).frame();
        world.tables.flows.borrow_mut().clear();
        let (decision, _) = world.run(IN.0, IN.1, &large);
        assert_eq!(decision, stack(Reason::NewFlow));
        world.assert_pairs();
        let talk = Talk::of(&world, talk.tuple);
        assert_eq!(talk.value(&world).road_port, 4000);
        talk.on_by_shortcut(&mut world);
        talk.back_by_shortcut(&mut world);
    }
}

fn what_is_cut_into_segments_that_fit_takes_the_shortcut<A: Answer>(_: &mut World<A>) {
    let ip = if A::FAMILY == lb_common::Family::V4 { 20 } else { 40 };
    for options in [0, 12] {
        for proto in [proto::TCP, proto::UDP] {
            let (mut world, talk) = begun::<A>(proto, narrow);
            let mut craft = of_length(&talk, 9000);
            let mut headers = ip + 8;
            if let Transport::Tcp { options: bytes, .. } = &mut craft.transport {
                *bytes = vec![1; options];
                headers = ip + 20 + u32::try_from(options).unwrap();
            }
            let frame = craft.frame();
            let most = u32::from(MTU) - headers;
            for (segment, fits) in [(most, true), (most + 1, false), (100, true), (0, false)] {
                let decision = world.run_segments(IN, &frame, segment);
                let wanted =
                    if fits { redirect(EXTERNAL, Reason::Forward) } else { stack(Reason::Forward) };
                assert_eq!(decision, wanted, "{segment} of protocol {proto}, {options} options");
            }
        }
    }
    // Of SCTP the kernel tells no size of segments (GSO_BY_FRAGS).
    let (mut world, talk) = begun::<A>(proto::SCTP, narrow);
    let frame = of_length(&talk, 9000).frame();
    assert_eq!(world.run_segments(IN, &frame, 0xffff), stack(Reason::Forward));
}

/// Not dropped in silence: the stack answers, and nobody forwards what has no hop left.
fn the_kernel_tells_whose_hop_limit_is_used_up<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, talk) = begun::<A>(proto, |_| {});
        for (limit, by_road) in [(0, true), (1, true), (2, false), (255, false)] {
            let of = |craft: &Craft| Craft { hop_limit: limit, ..craft.clone() };
            let talk =
                Talk { out: of(&talk.out), back: of(&talk.back), ..Talk::of(&world, talk.tuple) };
            if by_road {
                for (craft, reason) in [(&talk.out, Reason::Forward), (&talk.back, Reason::Reply)] {
                    let (decision, bytes) = world.run(IN.0, IN.1, &craft.frame());
                    assert_eq!(decision, stack(reason));
                    let life = if craft.src.is_ipv4() { 22 } else { 21 };
                    assert_eq!(bytes[life], limit, "as it came");
                }
            } else {
                talk.on_by_shortcut(&mut world);
                talk.back_by_shortcut(&mut world);
            }
        }
        // Nor does a first packet.
        let (mut world, talk) = begun::<A>(proto, |_| {});
        world.tables.flows.borrow_mut().clear();
        let first = Craft { hop_limit: 1, ..talk.out };
        let (decision, _) = world.run(IN.0, IN.1, &first.frame());
        assert_eq!(decision, stack(Reason::NewFlow));
    }
}
