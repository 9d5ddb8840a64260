//! Who talks to whom, by which way: hooks, actions, addresses and bytes of every path.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{FlowKey, FrontendKind, Hook, MacAddr, Reason};
use lb_ebpf::{Decision, Verdict, host::craft::Craft, refuse::Answer};
use world::{
    EXTERNAL, OTHER_POD, OTHER_POD_DEVICE, OTHER_POD_OWN, OWN, POD, POD_DEVICE, POD_OWN, PROTOS,
    ROUTER, World, addr, hop, key, redirect, sent, stack, to_host,
};

const LO: MacAddr = MacAddr { octets: [0; 6] };

both_families![
    pod_to_cluster_ip,
    pod_to_node_port_of_other_pod,
    pod_to_node_port_of_remote_pod,
    pod_to_node_port_of_host_backend,
    hairpin,
    outside_to_local_pod,
    outside_to_remote_pod,
    outside_to_local_pod_by_xdp,
    outside_to_remote_pod_by_xdp,
    host_to_remote_pod,
    host_to_local_pod,
    host_to_host_backend,
    a_flow_passes_at_other_hooks,
    next_hops_of_another_generation_are_looked_up,
    unresolved_neighbours_are_left_to_the_kernel,
    hop_limit_ends_where_we_forward,
    no_source_address_means_no_route,
];

/// Sends one packet; asserts the decision and the frame as a description of it.
fn expect<A: Answer>(
    world: &mut World<A>,
    (hook, ifindex): (Hook, u32),
    sent: &Craft,
    decision: Decision,
    becomes: &Craft,
) {
    let (got, bytes) = world.run(hook, ifindex, &sent.frame());
    assert_eq!((got.verdict, got.reason), (decision.verdict, decision.reason), "{sent:?}");
    // The device means something only where the packet is sent to one.
    if !matches!(got.verdict, Verdict::Pass | Verdict::Stack | Verdict::Drop) {
        assert_eq!(got.ifindex, decision.ifindex, "{sent:?}");
    }
    assert_eq!(bytes, becomes.frame(), "{sent:?}");
}

/// The translated tuple of the only forward entry, whose source port may be any.
fn translated<A: Answer>(world: &World<A>, of: &FlowKey<A>) -> FlowKey<A> {
    world.assert_pairs();
    world.flow(of).expect("a forward entry").translated(of.proto)
}

fn pod_to_cluster_ip<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for backend in ["other-pod", "remote-pod", "node"] {
            *world = World::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[backend]);
            let out = sent::<A>(&key("pod", 4000, "vip", 80, proto), [POD, POD_OWN]);
            let becomes = out.translated::<A>(&key("pod", 4000, backend, 8080, proto));
            expect(world, (Hook::PodIn, POD_DEVICE), &out, stack(Reason::NewFlow), &becomes);
            expect(world, (Hook::PodIn, POD_DEVICE), &out, stack(Reason::Forward), &becomes);
            let back = sent::<A>(&key(backend, 8080, "pod", 4000, proto), [POD_OWN, POD]);
            let becomes = back.translated::<A>(&key("vip", 80, "pod", 4000, proto));
            expect(world, (Hook::PodOut, POD_DEVICE), &back, stack(Reason::Reply), &becomes);
            world.assert_pairs();
        }
    }
}

/// DNAT and SNAT, past the stack, and back the same way.
fn masqueraded<A: Answer>(
    world: &mut World<A>,
    proto: u8,
    (from, at, macs): (&str, (Hook, u32), [MacAddr; 2]),
    (frontend, port): (&str, u16),
    (backend, snat, device, neighbours): (&str, &str, u32, [MacAddr; 2]),
    reply_at: (Hook, u32),
) {
    let tuple = key(from, 4000, frontend, port, proto);
    let out = sent::<A>(&tuple, macs);
    let (decision, bytes) = world.run(at.0, at.1, &out.frame());
    assert_eq!(decision, redirect(device, Reason::NewFlow));
    let to = translated(world, &tuple);
    assert_eq!((to.src, to.dst, to.dport), (addr(snat), addr(backend), 8080));
    assert!((16384..32768).contains(&to.sport));
    let becomes = hop(&out.translated(&to), [neighbours[1], neighbours[0]]);
    assert_eq!(bytes, becomes.frame());
    expect(world, at, &out, redirect(device, Reason::Forward), &becomes);

    let back = sent::<A>(&to.reversed(), neighbours);
    let becomes = hop(&back.translated(&tuple.reversed()), [macs[1], macs[0]]);
    expect(world, reply_at, &back, redirect(at.1, Reason::Reply), &becomes);
}

