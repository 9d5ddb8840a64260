//! Who talks to whom, by which way: hooks, actions, addresses and bytes of every path.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../world/mod.rs"]
#[macro_use]
mod world;
mod strangers;

use lb_common::{FlowKey, FrontendKind, Hook, Location, MacAddr, NextHop, Reason};
use lb_ebpf::{Decision, Route, Verdict, host::craft::Craft, refuse::Answer};
use world::{
    EXTERNAL, OTHER_POD, OTHER_POD_DEVICE, OTHER_POD_OWN, OWN, POD, POD_DEVICE, POD_OWN, PROTOS,
    ROUTER, World, addr, expect, hop, key, redirect, sent, stack, to_host, turned,
};

const LO: MacAddr = MacAddr { octets: [0; 6] };

both_families![
    a_pod_keeps_its_address,
    hairpin,
    outside_to_local_pod,
    outside_to_remote_pod,
    where_the_slice_does_not_say_the_route_tells,
    host_to_remote_pod,
    host_to_local_pod,
    host_to_host_backend,
    next_hops_of_the_node_are_looked_up_in_each_generation,
    the_node_does_not_lower_the_hop_limit_of_its_own,
    no_source_address_means_no_route,
];

/// The translated tuple of the only forward entry, whose source port may be any.
fn translated<A: Answer>(world: &World<A>, of: &FlowKey<A>) -> FlowKey<A> {
    world.assert_pairs();
    world.flow(of).expect("a forward entry").translated(of.proto)
}

/// Whatever it asks for and wherever the backend is: policies between see the pod and the backend.
fn a_pod_keeps_its_address<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for (kind, frontend) in [
            (FrontendKind::ClusterIp, "vip"),
            (FrontendKind::NodePort, "node"),
            (FrontendKind::LoadBalancer, "public"),
        ] {
            for backend in ["other-pod", "remote-pod", "node"] {
                *world = World::new();
                let _ = world.serve(kind, frontend, 80, proto, &[backend]);
                let out = sent::<A>(&key("pod", 4000, frontend, 80, proto), [POD, POD_OWN]);
                let becomes = out.translated::<A>(&key("pod", 4000, backend, 8080, proto));
                let at = (Hook::PodIn, POD_DEVICE);
                expect(world, at, &out, stack(Reason::NewFlow), &becomes);
                expect(world, at, &out, stack(Reason::Forward), &becomes);
                let back = sent::<A>(&key(backend, 8080, "pod", 4000, proto), [POD_OWN, POD]);
                let becomes = back.translated::<A>(&key(frontend, 80, "pod", 4000, proto));
                expect(world, (Hook::PodOut, POD_DEVICE), &back, stack(Reason::Reply), &becomes);
                world.assert_pairs();
                assert_eq!(world.tables.flows.borrow().len(), 2);
            }
        }
    }
}

/// CIP-4: seen as another, or it would answer itself past us. Each half of that where the packet passes
/// the pod's device, so that the stack routes it from the pod to the pod.
fn hairpin<A: Answer>(world: &mut World<A>) {
    let (sends, hears) = ((Hook::PodIn, POD_DEVICE), (Hook::PodOut, POD_DEVICE));
    for proto in PROTOS {
        for (kind, frontend) in [(FrontendKind::ClusterIp, "vip"), (FrontendKind::NodePort, "node")]
        {
            *world = World::new();
            let _ = world.serve(kind, frontend, 80, proto, &["pod"]);
            let tuple = key("pod", 4000, frontend, 80, proto);
            let out = sent::<A>(&tuple, [POD, POD_OWN]);
            let between = out.translated::<A>(&key("pod", 4000, "pod", 8080, proto));
            expect(world, sends, &out, stack(Reason::NewFlow), &between);
            let to = translated(world, &tuple);
            assert_eq!((to.src, to.dst, to.dport), (addr("node-at-pods"), addr("pod"), 8080));
            assert!((16384..32768).contains(&to.sport));
            for reason in [Reason::Forward, Reason::Forward] {
                let arrives = hop(&between, [POD_OWN, POD]);
                expect(world, hears, &arrives, stack(reason), &arrives.translated(&to));
                expect(world, sends, &out, stack(reason), &between);
            }
            let back = turned(&out).translated(&to.reversed());
            let back = Craft { eth: [POD_OWN.octets, POD.octets], ..back };
            let between = back.translated::<A>(&key("pod", 8080, "pod", 4000, proto));
            expect(world, sends, &back, stack(Reason::Reply), &between);
            let arrives = hop(&between, [POD_OWN, POD]);
            let becomes = arrives.translated(&tuple.reversed());
            expect(world, hears, &arrives, stack(Reason::Reply), &becomes);
            world.assert_pairs();
            assert_eq!(world.tables.flows.borrow().len(), 4);
        }
    }
}

