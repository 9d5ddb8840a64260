//! Packets that are nobody's flow, however much they look like one.

use lb_common::{FrontendKind, Hook, Reason};
use lb_ebpf::{Decision, Verdict, host::craft::Craft, refuse::Answer};

use crate::world::{
    self, EXTERNAL, OWN, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, expect, key, seen_at,
    sent,
};

both_families![
    a_packet_of_another_edge_is_no_packet_of_the_flow,
    what_an_outsider_sends_in_the_name_of_a_pod_is_not_the_pods,
    nobody_outside_has_an_address_of_the_node,
    no_honest_sender_has_such_an_address,
    what_a_bridge_passes_on_starts_nothing,
];

fn a_packet_of_another_edge_is_no_packet_of_the_flow<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
    let out = sent::<A>(&key("pod", 4000, "vip", 80, proto), [POD, POD_OWN]);
    let _ = world.run(Hook::PodIn, POD_DEVICE, &out.frame());
    // The reply of a remote backend enters here on its way to the pod.
    let back = sent::<A>(&key("remote-pod", 8080, "pod", 4000, proto), [ROUTER, OWN]).flags(0x12);
    for hook in [Hook::ExternalIn, Hook::Xdp, Hook::ExternalOut, Hook::PodIn, Hook::LoopbackOut] {
        expect(world, (hook, EXTERNAL), &back, Decision::pass(Reason::NotService), &back);
    }
}

/// It is a client outside, if anything: the pod's flow neither counts its packets nor ends by them, and
/// no translation of the pod's is its.
fn what_an_outsider_sends_in_the_name_of_a_pod_is_not_the_pods<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for name in ["vip", "node"] {
            *world = World::new();
            let kind = if name == "vip" { FrontendKind::ClusterIp } else { FrontendKind::NodePort };
            let _ = world.serve(kind, name, 80, proto, &["remote-pod"]);
            let tuple = key("pod", 4000, name, 80, proto);
            let frame = sent::<A>(&tuple, [POD, POD_OWN]).frame();
            let _ = world.run(Hook::PodIn, POD_DEVICE, &frame);
            let own = seen_at(Hook::PodIn, tuple);
            let entries = |world: &World<A>| {
                let flows = world.tables.flows.borrow();
                let forward = flows[&own].get();
                (forward, flows[&forward.other_key(proto)].get())
            };
            let before = entries(world);
            // RST, SYN, ABORT, INIT.
            for flags in [0x04, 0x02, 0x06, 0x01] {
                for hook in [Hook::ExternalIn, Hook::Xdp] {
                    let forged = sent::<A>(&tuple, [ROUTER, OWN]).flags(flags);
                    let (decision, _) = world.run(hook, EXTERNAL, &forged.frame());
                    assert_eq!(entries(world), before, "{flags:#x} at {hook:?}: {decision:?}");
                }
            }
            world.assert_pairs();
        }
    }
}

fn nobody_outside_has_an_address_of_the_node<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for (name, backend) in [("vip", "pod"), ("node", "remote-pod"), ("public", "node")] {
            *world = World::new();
            let _ = world.serve(FrontendKind::ExternalIp, name, 80, proto, &[backend]);
            let out = sent::<A>(&key("node", 4000, name, 80, proto), [ROUTER, OWN]);
            let dropped = Decision::drop(Reason::BadSource);
            expect(world, (Hook::ExternalIn, EXTERNAL), &out, dropped, &out);
            assert!(world.tables.flows.borrow().is_empty());
        }
    }
}

/// Of a group, of nobody, of loopback: neither from outside nor from a pod.
fn no_honest_sender_has_such_an_address<A: Answer>(world: &mut World<A>) {
    let sources: &[&str] = match A::FAMILY {
        lb_common::Family::V4 => &["224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1"],
        lb_common::Family::V6 => &["ff02::1", "::", "::1"],
    };
    for proto in PROTOS {
        for backend in ["pod", "remote-pod"] {
            *world = World::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[backend]);
            for source in sources {
                for at in [(Hook::ExternalIn, EXTERNAL), (Hook::PodIn, POD_DEVICE)] {
                    let out = Craft {
                        src: source.parse().unwrap(),
                        ..sent::<A>(&key("client", 4000, "vip", 80, proto), [ROUTER, OWN])
                    };
                    expect(world, at, &out, Decision::drop(Reason::BadSource), &out);
                }
            }
            assert!(world.tables.flows.borrow().is_empty());
        }
    }
}

/// The node neither sent nor routed it: it is for whom its Ethernet address says.
fn what_a_bridge_passes_on_starts_nothing<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for backends in [&["remote-pod"][..], &[]] {
            *world = World::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, backends);
            let frame = sent::<A>(&key("node", 4000, "vip", 80, proto), [OWN, ROUTER]).frame();
            let mut place = lb_ebpf::Place::new(Hook::ExternalOut, EXTERNAL);
            place.bridged = true;
            let World { tables, env, work, .. } = world;
            let (decision, bytes) = world::run_with(tables, env, work, place, &frame);
            assert_eq!((decision, bytes), (Decision::pass(Reason::NotService), frame.clone()));
            assert!(world.tables.flows.borrow().is_empty());
            // The same frame of the node itself is served, or refused.
            let (decision, _) = world.run(Hook::ExternalOut, EXTERNAL, &frame);
            assert_ne!(decision.verdict, Verdict::Pass);
        }
    }
}