fn pod_to_node_port_of_other_pod<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["other-pod"]);
        masqueraded(
            world,
            proto,
            ("pod", (Hook::PodIn, POD_DEVICE), [POD, POD_OWN]),
            ("node", 30000),
            ("other-pod", "node-at-pods", OTHER_POD_DEVICE, [OTHER_POD, OTHER_POD_OWN]),
            (Hook::PodIn, OTHER_POD_DEVICE),
        );
    }
}

fn pod_to_node_port_of_remote_pod<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
        masqueraded(
            world,
            proto,
            ("pod", (Hook::PodIn, POD_DEVICE), [POD, POD_OWN]),
            ("node", 30000),
            ("remote-pod", "node", EXTERNAL, [ROUTER, OWN]),
            (Hook::ExternalIn, EXTERNAL),
        );
    }
}

fn pod_to_node_port_of_host_backend<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["node"]);
        let out = sent::<A>(&key("pod", 4000, "node", 30000, proto), [POD, POD_OWN]);
        let becomes = out.translated::<A>(&key("pod", 4000, "node", 8080, proto));
        expect(world, (Hook::PodIn, POD_DEVICE), &out, stack(Reason::NewFlow), &becomes);
        let back = sent::<A>(&key("node", 8080, "pod", 4000, proto), [POD_OWN, POD]);
        let becomes = back.translated::<A>(&key("node", 30000, "pod", 4000, proto));
        expect(world, (Hook::PodOut, POD_DEVICE), &back, stack(Reason::Reply), &becomes);
    }
}

fn hairpin<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        for (kind, frontend) in [(FrontendKind::ClusterIp, "vip"), (FrontendKind::NodePort, "node")]
        {
            *world = World::new();
            let _ = world.serve(kind, frontend, 80, proto, &["pod"]);
            masqueraded(
                world,
                proto,
                ("pod", (Hook::PodIn, POD_DEVICE), [POD, POD_OWN]),
                (frontend, 80),
                ("pod", "node-at-pods", POD_DEVICE, [POD, POD_OWN]),
                (Hook::PodIn, POD_DEVICE),
            );
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
                let at = (Hook::ExternalIn, EXTERNAL);
                expect(world, at, &out, stack(Reason::NewFlow), &becomes);
                let back = sent::<A>(&key(backend, 8080, "client", 4000, proto), [OWN, ROUTER]);
                let becomes = back.translated::<A>(&key(frontend, 80, "client", 4000, proto));
                let at = (Hook::ExternalOut, EXTERNAL);
                expect(world, at, &back, stack(Reason::Reply), &becomes);
            }
        }
    }
}

fn outside_to_remote_pod<A: Answer>(world: &mut World<A>) {
    outside_to_remote(world, Hook::ExternalIn);
}

fn outside_to_remote_pod_by_xdp<A: Answer>(world: &mut World<A>) {
    outside_to_remote(world, Hook::Xdp);
}

fn outside_to_remote<A: Answer>(world: &mut World<A>, hook: Hook) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
        masqueraded(
            world,
            proto,
            ("client", (hook, EXTERNAL), [ROUTER, OWN]),
            ("node", 30000),
            ("remote-pod", "node", EXTERNAL, [ROUTER, OWN]),
            (hook, EXTERNAL),
        );
    }
}

