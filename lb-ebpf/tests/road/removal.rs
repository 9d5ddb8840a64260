//! A flow that goes takes its second legs along.

use lb_common::{BackendState, FrontendKind, Reason, proto};
use lb_ebpf::{Decision, refuse::Answer};

use crate::{
    IN, Talk, begun,
    world::{self, World, addr, key},
};

both_families![
    what_opens_a_connection_over_a_finished_one_begins_a_road_of_its_own,
    a_datagram_leaves_the_road_of_a_backend_that_left,
    an_idle_flow_and_its_road_end_together,
    what_begins_anew_at_xdp_is_left_to_tc,
];

/// TCP with its SYN and RST, SCTP with its INIT and ABORT.
const ENDS: [(u8, u8, u8); 2] = [(proto::TCP, 0x02, 0x04), (proto::SCTP, 1, 6)];

fn what_opens_a_connection_over_a_finished_one_begins_a_road_of_its_own<A: Answer>(
    _: &mut World<A>,
) {
    for (proto, opens, ends) in ENDS {
        for by_road in [false, true] {
            let (mut world, mut talk) = begun::<A>(proto, |world| world.env.stack_only = true);
            talk.on_by_road(&mut world);
            talk.back_by_road(&mut world);
            talk.back = talk.back.clone().flags(ends);
            talk.back_by_road(&mut world);
            world.env.stack_only = by_road;
            let craft = talk.out.clone().flags(opens);
            let (decision, _) = world.run(IN.0, IN.1, &craft.frame());
            assert_eq!(decision.reason, Reason::NewFlow);
            world.assert_pairs();
            assert_eq!(world.tables.flows.borrow().len(), if by_road { 4 } else { 2 });
            let next = Talk::of(&world, talk.tuple);
            assert_ne!(next.to.sport, talk.to.sport, "drawn afresh");
            if by_road {
                next.on_by_road(&mut world);
                next.back_by_road(&mut world);
            } else {
                next.on_by_shortcut(&mut world);
            }
        }
    }
}

fn a_datagram_leaves_the_road_of_a_backend_that_left<A: Answer>(_: &mut World<A>) {
    for proto in [proto::UDP, proto::SCTP] {
        let (mut world, talk) = begun::<A>(proto, |world| world.env.stack_only = true);
        talk.on_by_road(&mut world);
        world.set_state(1, BackendState::Gone);
        // What its backend still says arrives.
        talk.back_by_road(&mut world);
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["other-pod"]);
        let (decision, bytes) = world.run(IN.0, IN.1, &talk.out.frame());
        assert_eq!(decision, world::stack(Reason::NewFlow));
        let to = key("client", 4000, "other-pod", 8080, proto);
        assert_eq!(bytes, talk.out.translated::<A>(&to).frame());
        world.assert_pairs();
        assert_eq!(world.tables.flows.borrow().len(), 2);
        assert_eq!(world.flow(&talk.tuple).unwrap().dst, addr("other-pod"));
    }
}

fn an_idle_flow_and_its_road_end_together<A: Answer>(_: &mut World<A>) {
    let (mut world, talk) = begun::<A>(proto::UDP, |world| world.env.stack_only = true);
    talk.on_by_road(&mut world);
    let now = world.env.now.get();
    world.env.now.set(now.wrapping_add(40 * world::HZ));
    world.env.stack_only = false;
    let (decision, _) = world.run(IN.0, IN.1, &talk.out.frame());
    assert_eq!(decision, world::redirect(IN.1, Reason::NewFlow));
    world.assert_pairs();
    assert_eq!(world.tables.flows.borrow().len(), 2);
}

fn what_begins_anew_at_xdp_is_left_to_tc<A: Answer>(_: &mut World<A>) {
    for (proto, opens, ends) in ENDS {
        let (mut world, talk) = begun::<A>(proto, |_| {});
        let end = talk.out.clone().flags(ends);
        assert_eq!(world.run(IN.0, IN.1, &end.frame()).0.reason, Reason::Forward);
        let before = world.tables.flows.borrow().len();
        let craft = talk.out.clone().flags(opens);
        let left = Decision::pass(Reason::LeftToTc);
        world::expect(&mut world, crate::XDP, &craft, left, &craft);
        assert_eq!(world.tables.flows.borrow().len(), before);
        assert_eq!(world.run(IN.0, IN.1, &craft.frame()).0.reason, Reason::NewFlow);
    }
}
