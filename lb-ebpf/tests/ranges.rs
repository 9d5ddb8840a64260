//! Source ranges: who may use a load balancer's address, at every hook.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{
    FrontendKey,
    FrontendKind::{ClusterIp, LoadBalancer, NodePort},
    FrontendValue, Hook, MacAddr, Reason, proto,
};
use lb_ebpf::{
    Decision, Verdict,
    refuse::Answer,
    socket::{Call, Outcome, connect, sendmsg},
};
use world::{
    EXTERNAL, OWN, Offer, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, addr, key, sent,
};

both_families![
    only_who_is_in_a_range_is_served,
    whoever_is_outside_learns_nothing,
    no_set_means_anybody,
    a_set_without_ranges_means_nobody,
    a_connection_outlives_its_range,
    sockets_leave_the_check_to_the_devices,
    other_frontends_of_the_service_have_no_ranges,
    the_address_itself_may_be_a_client,
];

const SET: u32 = 3;

/// XDP judges nobody.
const LEFT: Decision = Decision::pass(Reason::LeftToTc);

/// Every way to a load balancer's address.
const WAYS: [(Hook, u32, &str, [MacAddr; 2]); 5] = [
    (Hook::PodIn, POD_DEVICE, "pod", [POD, POD_OWN]),
    (Hook::ExternalIn, EXTERNAL, "client", [ROUTER, OWN]),
    (Hook::Xdp, EXTERNAL, "client", [ROUTER, OWN]),
    (Hook::ExternalOut, EXTERNAL, "node", [OWN, ROUTER]),
    (Hook::LoopbackOut, 1, "node", [OWN, OWN]),
];

fn restricted<A: Answer>(proto: u8, backends: &[&str], members: &[&str]) -> World<A> {
    let mut world = World::new();
    let offer = Offer::of(LoadBalancer, "public", 80, proto, backends, &[]);
    let _ = world.offer(&Offer { ranges: SET, ..offer });
    let bits = u8::try_from(8 * size_of::<A>()).unwrap();
    for member in members {
        // The range that has this address and its neighbour, and not one more.
        let mut net = addr::<A>(member);
        *bytemuck::bytes_of_mut(&mut net).last_mut().unwrap() &= 0xfe;
        world.tables.ranges.push((SET, net, bits - 1));
    }
    world
}

/// SR-1, SR-2, SR-3.
fn only_who_is_in_a_range_is_served<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for (hook, device, from, macs) in WAYS {
            for member in ["pod", "client", "node"] {
                let mut world = restricted::<A>(proto, &["remote-pod"], &[member]);
                let tuple = key::<A>(from, 4000, "public", 80, proto);
                let frame = sent(&tuple, macs).frame();
                let (decision, bytes) = world.run(hook, device, &frame);
                let what = format!("{from} at {hook:?}, {member} allowed: {decision:?}");
                if hook == Hook::Xdp {
                    assert_eq!((decision, bytes), (LEFT, frame), "{what}");
                    assert!(world.tables.flows.borrow().is_empty(), "{what}");
                } else if from == member {
                    assert_eq!(world.flow(&tuple).unwrap().dst, addr("remote-pod"), "{what}");
                } else {
                    assert_eq!(decision, Decision::drop(Reason::SourceRange), "{what}");
                    assert_eq!(bytes, frame, "{what}");
                    assert!(world.tables.flows.borrow().is_empty(), "{what}");
                }
            }
        }
    }
}

/// SR-7, SR-8: silence for those outside, whatever serves; those inside are told.
fn whoever_is_outside_learns_nothing<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for (hook, device, from, macs) in WAYS {
            let tuple = key::<A>(from, 4000, "public", 80, proto);
            let frame = sent(&tuple, macs).frame();
            let (outside, _) =
                restricted::<A>(proto, &[], &["remote-pod"]).run(hook, device, &frame);
            let judged = |decision| if hook == Hook::Xdp { LEFT } else { decision };
            assert_eq!(outside, judged(Decision::drop(Reason::SourceRange)), "{hook:?}");
            let (inside, _) = restricted::<A>(proto, &[], &[from]).run(hook, device, &frame);
            let told = judged(Decision::new(Verdict::Answer, Reason::NoBackend));
            assert_eq!(inside, told, "{hook:?}");
            let mut local = restricted::<A>(proto, &["remote-pod"], &[from]);
            local.tables.frontends.values_mut().for_each(|value| value.local = 1);
            let (decision, _) = local.run(hook, device, &frame);
            let dropped = decision == Decision::drop(Reason::NoLocalBackend);
            assert_eq!(dropped, hook == Hook::ExternalIn, "{hook:?}: {decision:?}");
        }
    }
}

