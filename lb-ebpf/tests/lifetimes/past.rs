//! What is over makes way for packets past the Service, from the same port to the same backend.

use lb_common::{FlowKey, FrontendKind, HOOKS, Hook, Reason, proto};
use lb_ebpf::refuse::Answer;

use crate::{
    ACK, FIN, RST, SYN, SYN_ACK,
    world::{EXTERNAL, HZ, OWN, POD_DEVICE, ROUTER, World, key, seen_at, sent},
};

both_families![
    a_connection_past_the_service_ends_a_finished_one_by_the_same_ports,
    a_datagram_past_the_service_ends_a_flow_that_its_client_left,
];

/// Who used a Service before, where, and its only backend.
type Way = (&'static str, Hook, &'static str);

const WAYS: [Way; 9] = [
    ("pod", Hook::PodIn, "other-pod"),
    ("pod", Hook::PodIn, "remote-pod"),
    ("pod", Hook::PodIn, "node"),
    ("client", Hook::ExternalIn, "pod"),
    ("client", Hook::ExternalIn, "node"),
    ("client", Hook::ExternalIn, "remote-pod"),
    ("node", Hook::ExternalOut, "pod"),
    ("node", Hook::ExternalOut, "remote-pod"),
    ("node", Hook::ExternalOut, "node"),
];

const fn device(hook: Hook) -> u32 {
    match hook {
        Hook::PodIn | Hook::PodOut => POD_DEVICE,
        Hook::ExternalIn | Hook::ExternalOut | Hook::Xdp => EXTERNAL,
        Hook::LoopbackOut | Hook::Socket => 1,
    }
}

fn run<A: Answer>(world: &mut World<A>, tuple: &FlowKey<A>, flags: u8) -> Reason {
    let hook = Hook::from_u8(tuple.hook).unwrap();
    let frame = sent(tuple, [ROUTER, OWN]).flags(flags).frame();
    world.run(hook, device(hook), &frame).0.reason
}

/// What the client sends to a Service, as often as there are bits, and the backend answers; by the shortcut
/// or by the road. Returns how a packet past the Service meets the leftovers: addresses, ports and hook.
fn talk<A: Answer>(
    world: &mut World<A>,
    (from, hook, backend): Way,
    proto: u8,
    by_road: bool,
    [client, answer]: [&[u8]; 2],
) -> FlowKey<A> {
    *world = World::new();
    world.env.stack_only = by_road;
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[backend]);
    let tuple = seen_at(hook, key(from, 4000, "vip", 80, proto));
    for flags in client {
        let _ = run(world, &tuple, *flags);
    }
    let flow = world.flow(&tuple).expect("a flow");
    let reply = flow.other_key(proto);
    for flags in answer {
        assert_eq!(run(world, &reply, *flags), Reason::Reply);
    }
    let met = match flow.second_legs(&tuple) {
        Some([_, back]) => back,
        None => reply,
    };
    FlowKey { hook: Hook::opposite_of(met.hook), ..met.reversed() }
}

/// Every way, and the ones that there are by the road too.
fn each_way(mut check: impl FnMut(Way, bool)) {
    for way in WAYS {
        check(way, false);
        if way.1 == Hook::ExternalIn && way.2 == "remote-pod" {
            check(way, true);
        }
    }
}

/// The client reaches the backend another way, by the port that it used for the Service: what is left
/// of that connection must not translate the replies of this one.
fn a_connection_past_the_service_ends_a_finished_one_by_the_same_ports<A: Answer>(
    world: &mut World<A>,
) {
    // What was said and heard before, and whether that is over.
    let cases: [([&[u8]; 2], bool); 4] = [
        ([&[SYN], &[]], false),
        ([&[SYN, ACK], &[SYN_ACK, FIN]], false),
        ([&[SYN, ACK, FIN], &[SYN_ACK, FIN]], true),
        ([&[SYN], &[RST]], true),
    ];
    for (said, over) in cases {
        each_way(|way, by_road| {
            let direct = talk(world, way, proto::TCP, by_road, said);
            let before = world.tables.flows.borrow().len();
            assert_eq!(before, if by_road { 4 } else { 2 });
            let what = format!("{way:?} {said:?} {direct:?}");
            // Only what opens a connection does so, where its answers would meet the leftovers.
            for (hook, flags) in HOOKS[..6].iter().flat_map(|hook| [(*hook, ACK), (*hook, SYN)]) {
                if flags == SYN && hook as u8 == direct.hook {
                    continue;
                }
                if by_road && hook == Hook::ExternalOut {
                    // The second leg itself.
                    continue;
                }
                assert_eq!(run(world, &seen_at(hook, direct), flags), Reason::NotService, "{what}");
                assert_eq!(world.tables.flows.borrow().len(), before, "{what} at {hook:?}");
            }
            assert_eq!(run(world, &direct, SYN), Reason::NotService, "{what}");
            let left = world.tables.flows.borrow().len();
            assert_eq!(left, if over { 0 } else { before }, "{what}");
        });
    }
}

/// A datagram has no SYN: the flow is over for it once its client has sent nothing for a moment.
fn a_datagram_past_the_service_ends_a_flow_that_its_client_left<A: Answer>(world: &mut World<A>) {
    // Seconds since the client's last datagram, and whether that was long ago. Answers keep nothing.
    for (idle, over) in [(0, false), (2, false), (6, true), (100, true)] {
        each_way(|way, by_road| {
            let direct = talk(world, way, proto::UDP, by_road, [&[0], &[]]);
            let before = world.tables.flows.borrow().len();
            world.env.now.set(world.env.now.get().wrapping_add(idle * HZ));
            let tuple = key(way.0, 4000, "vip", 80, proto::UDP);
            let reply = world.flow(&tuple).unwrap().other_key(proto::UDP);
            assert_eq!(run(world, &reply, 0), Reason::Reply);
            let what = format!("{way:?} after {idle} s");
            // Not by another's, and not elsewhere.
            for other in [
                FlowKey { sport: direct.sport.wrapping_add(1), ..direct },
                FlowKey { dport: 8081, ..direct },
                seen_at(Hook::Xdp, direct),
            ] {
                assert_eq!(run(world, &other, 0), Reason::NotService, "{what}");
            }
            assert_eq!(world.tables.flows.borrow().len(), before, "{what}");
            assert_eq!(run(world, &direct, 0), Reason::NotService, "{what}");
            let left = world.tables.flows.borrow().len();
            assert_eq!(left, if over { 0 } else { before }, "{what}");
        });
    }
}
