//! Session affinity: who gets the same backend again, for how long, and when not.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{
    AffinityKey, BackendState, FrontendKey,
    FrontendKind::{self, ClusterIp, LoadBalancer, NodePort},
    FrontendValue, Hook, proto,
};
use lb_ebpf::{
    refuse::Answer,
    socket::{Call, Outcome, connect, sendmsg},
};
use world::{
    EXTERNAL, HZ, OWN, Offer, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, addr, key, sent,
};

both_families![
    a_client_stays_while_it_comes_back_in_time,
    later_packets_do_not_prolong_it,
    clients_do_not_share,
    all_frontends_of_a_service_port_share,
    another_service_port_does_not,
    processes_of_the_node_are_one_client,
    a_backend_that_left_is_not_chosen_again,
    an_entry_that_leads_out_of_the_set_does_not_count,
    an_id_that_serves_another_service_does_not_count,
    without_affinity_nothing_is_remembered,
];

const BACKENDS: &[&str] = &["pod", "other-pod", "remote-pod"];
const TIMEOUT: u32 = 10;

fn sticky(kind: FrontendKind, name: &str, proto: u8) -> Offer<'_> {
    Offer { affinity: TIMEOUT, ..Offer::of(kind, name, 80, proto, BACKENDS, &[]) }
}

/// The next draw falls on this one of the backends, or of the two of a local set.
fn draw<A: Answer>(world: &World<A>, backend: &str) {
    let at = BACKENDS.iter().position(|name| *name == backend).unwrap();
    world.env.random.set(u32::MAX / 3 * u32::try_from(at).unwrap() + 5);
}

fn wait<A: Answer>(world: &World<A>, jiffies: u32) {
    world.env.now.set(world.env.now.get().wrapping_add(jiffies));
}

/// A new connection, or datagram, from a fresh source port; returns the backend's address.
fn ask<A: Answer>(
    world: &mut World<A>,
    proto: u8,
    (hook, from, sport): (Hook, &str, u16),
    (to, port): (&str, u16),
) -> A {
    let tuple = key::<A>(from, sport, to, port, proto);
    assert!(world.flow(&tuple).is_none(), "the source port is not fresh");
    let (device, macs) = match hook {
        Hook::PodIn | Hook::PodOut => (POD_DEVICE, [POD, POD_OWN]),
        Hook::LoopbackOut => (1, [OWN, OWN]),
        Hook::ExternalIn | Hook::ExternalOut | Hook::Xdp | Hook::Socket => {
            (EXTERNAL, [ROUTER, OWN])
        }
    };
    let (decision, _) = world.run(hook, device, &sent(&tuple, macs).frame());
    let flow = world.flow(&tuple);
    flow.unwrap_or_else(|| panic!("no flow of {tuple:?}: {decision:?}")).dst
}

const CLIENT: (Hook, &str) = (Hook::ExternalIn, "client");

/// AFF-1, AFF-2, AFF-12: the time slides with each new connection, however long that goes on.
fn a_client_stays_while_it_comes_back_in_time<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        // Across the jump of the clock's 32 bits too.
        world.env.now.set(u32::MAX - 3 * TIMEOUT * HZ);
        let _ = world.offer(&sticky(ClusterIp, "vip", proto));
        draw(world, "other-pod");
        assert_eq!(ask(world, proto, (CLIENT.0, CLIENT.1, 1), ("vip", 80)), addr("other-pod"));
        for again in 2..8 {
            wait(world, TIMEOUT * HZ);
            draw(world, "pod");
            let got = ask(world, proto, (CLIENT.0, CLIENT.1, again), ("vip", 80));
            assert_eq!(got, addr("other-pod"), "connection {again}");
        }
        wait(world, TIMEOUT * HZ + 1);
        draw(world, "pod");
        assert_eq!(ask(world, proto, (CLIENT.0, CLIENT.1, 9), ("vip", 80)), addr("pod"));
    }
}

/// AFF-2.
fn later_packets_do_not_prolong_it<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.offer(&sticky(ClusterIp, "vip", proto));
        draw(world, "other-pod");
        let tuple = key::<A>("client", 1, "vip", 80, proto);
        let frame = sent(&tuple, [ROUTER, OWN]).frame();
        for _ in 0..4 {
            let _ = world.run(Hook::ExternalIn, EXTERNAL, &frame);
            wait(world, TIMEOUT * HZ / 3);
        }
        draw(world, "pod");
        assert_eq!(ask(world, proto, (CLIENT.0, CLIENT.1, 2), ("vip", 80)), addr("pod"));
    }
}

/// AFF-1.
fn clients_do_not_share<A: Answer>(world: &mut World<A>) {
    let _ = world.offer(&sticky(ClusterIp, "vip", proto::TCP));
    let clients = [
        ((Hook::ExternalIn, "client"), "other-pod"),
        ((Hook::PodIn, "pod"), "remote-pod"),
        ((Hook::PodIn, "other-pod"), "pod"),
        ((Hook::ExternalOut, "node"), "other-pod"),
    ];
    for round in 1..4 {
        for ((hook, from), backend) in clients {
            // Only the first time the draw counts.
            draw(world, if round == 1 { backend } else { "pod" });
            let got = ask(world, proto::TCP, (hook, from, round), ("vip", 80));
            assert_eq!(got, addr(backend), "{from} in round {round}");
        }
    }
}