/// XDP makes the choice, tc carries it out.
fn outside_to_local_pod_by_xdp<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["pod", "other-pod"]);
        let tuple = key("client", 4000, "node", 30000, proto);
        let out = sent::<A>(&tuple, [ROUTER, OWN]);
        let left = Decision::pass(Reason::LeftToTc);
        expect(world, (Hook::Xdp, EXTERNAL), &out, left, &out);
        let becomes = out.translated(&translated(world, &tuple));
        expect(world, (Hook::Xdp, EXTERNAL), &out, left, &out);
        let at = (Hook::ExternalIn, EXTERNAL);
        expect(world, at, &out, stack(Reason::Forward), &becomes);
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
    let becomes = hop(&out.translated(&to), [neighbours[1], neighbours[0]]);
    assert_eq!(bytes, becomes.frame());

    let back = sent::<A>(&to.reversed(), neighbours);
    let becomes = Craft { eth: [OWN.octets, ROUTER.octets], ..back.translated(&tuple.reversed()) };
    expect(world, reply_at, &back, to_host(EXTERNAL, Reason::Reply), &becomes);
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

fn a_flow_passes_at_other_hooks<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
    let out = sent::<A>(&key("pod", 4000, "vip", 80, proto), [POD, POD_OWN]);
    let _ = world.run(Hook::PodIn, POD_DEVICE, &out.frame());
    // The reply of a remote backend enters here on its way to the pod.
    let back = sent::<A>(&key("remote-pod", 8080, "pod", 4000, proto), [ROUTER, OWN]);
    for hook in [Hook::ExternalIn, Hook::Xdp, Hook::ExternalOut, Hook::PodIn, Hook::LoopbackOut] {
        expect(world, (hook, EXTERNAL), &back, Decision::pass(Reason::OtherHook), &back);
    }
}

fn next_hops_of_another_generation_are_looked_up<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
    let tuple = key("client", 4000, "node", 30000, proto);
    let out = sent::<A>(&tuple, [ROUTER, OWN]);
    let at = (Hook::ExternalIn, EXTERNAL);
    let _ = world.run(at.0, at.1, &out.frame());
    let to = translated(world, &tuple);
    world.env.generation += 1;
    let _ = world.env.routes.insert(
        addr("remote-pod"),
        lb_ebpf::Route::Via(lb_common::NextHop {
            ifindex: OTHER_POD_DEVICE,
            generation: world.env.generation,
            dmac: OTHER_POD,
            smac: OTHER_POD_OWN,
        }),
    );
    // XDP cannot ask; tc lets the kernel send one, then uses what it found.
    let left = Decision::pass(Reason::LeftToTc);
    expect(world, (Hook::Xdp, EXTERNAL), &out, left, &out);
    let by_kernel = Decision {
        ifindex: OTHER_POD_DEVICE,
        verdict: Verdict::RedirectNeighbour,
        reason: Reason::Forward,
    };
    let becomes = hop(&out.translated(&to), [ROUTER, OWN]);
    expect(world, at, &out, by_kernel, &becomes);
    let becomes = hop(&out.translated(&to), [OTHER_POD_OWN, OTHER_POD]);
    let direct = redirect(OTHER_POD_DEVICE, Reason::Forward);
    expect(world, at, &out, direct, &becomes);
}

fn unresolved_neighbours_are_left_to_the_kernel<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
    let unresolved = lb_ebpf::Route::Unresolved(EXTERNAL);
    let _ = world.env.routes.insert(addr("remote-pod"), unresolved);
    let tuple = key("client", 4000, "node", 30000, proto);
    let out = sent::<A>(&tuple, [ROUTER, OWN]);
    let (decision, bytes) = world.run(Hook::Xdp, EXTERNAL, &out.frame());
    assert_eq!((decision, bytes), (Decision::pass(Reason::LeftToTc), out.frame()));
    let becomes = hop(&out.translated(&translated(world, &tuple)), [ROUTER, OWN]);
    let by_kernel = Decision {
        ifindex: EXTERNAL,
        verdict: Verdict::RedirectNeighbour,
        reason: Reason::Forward,
    };
    expect(world, (Hook::ExternalIn, EXTERNAL), &out, by_kernel, &becomes);
}

fn hop_limit_ends_where_we_forward<A: Answer>(world: &mut World<A>) {
    let proto = PROTOS[0];
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
    let tuple = key("client", 4000, "node", 30000, proto);
    for limit in [0, 1] {
        let out = Craft { hop_limit: limit, ..sent::<A>(&tuple, [ROUTER, OWN]) };
        for _ in 0..2 {
            let drop = Decision::drop(Reason::HopLimit);
            expect(world, (Hook::ExternalIn, EXTERNAL), &out, drop, &out);
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