/// SR-4, SR-5.
fn no_set_means_anybody<A: Answer>(_: &mut World<A>) {
    for (hook, device, from, macs) in WAYS {
        let mut world = restricted::<A>(proto::TCP, &["remote-pod"], &["other-pod"]);
        world.tables.frontends.values_mut().for_each(|value| value.ranges = 0);
        let tuple = key::<A>(from, 4000, "public", 80, proto::TCP);
        let _ = world.run(hook, device, &sent(&tuple, macs).frame());
        assert_eq!(world.flow(&tuple).is_some(), hook != Hook::Xdp, "{hook:?}");
    }
}

/// SR-10.
fn a_set_without_ranges_means_nobody<A: Answer>(_: &mut World<A>) {
    for (hook, device, from, macs) in WAYS {
        let mut world = restricted::<A>(proto::TCP, &["remote-pod"], &[]);
        // The same range of another Service helps nobody.
        world.tables.ranges.push((SET + 1, addr(from), 8));
        let tuple = key::<A>(from, 4000, "public", 80, proto::TCP);
        let (decision, _) = world.run(hook, device, &sent(&tuple, macs).frame());
        let drop = Decision::drop(Reason::SourceRange);
        assert_eq!(decision, if hook == Hook::Xdp { LEFT } else { drop }, "{hook:?}");
    }
}

/// SR-3, NE-9.
fn a_connection_outlives_its_range<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = restricted::<A>(proto, &["remote-pod"], &["client"]);
        let frame =
            |sport| sent(&key::<A>("client", sport, "public", 80, proto), [ROUTER, OWN]).frame();
        let (first, _) = world.run(Hook::ExternalIn, EXTERNAL, &frame(1));
        assert_eq!(first, world::redirect(EXTERNAL, Reason::NewFlow));
        world.tables.frontends.values_mut().for_each(|value| (value.ranges, value.len) = (99, 0));
        let (next, _) = world.run(Hook::ExternalIn, EXTERNAL, &frame(1));
        assert_eq!(next, world::redirect(EXTERNAL, Reason::Forward));
        let (new, _) = world.run(Hook::ExternalIn, EXTERNAL, &frame(2));
        assert_eq!(new, Decision::drop(Reason::SourceRange));
    }
}

/// SR-2: a socket has no address yet.
fn sockets_leave_the_check_to_the_devices<A: Answer>(_: &mut World<A>) {
    for backends in [&["pod"][..], &[]] {
        for members in [&["node"][..], &[]] {
            let world = restricted::<A>(proto::UDP, backends, members);
            let call = Call { cookie: 1, addr: addr("public"), port: 80, proto: proto::UDP };
            let left = Outcome::Untouched(Reason::LeftToDevice);
            assert_eq!(connect(&world.tables, &world.env, &call), left);
            assert_eq!(sendmsg(&world.tables, &world.env, &call), left);
            assert!(world.tables.socks.borrow().is_empty());
        }
    }
}

/// SR-1, NP-15, EIP-3.
fn other_frontends_of_the_service_have_no_ranges<A: Answer>(_: &mut World<A>) {
    let mut world = restricted::<A>(proto::TCP, &["remote-pod"], &["other-pod"]);
    let value = world.tables.frontends[&FrontendKey::new(addr::<A>("public"), 80, proto::TCP)];
    for (kind, name, port) in [(ClusterIp, "vip", 80), (NodePort, "node", 30000)] {
        let value = FrontendValue { kind: kind as u8, ranges: 0, ..value };
        world.put_frontend(name, port, proto::TCP, value);
        let tuple = key::<A>("client", 4000, name, port, proto::TCP);
        let _ = world.run(Hook::ExternalIn, EXTERNAL, &sent(&tuple, [ROUTER, OWN]).frame());
        assert!(world.flow(&tuple).is_some(), "{name}");
    }
}

/// SR-6, B18: where the address is the node's own, the node's packets to it come from it.
fn the_address_itself_may_be_a_client<A: Answer>(_: &mut World<A>) {
    for members in [&["public"][..], &["node"]] {
        let mut world = restricted::<A>(proto::TCP, &["remote-pod"], members);
        let tuple = key::<A>("public", 4000, "public", 80, proto::TCP);
        let (decision, _) = world.run(Hook::LoopbackOut, 1, &sent(&tuple, [OWN, OWN]).frame());
        let served = decision == world::redirect(EXTERNAL, Reason::NewFlow);
        assert_eq!(served, members == ["public"], "{decision:?}");
    }
}
