//! Replies leave where the rules of the node want the address that they get, not where they want the
//! backend's.

use lb_common::{FrontendKind, Hook, Reason};
use lb_ebpf::{Decision, Route, Verdict, refuse::Answer};

use crate::{
    EXTERNAL, IN, OUT, SECOND, begun,
    world::{
        OWN, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, addr, expect, hop, key, sent, stack,
        via,
    },
};

both_families![
    a_reply_leaves_as_the_rules_say_for_its_new_source,
    a_reply_on_the_road_does_so_too,
    rules_do_not_concern_other_packets,
];

/// By this device, the kernel fills in the neighbour.
const fn by(ifindex: u32, reason: Reason) -> Decision {
    Decision { ifindex, verdict: Verdict::RedirectNeighbour, reason }
}

/// A rule for what comes from the node port's address.
fn rule<A: Answer>(world: &mut World<A>, route: Route) {
    world.env.source_rules = true;
    let _ = world.env.source_routes.insert((addr("node"), addr("client")), route);
}

fn a_reply_leaves_as_the_rules_say_for_its_new_source<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["pod"]);
        let out = sent::<A>(&key("client", 4000, "node", 30000, proto), [ROUTER, OWN]);
        let _ = world.run(IN.0, IN.1, &out.frame());
        let back = sent::<A>(&key("pod", 8080, "client", 4000, proto), [OWN, ROUTER]);
        let becomes = back.translated::<A>(&key("node", 30000, "client", 4000, proto));
        expect(&mut world, OUT, &back, stack(Reason::Reply), &becomes);
        for (route, exit) in [
            (via(EXTERNAL, ROUTER, OWN), None),
            (via(SECOND, ROUTER, OWN), Some(SECOND)),
            (Route::Unresolved(SECOND), Some(SECOND)),
            // The rules do not say: as the stack did.
            (Route::Unknown, None),
            (Route::Local, None),
        ] {
            world.env.generation += 1;
            rule(&mut world, route);
            let wanted = exit.map_or(stack(Reason::Reply), |exit| by(exit, Reason::Reply));
            for _ in 0..2 {
                expect(&mut world, OUT, &back, wanted, &becomes);
            }
            // Asked once in each generation.
            rule(&mut world, via(99, ROUTER, OWN));
            expect(&mut world, OUT, &back, wanted, &becomes);
        }
        // The device that it left by was another: it stays with that one.
        world.env.generation += 1;
        rule(&mut world, via(SECOND, ROUTER, OWN));
        let at = (Hook::ExternalOut, SECOND);
        expect(&mut world, at, &back, stack(Reason::Reply), &becomes);
        world.env.source_rules = false;
        expect(&mut world, OUT, &back, stack(Reason::Reply), &becomes);
    }
}

fn a_reply_on_the_road_does_so_too<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let (mut world, talk) = begun::<A>(proto, |world| {
            world.env.stack_only = true;
            rule(world, via(SECOND, ROUTER, OWN));
        });
        talk.on_by_road(&mut world);
        let (decision, _) = world.run(IN.0, IN.1, &talk.back.frame());
        assert_eq!(decision, stack(Reason::Reply));
        let between = talk.back.translated::<A>(&key("remote-pod", 8080, "client", 4000, proto));
        let leaves = hop(&between, [OWN, ROUTER]);
        let becomes = leaves.translated(&talk.tuple.reversed());
        for _ in 0..2 {
            expect(&mut world, OUT, &leaves, by(SECOND, Reason::Reply), &becomes);
        }
        world.assert_pairs();
    }
}

fn rules_do_not_concern_other_packets<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        // A pod's replies reach it by its own device.
        let mut world = World::<A>::new();
        rule(&mut world, via(SECOND, ROUTER, OWN));
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["other-pod"]);
        let _ =
            world.env.source_routes.insert((addr("vip"), addr("pod")), via(SECOND, ROUTER, OWN));
        let out = sent::<A>(&key("pod", 4000, "vip", 80, proto), [POD, POD_OWN]);
        let _ = world.run(Hook::PodIn, POD_DEVICE, &out.frame());
        let back = sent::<A>(&key("other-pod", 8080, "pod", 4000, proto), [POD_OWN, POD]);
        let becomes = back.translated::<A>(&key("vip", 80, "pod", 4000, proto));
        expect(&mut world, (Hook::PodOut, POD_DEVICE), &back, stack(Reason::Reply), &becomes);
    }
}
