//! When a flow is over, and what its next packet then gets.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../world/mod.rs"]
#[macro_use]
mod world;
mod past;

use lb_common::{BackendState, FrontendKind, Hook, Reason, Seen, proto};
use lb_ebpf::{
    Verdict,
    host::craft::{Craft, Transport},
    refuse::Answer,
};
use world::{EXTERNAL, HZ, POD, POD_DEVICE, POD_OWN, World, addr, key, sent};

both_families![
    what_each_direction_shows_is_kept_apart,
    a_syn_chooses_again_only_over_a_finished_connection,
    tcp_stays_with_a_backend_that_left,
    udp_leaves_a_backend_that_left_at_its_next_packet,
    udp_is_refused_when_the_last_backend_left,
    what_the_chunks_of_sctp_show,
    an_init_chooses_again_only_over_a_finished_association,
    sctp_leaves_a_backend_that_left_and_begins_anew,
    an_unanswered_udp_flow_ends_early,
    an_answered_udp_flow_ends_late,
    a_connected_sockets_datagram_is_no_node_ports,
    no_segment_is_out_of_window,
];

const FIN: u8 = 0x11;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A pod's flow to the VIP, and how it gets on.
struct Talk<'a, A: Answer> {
    world: &'a mut World<A>,
    proto: u8,
}

impl<'a, A: Answer> Talk<'a, A> {
    /// Between `pod` and a Service with these backends.
    fn new(world: &'a mut World<A>, proto: u8, backends: &[&str]) -> Self {
        *world = World::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, backends);
        Self { world, proto }
    }

    fn says(&mut self, flags: u8) -> Reason {
        let craft = sent::<A>(&key("pod", 4000, "vip", 80, self.proto), [POD, POD_OWN]);
        let frame = craft.flags(flags).frame();
        self.world.run(Hook::PodIn, POD_DEVICE, &frame).0.reason
    }

    fn hears(&mut self, flags: u8) -> Reason {
        let backend = self.backend();
        let tuple =
            lb_common::FlowKey { src: backend, ..key("pod", 8080, "pod", 4000, self.proto) };
        let frame = sent::<A>(&tuple, [POD_OWN, POD]).flags(flags).frame();
        self.world.run(Hook::PodOut, POD_DEVICE, &frame).0.reason
    }

    fn backend(&self) -> A {
        self.world.flow(&key("pod", 4000, "vip", 80, self.proto)).expect("a flow").dst
    }

    /// The next random choice falls on the backend at the end, or at the start.
    fn choose(&self, last: bool) {
        self.world.env.random.set(if last { u32::MAX } else { 0 });
    }

    fn wait(&self, seconds: u32) {
        let now = &self.world.env.now;
        now.set(now.get().wrapping_add(seconds * HZ));
    }

    fn seen(&self) -> [u8; 2] {
        let flows = self.world.tables.flows.borrow();
        let of = |reverse| {
            flows.values().find(|flow| flow.get().reverse == reverse).map_or(0, |f| f.get().seen)
        };
        [of(0), of(1)]
    }
}

fn what_each_direction_shows_is_kept_apart<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::TCP, &["other-pod"]);
    assert_eq!(talk.says(SYN), Reason::NewFlow);
    assert_eq!(talk.seen(), [Seen::PACKET, 0]);
    assert_eq!(talk.hears(SYN_ACK), Reason::Reply);
    assert_eq!(talk.seen(), [Seen::PACKET, Seen::PACKET]);
    assert_eq!(talk.says(ACK), Reason::Forward);
    assert_eq!(talk.seen(), [Seen::PACKET | Seen::ACK, Seen::PACKET]);
    assert_eq!(talk.hears(FIN), Reason::Reply);
    assert_eq!(talk.says(RST), Reason::Forward);
    let seen = Seen::PACKET | Seen::ACK | Seen::RST;
    assert_eq!(talk.seen(), [seen, Seen::PACKET | Seen::FIN]);
}

fn a_syn_chooses_again_only_over_a_finished_connection<A: Answer>(world: &mut World<A>) {
    // What client and backend send, and whether the connection is over then.
    let cases: [(&[u8], &[u8], bool); 7] = [
        (&[SYN], &[], false),
        (&[SYN, ACK], &[SYN_ACK], false),
        (&[SYN, ACK, FIN], &[SYN_ACK], false),
        (&[SYN, ACK], &[SYN_ACK, FIN], false),
        (&[SYN, ACK, FIN], &[SYN_ACK, FIN], true),
        (&[SYN, RST], &[], true),
        (&[SYN], &[RST], true),
    ];
    for (client, backend, over) in cases {
        let mut talk = Talk::new(world, proto::TCP, &["other-pod", "remote-pod"]);
        talk.choose(false);
        for flags in client {
            let _ = talk.says(*flags);
        }
        for flags in backend {
            assert_eq!(talk.hears(*flags), Reason::Reply);
        }
        assert_eq!(talk.backend(), addr("other-pod"));
        talk.choose(true);
        let (reason, to) =
            if over { (Reason::NewFlow, "remote-pod") } else { (Reason::Forward, "other-pod") };
        assert_eq!(talk.says(SYN), reason, "{client:?} {backend:?}");
        assert_eq!(talk.backend(), addr(to));
        world.assert_pairs();
        assert_eq!(world.tables.flows.borrow().len(), 2);
    }
}