fn outside_to_local_pod<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for (kind, frontend) in [(FrontendKind::ClusterIp, "vip"), (FrontendKind::NodePort, "node")]
        {
            for backend in ["pod", "node"] {
                *world = World::new();
                let _ = world.serve(kind, frontend, 80, proto, &[backend]);
                let out = sent::<A>(&key("client", 4000, frontend, 80, proto), [ROUTER, OWN]);
                let becomes = out.translated::<A>(&key("client", 4000, backend, 8080, proto));
                let (tc, xdp) = ((Hook::ExternalIn, EXTERNAL), (Hook::Xdp, EXTERNAL));
                let left = Decision::pass(Reason::LeftToTc);
                expect(world, xdp, &out, left, &out);
                assert!(world.tables.flows.borrow().is_empty());
                expect(world, tc, &out, stack(Reason::NewFlow), &becomes);
                expect(world, xdp, &out, left, &out);
                expect(world, tc, &out, stack(Reason::Forward), &becomes);
                let back = sent::<A>(&key(backend, 8080, "client", 4000, proto), [OWN, ROUTER]);
                let becomes = back.translated::<A>(&key(frontend, 80, "client", 4000, proto));
                let at = (Hook::ExternalOut, EXTERNAL);
                expect(world, at, &back, stack(Reason::Reply), &becomes);
            }
        }
    }
}

/// DNAT and SNAT, past the stack, and back the same way: tc starts it, and either carries it on.
fn outside_to_remote_pod<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for (kind, frontend) in [(FrontendKind::ClusterIp, "vip"), (FrontendKind::NodePort, "node")]
        {
            *world = World::new();
            let _ = world.serve(kind, frontend, 80, proto, &["remote-pod"]);
            let tuple = key("client", 4000, frontend, 80, proto);
            let out = sent::<A>(&tuple, [ROUTER, OWN]);
            let (tc, xdp) = ((Hook::ExternalIn, EXTERNAL), (Hook::Xdp, EXTERNAL));
            expect(world, xdp, &out, Decision::pass(Reason::LeftToTc), &out);
            assert!(world.tables.flows.borrow().is_empty());
            let (decision, bytes) = world.run(tc.0, tc.1, &out.frame());
            assert_eq!(decision, redirect(EXTERNAL, Reason::NewFlow));
            let to = translated(world, &tuple);
            assert_eq!((to.src, to.dst, to.dport), (addr("node"), addr("remote-pod"), 8080));
            assert!((16384..32768).contains(&to.sport));
            let becomes = hop(&out.translated(&to), [OWN, ROUTER]);
            assert_eq!(bytes, becomes.frame());
            let back = sent::<A>(&to.reversed(), [ROUTER, OWN]);
            let returns = hop(&back.translated(&tuple.reversed()), [OWN, ROUTER]);
            for at in [tc, xdp] {
                expect(world, at, &out, redirect(EXTERNAL, Reason::Forward), &becomes);
                expect(world, at, &back, redirect(EXTERNAL, Reason::Reply), &returns);
            }
            assert_eq!(world.tables.flows.borrow().len(), 2);
        }
    }
}

/// Slices written by hand name no node.
fn where_the_slice_does_not_say_the_route_tells<A: Answer>(world: &mut World<A>) {
    for said in [Location::Unknown, Location::Here, Location::Elsewhere] {
        for (backend, is_here) in [("pod", true), ("node", true), ("remote-pod", false)] {
            *world = World::new();
            let id = world.serve(FrontendKind::NodePort, "node", 30000, PROTOS[0], &[backend]);
            world.tables.backends.get_mut(&id).unwrap().location = said as u8;
            let tuple = key("client", 4000, "node", 30000, PROTOS[0]);
            let frame = sent::<A>(&tuple, [ROUTER, OWN]).frame();
            let (decision, _) = world.run(Hook::ExternalIn, EXTERNAL, &frame);
            assert_eq!(decision.reason, Reason::NewFlow, "{said:?} {backend}");
            let keeps = match said {
                Location::Unknown => is_here,
                Location::Here => true,
                Location::Elsewhere => false,
            };
            let src = world.flow(&tuple).unwrap().src;
            assert_eq!(src == addr("client"), keeps, "{said:?} {backend}");
            world.assert_pairs();
        }
    }
}

fn host_to_remote_pod<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
        host_to_pod(
            world,
            proto,
            ("remote-pod", "node", EXTERNAL, [ROUTER, OWN]),
            (Hook::ExternalIn, EXTERNAL),
        );
    }
}

fn host_to_local_pod<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["pod"]);
        host_to_pod(
            world,
            proto,
            ("pod", "node-at-pods", POD_DEVICE, [POD, POD_OWN]),
            (Hook::PodIn, POD_DEVICE),
        );
    }
}

/// A frame to another neighbour; the node that sends it lowers no hop limit.
fn sent_on(craft: &Craft, [from, to]: [MacAddr; 2]) -> Craft {
    Craft { eth: [to.octets, from.octets], ..craft.clone() }
}

