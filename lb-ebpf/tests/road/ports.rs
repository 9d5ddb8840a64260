//! The client's port between the two legs of the road: its own, unless another flow has it.

use std::collections::HashSet;

use lb_common::{FrontendKind, Hook, Reason};
use lb_ebpf::{Decision, refuse::Answer};

use crate::{
    IN, Talk,
    world::{self, OWN, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, expect, key, sent},
};

both_families![
    two_frontends_of_one_backend_keep_their_packets_apart,
    a_pod_that_asks_itself_by_two_names_hears_both,
    without_a_port_nothing_is_sent_and_nothing_is_left,
    without_room_nothing_is_sent_and_half_a_road_is_not_left,
];

const FRONTENDS: [(&str, u16); 3] = [("node", 30000), ("public", 80), ("node", 30001)];

/// The same client, port and backend: between the legs only the port tells them apart.
fn two_frontends_of_one_backend_keep_their_packets_apart<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        for (name, port) in FRONTENDS {
            let _ = world.serve(FrontendKind::NodePort, name, port, proto, &["remote-pod"]);
        }
        // The last one takes the shortcut first, and comes to the road later.
        let mut talks = Vec::new();
        for (at, (name, port)) in FRONTENDS.into_iter().enumerate() {
            world.env.stack_only = at < 2;
            talks.push(Talk::<A>::begin(&mut world, key("client", 4000, name, port, proto)));
        }
        world.env.stack_only = true;
        world.env.generation += 1;
        for _ in 0..2 {
            for talk in &talks {
                talk.on_by_road(&mut world);
                talk.back_by_road(&mut world);
            }
        }
        let ports: Vec<u16> = talks.iter().map(|talk| talk.value(&world).road_port).collect();
        assert_eq!(ports[0], 4000);
        assert!(ports[1..].iter().all(|port| (16384..32768).contains(port)), "{ports:?}");
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        assert_eq!(world.tables.flows.borrow().len(), 4 * talks.len());
    }
}

fn a_pod_that_asks_itself_by_two_names_hears_both<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let mut ports = HashSet::new();
        for vip in ["vip", "other-vip"] {
            let _ = world.serve(FrontendKind::ClusterIp, vip, 80, proto, &["pod"]);
        }
        for vip in ["vip", "other-vip"] {
            let tuple = key("pod", 4000, vip, 80, proto);
            let out = sent::<A>(&tuple, [POD, POD_OWN]);
            let (decision, between) = world.run(Hook::PodIn, POD_DEVICE, &out.frame());
            assert_eq!(decision, world::stack(Reason::NewFlow));
            let flow = world.flow(&tuple).unwrap();
            assert!(ports.insert(flow.road_port));
            let to = flow.translated(proto);
            let (decision, arrives) = world.run(Hook::PodOut, POD_DEVICE, &between);
            assert_eq!(decision, world::stack(Reason::Forward));
            assert_eq!(arrives, out.translated(&to).frame());
            let back = sent::<A>(&to.reversed(), [POD, POD_OWN]);
            let (_, between) = world.run(Hook::PodIn, POD_DEVICE, &back.frame());
            let (_, arrives) = world.run(Hook::PodOut, POD_DEVICE, &between);
            assert_eq!(arrives, back.translated(&tuple.reversed()).frame());
        }
        world.assert_pairs();
        assert!(ports.contains(&4000));
    }
}

fn without_a_port_nothing_is_sent_and_nothing_is_left<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let mut talks = Vec::new();
        for (name, port) in FRONTENDS {
            let _ = world.serve(FrontendKind::NodePort, name, port, proto, &["remote-pod"]);
            talks.push(Talk::<A>::begin(&mut world, key("client", 4000, name, port, proto)));
        }
        // One port besides the client's own: none for the third.
        world.env.stack_only = true;
        world.env.generation += 1;
        (world.env.settings.snat_first, world.env.settings.snat_count) = (20_000, 1);
        talks[0].on_by_road(&mut world);
        talks[1].on_by_road(&mut world);
        let none = Decision::drop(Reason::SnatPortsExhausted);
        for craft in [&talks[2].out, &talks[2].back] {
            expect(&mut world, IN, craft, none, craft);
        }
        assert_eq!(talks[2].value(&world).road_port, 0);
        assert_eq!(world.tables.flows.borrow().len(), 4 + 4 + 2);
        world.assert_pairs();
        world.env.settings.snat_count = 100;
        talks[2].back_by_road(&mut world);
        talks[2].on_by_road(&mut world);
    }
}

fn without_room_nothing_is_sent_and_half_a_road_is_not_left<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for room in [2, 3] {
            let mut world = World::<A>::new();
            world.tables.max_flows = room;
            let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
            let full = Decision::drop(Reason::FlowTableFull);
            let tuple = key("client", 4000, "node", 30000, proto);
            let out = sent::<A>(&tuple, [ROUTER, OWN]);
            world.env.stack_only = true;
            for _ in 0..2 {
                expect(&mut world, IN, &out, full, &out);
                world.assert_pairs();
                assert_eq!(world.tables.flows.borrow().len(), 2);
            }
            let talk = Talk::of(&world, tuple);
            expect(&mut world, IN, &talk.back, full, &talk.back);
            world.assert_pairs();
            world.tables.max_flows = 4;
            talk.on_by_road(&mut world);
            talk.back_by_road(&mut world);
        }
    }
}