fn tcp_stays_with_a_backend_that_left<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::TCP, &["other-pod"]);
    let _ = talk.says(SYN);
    talk.world.set_state(1, BackendState::Gone);
    assert_eq!(talk.says(ACK), Reason::Forward);
    assert_eq!(talk.hears(ACK), Reason::Reply);
}

fn udp_leaves_a_backend_that_left_at_its_next_packet<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::UDP, &["other-pod", "remote-pod"]);
    talk.choose(false);
    let _ = talk.says(0);
    let _ = talk.hears(0);
    talk.world.set_state(1, BackendState::Gone);
    // Its last replies still arrive; the next packet goes elsewhere.
    assert_eq!(talk.hears(0), Reason::Reply);
    talk.choose(true);
    assert_eq!(talk.says(0), Reason::NewFlow);
    assert_eq!(talk.backend(), addr("remote-pod"));
    world.assert_pairs();
    assert_eq!(world.tables.flows.borrow().len(), 2);
}

fn udp_is_refused_when_the_last_backend_left<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::UDP, &["other-pod"]);
    let _ = talk.says(0);
    talk.world.set_state(1, BackendState::Gone);
    for value in talk.world.tables.frontends.values_mut() {
        value.len = 0;
    }
    let frame = sent::<A>(&key("pod", 4000, "vip", 80, proto::UDP), [POD, POD_OWN]).frame();
    let (decision, _) = world.run(Hook::PodIn, POD_DEVICE, &frame);
    assert_eq!((decision.verdict, decision.reason), (Verdict::Answer, Reason::NoBackend));
    assert!(world.tables.flows.borrow().is_empty());
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const DATA: u8 = 0;

fn what_the_chunks_of_sctp_show<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::SCTP, &["other-pod"]);
    let (packet, ack) = (Seen::PACKET, Seen::PACKET | Seen::ACK);
    assert_eq!(talk.says(INIT), Reason::NewFlow);
    assert_eq!(talk.hears(INIT_ACK), Reason::Reply);
    assert_eq!(talk.says(COOKIE_ECHO), Reason::Forward);
    assert_eq!(talk.seen(), [packet, packet]);
    assert_eq!(talk.hears(COOKIE_ACK), Reason::Reply);
    assert_eq!(talk.seen(), [packet, ack]);
    assert_eq!(talk.says(DATA), Reason::Forward);
    assert_eq!(talk.says(SHUTDOWN), Reason::Forward);
    assert_eq!(talk.hears(SHUTDOWN_ACK), Reason::Reply);
    assert_eq!(talk.seen(), [ack | Seen::FIN, ack | Seen::FIN]);
    assert_eq!(talk.says(SHUTDOWN_COMPLETE), Reason::Forward);
    assert_eq!(talk.seen()[0], ack | Seen::FIN | Seen::RST);
}

fn an_init_chooses_again_only_over_a_finished_association<A: Answer>(world: &mut World<A>) {
    let cases: [(&[u8], &[u8], bool); 8] = [
        (&[INIT], &[], false),
        (&[INIT], &[INIT_ACK], false),
        (&[INIT, COOKIE_ECHO, DATA], &[INIT_ACK, COOKIE_ACK, DATA], false),
        (&[INIT, COOKIE_ECHO, SHUTDOWN], &[INIT_ACK, COOKIE_ACK], false),
        (&[INIT, COOKIE_ECHO, SHUTDOWN], &[INIT_ACK, COOKIE_ACK, SHUTDOWN_ACK], true),
        (&[INIT, COOKIE_ECHO], &[INIT_ACK, COOKIE_ACK, SHUTDOWN_COMPLETE], true),
        (&[INIT, ABORT], &[INIT_ACK], true),
        (&[INIT], &[ABORT], true),
    ];
    for (client, backend, over) in cases {
        let mut talk = Talk::new(world, proto::SCTP, &["other-pod", "remote-pod"]);
        talk.choose(false);
        for chunk in client {
            let _ = talk.says(*chunk);
        }
        for chunk in backend {
            assert_eq!(talk.hears(*chunk), Reason::Reply);
        }
        assert_eq!(talk.backend(), addr("other-pod"));
        talk.choose(true);
        // An INIT over an association that lives is one sent again, or of a client that began anew:
        // either way its backend knows best.
        let (reason, to) =
            if over { (Reason::NewFlow, "remote-pod") } else { (Reason::Forward, "other-pod") };
        assert_eq!(talk.says(INIT), reason, "{client:?} {backend:?}");
        assert_eq!(talk.backend(), addr(to));
        world.assert_pairs();
        assert_eq!(world.tables.flows.borrow().len(), 2);
    }
}

