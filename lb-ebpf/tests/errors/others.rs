//! Errors about flows with one leg, and about a pod's flow to itself.

use lb_common::{FlowKey, FrontendKind, Hook};
use lb_ebpf::{Decision, refuse::Answer};

use crate::{
    Error, IN, OUT, POD_IN, POD_OUT, TURNED, kinds, router, turns,
    world::{EXTERNAL, OWN, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, addr, key, sent},
};
use lb_common::Reason;

both_families![
    a_pod_is_told_about_its_requests,
    a_backend_is_told_about_its_replies_to_a_pod,
    a_client_outside_is_told_about_a_pod_of_this_node,
    a_pod_that_asks_itself_is_told_by_itself,
    the_node_is_told_about_its_own,
];

/// Starts the flow of `tuple`; returns its tuple after translation.
fn begin<A: Answer>(
    world: &mut World<A>,
    (hook, ifindex): (Hook, u32),
    tuple: &FlowKey<A>,
) -> FlowKey<A> {
    let macs = if hook == Hook::PodIn { [POD, POD_OWN] } else { [ROUTER, OWN] };
    let _ = world.run(hook, ifindex, &sent(tuple, macs).frame());
    world.flow(tuple).expect("a flow").translated(tuple.proto)
}

fn a_pod_is_told_about_its_requests<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for backend in ["other-pod", "remote-pod", "node"] {
            let mut world = World::<A>::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[backend]);
            let tuple = key("pod", 4000, "vip", 80, proto);
            let to = begin(&mut world, POD_IN, &tuple);
            for (from, seen) in [
                (addr(backend), addr("vip")),
                (router(), router()),
                (addr("node-at-pods"), addr("node-at-pods")),
            ] {
                let error = Error { from, to: tuple.src, about: to };
                // On its way in it is nobody's yet.
                turns(&mut world, IN, &error, Decision::pass(Reason::Icmp), &error);
                let told = Error { from: seen, about: tuple, ..error };
                turns(&mut world, POD_OUT, &error, TURNED, &told);
            }
        }
    }
}

fn a_backend_is_told_about_its_replies_to_a_pod<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
        let tuple = key("pod", 4000, "vip", 80, proto);
        let to = begin(&mut world, POD_IN, &tuple);
        let error = Error { from: tuple.src, to: tuple.dst, about: tuple.reversed() };
        let told = Error { from: tuple.src, to: to.dst, about: to.reversed() };
        turns(&mut world, POD_IN, &error, TURNED, &told);
        // At the other edges it is what it is.
        turns(&mut world, OUT, &told, Decision::pass(Reason::Icmp), &told);
    }
}

fn a_client_outside_is_told_about_a_pod_of_this_node<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["pod"]);
        let tuple = key("client", 4000, "node", 30000, proto);
        let to = begin(&mut world, IN, &tuple);
        for (from, seen) in
            [(addr("pod"), addr("node")), (addr("node-at-pods"), addr("node-at-pods"))]
        {
            let error = Error { from, to: tuple.src, about: to };
            turns(&mut world, POD_IN, &error, Decision::pass(Reason::Icmp), &error);
            let told = Error { from: seen, to: tuple.src, about: tuple };
            turns(&mut world, OUT, &error, TURNED, &told);
        }
        for from in [tuple.src, router()] {
            let error = Error { from, to: tuple.dst, about: tuple.reversed() };
            let told = Error { from, to: to.dst, about: to.reversed() };
            turns(&mut world, IN, &error, TURNED, &told);
            turns(&mut world, POD_OUT, &told, Decision::pass(Reason::Icmp), &told);
        }
    }
}

fn a_pod_that_asks_itself_is_told_by_itself<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["pod"]);
        let tuple = key("pod", 4000, "vip", 80, proto);
        let to = begin(&mut world, POD_IN, &tuple);
        let between =
            FlowKey { src: tuple.src, sport: world.flow(&tuple).unwrap().road_port, ..to };
        let pod: A = addr("pod");
        let error = Error { from: pod, to: to.src, about: to };
        let on_road = Error { from: pod, to: pod, about: between };
        turns(&mut world, POD_IN, &error, TURNED, &on_road);
        let told = Error { from: addr("vip"), to: pod, about: tuple };
        turns(&mut world, POD_OUT, &on_road, TURNED, &told);
        // And about the reply, by the client that it is as well.
        let error = Error { from: pod, to: tuple.dst, about: tuple.reversed() };
        let on_road = Error { from: pod, to: pod, about: between.reversed() };
        turns(&mut world, POD_IN, &error, TURNED, &on_road);
        let told = Error { from: to.src, to: pod, about: to.reversed() };
        turns(&mut world, POD_OUT, &on_road, TURNED, &told);
    }
}

/// What no socket hook saw: its replies come in at another device than they are handed on at.
fn the_node_is_told_about_its_own<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for (backend, at) in [("remote-pod", IN), ("pod", (Hook::PodIn, POD_DEVICE))] {
            let mut world = World::<A>::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[backend]);
            let tuple = key("node", 4000, "vip", 80, proto);
            let to = begin(&mut world, (Hook::ExternalOut, EXTERNAL), &tuple);
            for (from, seen) in [(addr(backend), addr("vip")), (router(), router())] {
                let error = Error { from, to: to.src, about: to };
                let told = Error { from: seen, to: tuple.src, about: tuple };
                turns(&mut world, at, &error, TURNED, &told);
            }
        }
    }
    assert!(!kinds::<A>().is_empty());
}