/// The node's own packet leaves by the external device, as the routes to the VIP say, and its
/// reply enters there, addressed to that device: the stack takes nothing else.
fn host_to_pod<A: Answer>(
    world: &mut World<A>,
    proto: u8,
    (backend, snat, device, neighbours): (&str, &str, u32, [MacAddr; 2]),
    reply_at: (Hook, u32),
) {
    let tuple = key("node", 4000, "vip", 80, proto);
    let out = sent::<A>(&tuple, [OWN, ROUTER]);
    let at = (Hook::ExternalOut, EXTERNAL);
    let (decision, bytes) = world.run(at.0, at.1, &out.frame());
    assert_eq!(decision, redirect(device, Reason::NewFlow));
    let to = translated(world, &tuple);
    assert_eq!((to.src, to.dst, to.dport), (addr(snat), addr(backend), 8080));
    let becomes = sent_on(&out.translated(&to), [neighbours[1], neighbours[0]]);
    assert_eq!(bytes, becomes.frame());

    let back = sent::<A>(&to.reversed(), neighbours);
    let becomes = sent_on(&back.translated(&tuple.reversed()), [ROUTER, OWN]);
    expect(world, reply_at, &back, to_host(EXTERNAL, Reason::Reply), &becomes);
    let left = Decision::pass(Reason::LeftToTc);
    if reply_at.0 == Hook::ExternalIn {
        expect(world, (Hook::Xdp, EXTERNAL), &back, left, &back);
    }
}

/// A host-network backend: over the loopback device, whose address is all zeros.
fn host_to_host_backend<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["node"]);
        let out = sent::<A>(&key("node", 4000, "vip", 80, proto), [OWN, ROUTER]);
        let becomes = Craft {
            eth: [LO.octets, LO.octets],
            ..out.translated::<A>(&key("node", 4000, "node", 8080, proto))
        };
        let at = (Hook::ExternalOut, EXTERNAL);
        expect(world, at, &out, to_host(1, Reason::NewFlow), &becomes);
        let back = sent::<A>(&key("node", 8080, "node", 4000, proto), [LO, LO]);
        let becomes = back.translated::<A>(&key("vip", 80, "node", 4000, proto));
        expect(world, (Hook::LoopbackOut, 1), &back, stack(Reason::Reply), &becomes);
    }
}

/// The kernel sends the first packet in each, and so uses the neighbour itself.
fn next_hops_of_the_node_are_looked_up_in_each_generation<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
    let tuple = key("node", 4000, "vip", 80, proto);
    let out = sent::<A>(&tuple, [OWN, ROUTER]);
    let at = (Hook::ExternalOut, EXTERNAL);
    let _ = world.run(at.0, at.1, &out.frame());
    let moved = out.translated(&translated(world, &tuple));
    world.env.generation += 1;
    let generation = world.env.generation;
    let new = Route::Via(NextHop {
        ifindex: OTHER_POD_DEVICE,
        generation,
        mtu: world::MTU,
        dmac: OTHER_POD,
        smac: OTHER_POD_OWN,
    });
    let _ = world.env.routes.insert(addr("remote-pod"), new);
    let by_kernel = |ifindex| Decision {
        ifindex,
        verdict: Verdict::RedirectNeighbour,
        reason: Reason::Forward,
    };
    expect(world, at, &out, by_kernel(OTHER_POD_DEVICE), &moved);
    let becomes = sent_on(&moved, [OTHER_POD_OWN, OTHER_POD]);
    expect(world, at, &out, redirect(OTHER_POD_DEVICE, Reason::Forward), &becomes);
    // A neighbour that is not known is asked for again, until it is there; no way is none.
    world.env.generation += 1;
    let _ = world.env.routes.insert(addr("remote-pod"), Route::Unresolved(EXTERNAL));
    for _ in 0..2 {
        expect(world, at, &out, by_kernel(EXTERNAL), &moved);
    }
    let _ = world.env.routes.insert(addr("remote-pod"), Route::Unknown);
    expect(world, at, &out, Decision::drop(Reason::NoRoute), &out);
}

fn the_node_does_not_lower_the_hop_limit_of_its_own<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
        let tuple = key("node", 4000, "vip", 80, proto);
        let out = Craft { hop_limit: 1, ..sent::<A>(&tuple, [OWN, ROUTER]) };
        for reason in [Reason::NewFlow, Reason::Forward] {
            let (decision, bytes) = world.run(Hook::ExternalOut, EXTERNAL, &out.frame());
            assert_eq!(decision, redirect(EXTERNAL, reason));
            assert_eq!(bytes, out.translated(&translated(world, &tuple)).frame());
        }
    }
}

fn no_source_address_means_no_route<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
    let device = world.env.devices.get_mut(&EXTERNAL).unwrap();
    (device.snat4, device.snat6) = Default::default();
    let out = sent::<A>(&key("client", 4000, "node", 30000, proto), [ROUTER, OWN]);
    let drop = Decision::drop(Reason::NoRoute);
    expect(world, (Hook::ExternalIn, EXTERNAL), &out, drop, &out);
    assert!(world.tables.flows.borrow().is_empty());
}