/// CT-8.
fn sctp_leaves_a_backend_that_left_and_begins_anew<A: Answer>(world: &mut World<A>) {
    for (chunk, reason) in [(INIT, Reason::NewFlow), (DATA, Reason::NoFlow)] {
        let mut talk = Talk::new(world, proto::SCTP, &["other-pod", "remote-pod"]);
        talk.choose(false);
        let _ = talk.says(INIT);
        let _ = talk.hears(INIT_ACK);
        assert_eq!(talk.says(COOKIE_ECHO), Reason::Forward);
        talk.world.set_state(1, BackendState::Gone);
        talk.choose(true);
        assert_eq!(talk.says(chunk), reason);
        if chunk == DATA {
            assert!(talk.world.tables.flows.borrow().is_empty());
            assert_eq!(talk.says(INIT), Reason::NewFlow);
        }
        assert_eq!(talk.backend(), addr("remote-pod"));
        world.assert_pairs();
        assert_eq!(world.tables.flows.borrow().len(), 2);
    }
}

fn an_unanswered_udp_flow_ends_early<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::UDP, &["other-pod"]);
    let _ = talk.says(0);
    talk.wait(30);
    assert_eq!(talk.says(0), Reason::Forward);
    talk.wait(32);
    assert_eq!(talk.says(0), Reason::NewFlow);
}

fn an_answered_udp_flow_ends_late<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::UDP, &["other-pod"]);
    let _ = talk.says(0);
    let _ = talk.hears(0);
    talk.wait(118);
    assert_eq!(talk.says(0), Reason::Forward);
    // A reply keeps it alive as well, even over the wrap of the clock.
    talk.world.env.now.set(u32::MAX - 100);
    let _ = talk.hears(0);
    let _ = talk.says(0);
    talk.wait(110);
    let _ = talk.hears(0);
    talk.wait(110);
    assert_eq!(talk.says(0), Reason::Forward);
    talk.wait(122);
    assert_eq!(talk.says(0), Reason::NewFlow);
}

/// The node sent from a port of that number itself: the reply is its own.
fn a_connected_sockets_datagram_is_no_node_ports<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::UDP, &["remote-pod"]);
    let tuple = key("client", 53, "node", 30000, proto::UDP);
    world.env.awaited.push(world::seen_at(Hook::ExternalIn, tuple));
    let frame = sent::<A>(&tuple, [world::ROUTER, world::OWN]).frame();
    for (hook, reason) in [(Hook::ExternalIn, Reason::HostSocket), (Hook::Xdp, Reason::LeftToTc)] {
        let (decision, bytes) = world.run(hook, EXTERNAL, &frame);
        assert_eq!(decision, lb_ebpf::Decision::pass(reason));
        assert_eq!(bytes, frame);
    }
    assert!(world.tables.flows.borrow().is_empty());
}

/// CT-10, D8: sequence numbers are nobody's business but the two ends': a segment far out of every window
/// is translated like any other, and resets nothing.
fn no_segment_is_out_of_window<A: Answer>(world: &mut World<A>) {
    let mut talk = Talk::new(world, proto::TCP, &["other-pod"]);
    assert_eq!(talk.says(SYN), Reason::NewFlow);
    assert_eq!(talk.hears(SYN_ACK), Reason::Reply);
    assert_eq!(talk.says(ACK), Reason::Forward);
    let request = key("pod", 4000, "vip", 80, proto::TCP);
    let translated = key("pod", 4000, "other-pod", 8080, proto::TCP);
    let answer = key("other-pod", 8080, "pod", 4000, proto::TCP);
    let shown = key("vip", 80, "pod", 4000, proto::TCP);
    for (seq, ack) in [(0, 0), (1, u32::MAX), (0x7fff_ffff, 0x8000_0001), (u32::MAX, 1 << 30)] {
        for (hook, tuple, becomes, macs, reason) in [
            (Hook::PodIn, &request, &translated, [POD, POD_OWN], Reason::Forward),
            (Hook::PodOut, &answer, &shown, [POD_OWN, POD], Reason::Reply),
        ] {
            let transport = Transport::Tcp { flags: ACK, seq, ack, options: Vec::new() };
            let craft = Craft { transport, ..sent::<A>(tuple, macs) };
            let (decision, frame) = talk.world.run(hook, POD_DEVICE, &craft.frame());
            assert_eq!((decision.verdict, decision.reason), (Verdict::Stack, reason), "{craft:?}");
            assert_eq!(frame, craft.translated::<A>(becomes).frame(), "{craft:?}");
        }
    }
    // And the connection goes on.
    assert_eq!(talk.says(ACK), Reason::Forward);
    assert_eq!(talk.hears(ACK), Reason::Reply);
}
