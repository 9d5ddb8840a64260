//! Calls of sockets: what is rewritten, remembered and refused.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{BackendState, FrontendKey, FrontendKind, Reason, proto};
use lb_ebpf::{
    refuse::Answer,
    socket::{Call, Outcome, connect, reply, sendmsg},
};
use world::{HZ, World, addr};

both_families![
    connect_goes_to_a_backend_and_names_the_frontend_back,
    every_loopback_address_finds_the_node_port,
    datagrams_of_one_socket_stay_with_their_backend,
    an_idle_choice_ends,
    a_gone_backend_is_left,
    nobody_serves,
    what_is_no_service_is_untouched,
];

fn call<A: Answer>(cookie: u64, name: &str, port: u16, proto: u8) -> Call<A> {
    Call { cookie, addr: addr(name), port, proto }
}

const COOKIE: u64 = 0x0123_4567_89ab_cdef;

fn to<A: Answer>(name: &str, port: u16, reason: Reason) -> Outcome<A> {
    Outcome::Rewritten(addr(name), port, reason)
}

fn connect_goes_to_a_backend_and_names_the_frontend_back<A: Answer>(world: &mut World<A>) {
    for proto in world::PROTOS {
        let id = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
        let made = connect(&world.tables, &world.env, &call::<A>(COOKIE, "vip", 80, proto));
        assert_eq!(made, to("remote-pod", 8080, Reason::SocketConnect));
        let heard = reply(&world.tables, &call::<A>(COOKIE, "remote-pod", 8080, proto));
        assert_eq!(heard, to("vip", 80, Reason::SocketReply));
        // Another socket talks to the backend itself.
        for other in [COOKIE + 1, COOKIE + (1 << 32), COOKIE & 0xffff_ffff] {
            let heard = reply(&world.tables, &call::<A>(other, "remote-pod", 8080, proto));
            assert_eq!(heard, Outcome::Untouched(Reason::NotService));
        }
        assert_eq!(world.tables.stats.borrow()[&id].flows, 1);
    }
}

fn every_loopback_address_finds_the_node_port<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::NodePort, "loopback", 30000, proto::TCP, &["pod"]);
    let mut addresses: Vec<A> = vec![addr("loopback")];
    addresses.extend(A::from_ip("127.9.8.7".parse().unwrap()));
    for asked in addresses {
        let asked = Call { addr: asked, ..call::<A>(COOKIE, "loopback", 30000, proto::TCP) };
        let made = connect(&world.tables, &world.env, &asked);
        assert_eq!(made, to("pod", 8080, Reason::SocketConnect));
        // The process hears of the address that it named.
        let heard = reply(&world.tables, &call::<A>(COOKIE, "pod", 8080, proto::TCP));
        assert_eq!(heard, Outcome::Rewritten(asked.addr, 30000, Reason::SocketReply));
    }
}

fn stateful<A: Answer>(world: &mut World<A>) -> Call<A> {
    let backends = ["pod", "other-pod", "remote-pod"];
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 53, proto::UDP, &backends);
    world.env.random.set(0);
    let asked = call::<A>(COOKIE, "vip", 53, proto::UDP);
    let sent = sendmsg(&world.tables, &world.env, &asked);
    assert_eq!(sent, to("pod", 8080, Reason::SocketConnect));
    world.env.random.set(u32::MAX);
    asked
}

fn wait<A: Answer>(world: &World<A>, seconds: u32) {
    world.env.now.set(world.env.now.get().wrapping_add(seconds * HZ));
}

fn datagrams_of_one_socket_stay_with_their_backend<A: Answer>(world: &mut World<A>) {
    let asked = stateful(world);
    for _ in 0..5 {
        wait(world, 100);
        let sent = sendmsg(&world.tables, &world.env, &asked);
        assert_eq!(sent, to("pod", 8080, Reason::SocketConnect));
        let heard = reply(&world.tables, &call::<A>(COOKIE, "pod", 8080, proto::UDP));
        assert_eq!(heard, to("vip", 53, Reason::SocketReply));
    }
    world.env.random.set(u32::MAX);
    let other = Call { cookie: COOKIE + 1, ..asked };
    let sent = sendmsg(&world.tables, &world.env, &other);
    assert_eq!(sent, to("remote-pod", 8080, Reason::SocketConnect));
}

fn an_idle_choice_ends<A: Answer>(world: &mut World<A>) {
    let asked = stateful(world);
    wait(world, 121);
    let sent = sendmsg(&world.tables, &world.env, &asked);
    assert_eq!(sent, to("remote-pod", 8080, Reason::SocketConnect));
}

fn a_gone_backend_is_left<A: Answer>(world: &mut World<A>) {
    let asked = stateful(world);
    world.set_state(1, BackendState::Gone);
    let sent = sendmsg(&world.tables, &world.env, &asked);
    assert_eq!(sent, to("remote-pod", 8080, Reason::SocketConnect));
    for value in world.tables.frontends.values_mut() {
        value.len = 0;
    }
    world.set_state(3, BackendState::Gone);
    let sent = sendmsg(&world.tables, &world.env, &asked);
    assert_eq!(sent, Outcome::Refused(Reason::NoBackend));
}

fn nobody_serves<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::TCP, &[]);
    let refused = |port| connect(&world.tables, &world.env, &call::<A>(1, "vip", port, proto::TCP));
    assert_eq!(refused(80), Outcome::Refused(Reason::NoBackend));
    assert_eq!(refused(81), Outcome::Refused(Reason::UnknownPort));
    assert!(world.tables.socks.borrow().is_empty());
}

fn what_is_no_service_is_untouched<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::TCP, &["pod"]);
    for (name, port, proto) in
        [("node", 22, proto::TCP), ("node", 30000, proto::UDP), ("client", 30000, proto::TCP)]
    {
        let asked = call::<A>(1, name, port, proto);
        assert_eq!(
            connect(&world.tables, &world.env, &asked),
            Outcome::Untouched(Reason::NotService)
        );
        assert_eq!(
            sendmsg(&world.tables, &world.env, &asked),
            Outcome::Untouched(Reason::NotService)
        );
        assert_eq!(reply(&world.tables, &asked), Outcome::Untouched(Reason::NotService));
    }
    // A clear bit in the filter is trusted before the frontends are.
    let key = FrontendKey::new(addr::<A>("client"), 30000, proto::TCP);
    let value = *world.tables.frontends.values().next().unwrap();
    let _ = world.tables.frontends.insert(key, value);
    let asked = call::<A>(1, "client", 30000, proto::TCP);
    assert_eq!(connect(&world.tables, &world.env, &asked), Outcome::Untouched(Reason::NotService));
}