/// AFF-1.
fn all_frontends_of_a_service_port_share<A: Answer>(world: &mut World<A>) {
    let _ = world.offer(&sticky(ClusterIp, "vip", proto::TCP));
    let key = FrontendKey::new(addr::<A>("vip"), 80, proto::TCP);
    let value = world.tables.frontends[&key];
    for (kind, name, port) in [(NodePort, "node", 30000), (LoadBalancer, "public", 80)] {
        let value = FrontendValue { kind: kind as u8, ..value };
        world.put_frontend(name, port, proto::TCP, value);
    }
    draw(world, "other-pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 1), ("node", 30000)), addr("other-pod"));
    draw(world, "pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 2), ("vip", 80)), addr("other-pod"));
    draw(world, "pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 3), ("public", 80)), addr("other-pod"));
}

/// AFF-1: neither the other protocol's port, nor another Service at the same backends.
fn another_service_port_does_not<A: Answer>(world: &mut World<A>) {
    let _ = world.offer(&sticky(ClusterIp, "vip", proto::TCP));
    let _ = world.offer(&sticky(ClusterIp, "vip", proto::UDP));
    let _ = world.offer(&sticky(ClusterIp, "other-vip", proto::TCP));
    for (proto, to, backend) in [
        (proto::TCP, "vip", "other-pod"),
        (proto::UDP, "vip", "pod"),
        (proto::TCP, "other-vip", "remote-pod"),
    ] {
        draw(world, backend);
        let got = ask(world, proto, (CLIENT.0, CLIENT.1, 1), (to, 80));
        assert_eq!(got, addr(backend));
    }
}

/// AFF-11: whichever way they take, with whatever address.
fn processes_of_the_node_are_one_client<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        *world = World::new();
        let _ = world.offer(&sticky(ClusterIp, "vip", proto));
        let call = |cookie| Call { cookie, addr: addr::<A>("vip"), port: 80, proto };
        draw(world, "other-pod");
        let wanted = |made: Outcome<A>| {
            assert!(matches!(made, Outcome::Rewritten(to, 8080, _) if to == addr("other-pod")));
        };
        wanted(connect(&world.tables, &world.env, &call(1)));
        draw(world, "pod");
        wanted(connect(&world.tables, &world.env, &call(2)));
        wanted(sendmsg(&world.tables, &world.env, &call(3)));
        draw(world, "pod");
        for (hook, from) in [(Hook::ExternalOut, "node"), (Hook::LoopbackOut, "node-at-pods")] {
            assert_eq!(ask(world, proto, (hook, from, 1), ("vip", 80)), addr("other-pod"));
        }
        // And what came last counts, whoever was last.
        wait(world, TIMEOUT * HZ);
        wanted(connect(&world.tables, &world.env, &call(4)));
        let entries = world.tables.affinity.borrow();
        let clients: Vec<A> = entries.keys().map(|AffinityKey { client, .. }| *client).collect();
        assert_eq!(clients, [A::default()]);
    }
}

/// AFF-4, AFF-7.
fn a_backend_that_left_is_not_chosen_again<A: Answer>(world: &mut World<A>) {
    let first = world.offer(&sticky(ClusterIp, "vip", proto::TCP));
    draw(world, "other-pod");
    let _ = ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 1), ("vip", 80));
    // It serves on, and keeps what it has, but no new flow may be given to it.
    world.tables.backends.get_mut(&(first + 1)).unwrap().sets = 0;
    draw(world, "pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 2), ("vip", 80)), addr("pod"));
    // Back again: the client is the other's now.
    world.tables.backends.get_mut(&(first + 1)).unwrap().sets = 1;
    draw(world, "other-pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 3), ("vip", 80)), addr("pod"));
    world.set_state(first, BackendState::Gone);
    draw(world, "remote-pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 4), ("vip", 80)), addr("remote-pod"));
    let _ = world.tables.backends.remove(&(first + 2));
    draw(world, "other-pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 5), ("vip", 80)), addr("other-pod"));
}

/// AFF-5.
fn an_entry_that_leads_out_of_the_set_does_not_count<A: Answer>(world: &mut World<A>) {
    let local = &["other-pod"];
    let offer = Offer { local, is_local: false, ..sticky(ClusterIp, "vip", proto::TCP) };
    let _ = world.offer(&offer);
    let value = world.tables.frontends[&FrontendKey::new(addr::<A>("vip"), 80, proto::TCP)];
    let value = FrontendValue { kind: NodePort as u8, local: 1, ..value };
    world.put_frontend("node", 30000, proto::TCP, value);
    draw(world, "remote-pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 1), ("vip", 80)), addr("remote-pod"));
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 2), ("node", 30000)), addr("other-pod"));
    // A local backend is in the cluster set as well: the last choice goes on.
    draw(world, "pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 3), ("vip", 80)), addr("other-pod"));
}

/// The agent may give an id again long after its backend has gone.
fn an_id_that_serves_another_service_does_not_count<A: Answer>(world: &mut World<A>) {
    let first = world.offer(&sticky(ClusterIp, "vip", proto::TCP));
    draw(world, "other-pod");
    let _ = ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 1), ("vip", 80));
    world.tables.backends.get_mut(&(first + 1)).unwrap().service += 1;
    draw(world, "pod");
    assert_eq!(ask(world, proto::TCP, (CLIENT.0, CLIENT.1, 2), ("vip", 80)), addr("pod"));
}

/// AFF-8.
fn without_affinity_nothing_is_remembered<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(ClusterIp, "vip", 80, proto::TCP, BACKENDS);
    for (sport, backend) in (1..).zip(BACKENDS) {
        draw(world, backend);
        let got = ask(world, proto::TCP, (CLIENT.0, CLIENT.1, sport), ("vip", 80));
        assert_eq!(got, addr(backend));
    }
    assert!(world.tables.affinity.borrow().is_empty());
}
