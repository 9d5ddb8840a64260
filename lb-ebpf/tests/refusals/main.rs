//! Answers to what nobody serves, byte for byte.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../world/mod.rs"]
#[macro_use]
mod world;
mod foreign;

use lb_common::{FlowKey, FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Decision, Verdict,
    host::craft::{Checksum, Craft, Transport, sum},
    refuse::Answer,
};
use world::{EXTERNAL, OWN, POD, POD_DEVICE, POD_OWN, ROUTER, World, key, sent};

both_families![
    tcp_is_reset,
    udp_is_told_that_the_port_is_unreachable,
    sctp_is_told_too_and_can_tell_by_its_tag,
    sctp_strays_are_answered_only_where_they_would_leave,
    a_quoted_checksum_left_to_the_device_counts_as_finished,
    resets_are_never_answered,
    xdp_leaves_answers_to_tc,
    unknown_ports_of_a_vip_are_refused_and_of_the_node_are_not,
    strays_are_reset_only_where_they_would_leave,
];

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn refusing<A: Answer>() -> World<A> {
    let mut world = World::new();
    for proto in world::PROTOS {
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[]);
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &[]);
    }
    world
}

/// The packet turned round, as the node would send it, with another transport header.
fn turned(craft: &Craft, transport: Transport) -> Craft {
    Craft {
        eth: [craft.eth[1], craft.eth[0]],
        src: craft.dst,
        dst: craft.src,
        sport: craft.dport,
        dport: craft.sport,
        hop_limit: 64,
        transport,
        ..craft.clone()
    }
}

/// The packet turned round, with other control bits and numbers.
fn reset_of(craft: &Craft, flags: u8, seq: u32, ack: u32) -> Craft {
    let Transport::Tcp { options, .. } = &craft.transport else { panic!("not TCP") };
    turned(craft, Transport::Tcp { flags, seq, ack, options: options.clone() })
}

fn tcp_is_reset<A: Answer>(_: &mut World<A>) {
    // Control bits, bytes of data, and by RFC 9293 §3.10.7.1 the reset's bits, numbers.
    let cases: [(u8, usize, u8, u32, u32); 4] = [
        (SYN, 0, 0x14, 0, 0xffff_fff1),
        (SYN, 20, 0x14, 0, 5),
        // An urgent SYN with FIN: both count.
        (SYN | 0x01 | 0x20, 0, 0x14, 0, 0xffff_fff2),
        // ECN bits of a SYN are not answered.
        (SYN | 0xc0, 1, 0x14, 0, 0xffff_fff2),
    ];
    for (flags, data, reset, seq, ack) in cases {
        for options in [vec![], vec![2, 4, 5, 180, 1, 1, 4, 2]] {
            for (hook, device, from, to) in [
                (Hook::PodIn, POD_DEVICE, "pod", ("vip", 80)),
                (Hook::ExternalIn, EXTERNAL, "client", ("vip", 80)),
                (Hook::ExternalIn, EXTERNAL, "client", ("node", 30000)),
                (Hook::ExternalOut, EXTERNAL, "node", ("vip", 80)),
                (Hook::LoopbackOut, 1, "node", ("node", 30000)),
            ] {
                let mut world = refusing::<A>();
                let craft = Craft {
                    hop_limit: 1,
                    payload: vec![0x61; data],
                    transport: Transport::Tcp {
                        flags,
                        seq: 0xffff_fff0,
                        ack: 0,
                        options: options.clone(),
                    },
                    ..sent::<A>(&key(from, 4000, to.0, to.1, proto::TCP), [ROUTER, OWN])
                };
                let (decision, bytes) = world.run(hook, device, &craft.frame());
                assert_eq!(decision, Decision::new(Verdict::Answer, Reason::NoBackend));
                assert_eq!(bytes, reset_of(&craft, reset, seq, ack).frame(), "{craft:?}");
                assert!(world.tables.flows.borrow().is_empty());
            }
        }
    }
}

/// The quoted part: IP header and `length` bytes.
fn unreachable_of(craft: &Craft, length: usize) -> Vec<u8> {
    let frame = craft.frame();
    let ip_len = if craft.src.is_ipv4() { 20 } else { 40 };
    let quoted = frame[14..14 + ip_len + length].to_vec();
    let (kind, code) = if craft.src.is_ipv4() { (3, 3) } else { (1, 4) };
    let answer = Craft {
        eth: [craft.eth[1], craft.eth[0]],
        src: craft.dst,
        dst: craft.src,
        hop_limit: 64,
        transport: Transport::Icmp(kind, code),
        payload: quoted,
        checksum: Checksum::Complete,
        ..craft.clone()
    };
    let mut bytes = answer.frame();
    if craft.src.is_ipv4() {
        // An answer of ours has neither class nor identification; the description has.
        bytes[15] = 0;
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
        let check = !sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        bytes[15..18].fill(0);
    }
    bytes
}

fn udp_is_told_that_the_port_is_unreachable<A: Answer>(_: &mut World<A>) {
    for (hook, device, from, to) in [
        (Hook::PodIn, POD_DEVICE, "pod", ("vip", 80)),
        (Hook::ExternalIn, EXTERNAL, "client", ("node", 30000)),
        (Hook::ExternalOut, EXTERNAL, "node", ("vip", 80)),
        (Hook::LoopbackOut, 1, "node", ("node", 30000)),
    ] {
        for payload in [vec![], b"odd".to_vec(), vec![7; 1400]] {
            for checksum in [Checksum::Complete, Checksum::None, Checksum::Raw(0xffff)] {
                let tuple = key(from, 4000, to.0, to.1, proto::UDP);
                let craft = Craft {
                    payload: payload.clone(),
                    checksum,
                    ..sent::<A>(&tuple, [ROUTER, OWN])
                };
                let (decision, bytes) = refusing::<A>().run(hook, device, &craft.frame());
                assert_eq!(decision, Decision::new(Verdict::Answer, Reason::NoBackend));
                assert_eq!(bytes, unreachable_of(&craft, 8), "{craft:?}");
            }
        }
    }
}

/// An INIT says whose it is behind the head of its chunk, every other packet in its header.
fn sctp_is_told_too_and_can_tell_by_its_tag<A: Answer>(_: &mut World<A>) {
    for (hook, device, from, to) in [
        (Hook::PodIn, POD_DEVICE, "pod", ("vip", 80)),
        (Hook::ExternalIn, EXTERNAL, "client", ("node", 30000)),
        (Hook::ExternalOut, EXTERNAL, "node", ("vip", 80)),
        (Hook::LoopbackOut, 1, "node", ("node", 30000)),
    ] {
        for payload in [vec![1; 16], vec![7; 1300]] {
            let tuple = key(from, 4000, to.0, to.1, proto::SCTP);
            let craft = Craft { payload, ..sent::<A>(&tuple, [ROUTER, OWN]) };
            let (decision, bytes) = refusing::<A>().run(hook, device, &craft.frame());
            assert_eq!(decision, Decision::new(Verdict::Answer, Reason::NoBackend));
            assert_eq!(bytes, unreachable_of(&craft, 20), "{craft:?}");
        }
    }
    let craft = sent::<A>(&key("pod", 4000, "vip", 81, proto::SCTP), [POD, POD_OWN]).flags(0);
    let (decision, bytes) = refusing::<A>().run(Hook::PodIn, POD_DEVICE, &craft.frame());
    assert_eq!(decision, Decision::new(Verdict::Answer, Reason::UnknownPort));
    assert_eq!(bytes, abort_of(&craft).frame());
}

/// The packet turned round, with an ABORT instead of its chunk.
fn abort_of(craft: &Craft) -> Craft {
    let Transport::Sctp { tag, .. } = craft.transport else { panic!("not SCTP") };
    let abort = Transport::Sctp { tag, chunk: 6, flags: 1 };
    Craft { payload: Vec::new(), ..turned(craft, abort) }
}

/// CT-8: who believes to have an association learns that there is none.
fn sctp_strays_are_answered_only_where_they_would_leave<A: Answer>(_: &mut World<A>) {
    let mut world = World::<A>::new();
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::SCTP, &["pod"]);
    // DATA, SACK, COOKIE ECHO, SHUTDOWN: nothing but an INIT begins.
    for chunk in [0, 3, 10, 7] {
        let tuple = key("node", 4000, "vip", 80, proto::SCTP);
        let craft = sent::<A>(&tuple, [OWN, ROUTER]).flags(chunk);
        let (decision, bytes) = world.run(Hook::ExternalOut, EXTERNAL, &craft.frame());
        assert_eq!(decision, Decision::new(Verdict::Answer, Reason::StrayPacket));
        assert_eq!(bytes, abort_of(&craft).frame());
        let left = Craft { checksum: Checksum::None, ..craft.clone() };
        let (_, bytes) = world.run(Hook::ExternalOut, EXTERNAL, &left.frame());
        assert_eq!(bytes, abort_of(&left).frame(), "a checksum left to the device");
        let (decision, _) = world.run(Hook::ExternalIn, EXTERNAL, &craft.frame());
        assert_eq!(decision, Decision::pass(Reason::NoFlow));
    }
    assert!(world.tables.flows.borrow().is_empty());
}

/// The sender's device finishes the quoted checksum after us (CHECKSUM_PARTIAL): it sums from the
/// UDP header to the end of the packet. The ICMP checksum must be right then.
fn a_quoted_checksum_left_to_the_device_counts_as_finished<A: Answer>(_: &mut World<A>) {
    let tuple = key("pod", 4000, "vip", 80, proto::UDP);
    let craft = Craft { checksum: Checksum::Partial, ..sent::<A>(&tuple, [POD, POD_OWN]) };
    let (_, mut bytes) = refusing::<A>().run(Hook::PodIn, POD_DEVICE, &craft.frame());
    let udp = bytes.len() - 8;
    let finished = !sum(&bytes[udp..]);
    bytes[udp + 6..].copy_from_slice(&finished.to_be_bytes());
    // The message under ICMP's checksum comes to all ones.
    let ip_len = if craft.src.is_ipv4() { 20 } else { 40 };
    let message = bytes[14 + ip_len..].to_vec();
    let pseudo = match craft.src {
        std::net::IpAddr::V4(_) => vec![],
        std::net::IpAddr::V6(_) => {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&bytes[22..54], &length, &[0, 0, 0, 58]].concat()
        }
    };
    assert_eq!(sum(&[pseudo, message].concat()), 0xffff);
}

fn resets_are_never_answered<A: Answer>(_: &mut World<A>) {
    let tuple = key("pod", 4000, "vip", 81, proto::TCP);
    let craft = sent::<A>(&tuple, [POD, POD_OWN]).flags(0x04);
    let (decision, bytes) = refusing::<A>().run(Hook::PodIn, POD_DEVICE, &craft.frame());
    assert_eq!(decision, Decision::drop(Reason::StrayReset));
    assert_eq!(bytes, craft.frame());
    // ABORT and SHUTDOWN COMPLETE.
    for chunk in [6, 14] {
        let tuple = key("pod", 4000, "vip", 81, proto::SCTP);
        let craft = sent::<A>(&tuple, [POD, POD_OWN]).flags(chunk);
        let (decision, bytes) = refusing::<A>().run(Hook::PodIn, POD_DEVICE, &craft.frame());
        assert_eq!(decision, Decision::drop(Reason::StrayReset));
        assert_eq!(bytes, craft.frame());
    }
}

fn xdp_leaves_answers_to_tc<A: Answer>(_: &mut World<A>) {
    for proto in world::PROTOS {
        let craft = sent::<A>(&key("client", 4000, "node", 30000, proto), [ROUTER, OWN]);
        let (decision, bytes) = refusing::<A>().run(Hook::Xdp, EXTERNAL, &craft.frame());
        assert_eq!(decision, Decision::pass(Reason::LeftToTc));
        assert_eq!(bytes, craft.frame());
    }
}

fn unknown_ports_of_a_vip_are_refused_and_of_the_node_are_not<A: Answer>(_: &mut World<A>) {
    for (hook, device) in [(Hook::PodIn, POD_DEVICE), (Hook::ExternalIn, EXTERNAL)] {
        for proto in world::PROTOS {
            let mut world = refusing::<A>();
            let craft = sent::<A>(&key("client", 4000, "vip", 81, proto), [ROUTER, OWN]);
            let (decision, _) = world.run(hook, device, &craft.frame());
            assert_eq!(decision, Decision::new(Verdict::Answer, Reason::UnknownPort));
            let craft = sent::<A>(&key("client", 4000, "node", 22, proto), [ROUTER, OWN]);
            let (decision, bytes) = world.run(hook, device, &craft.frame());
            assert_eq!(decision, Decision::pass(Reason::NotService));
            assert_eq!(bytes, craft.frame());
        }
    }
}

fn strays_are_reset_only_where_they_would_leave<A: Answer>(_: &mut World<A>) {
    let serving = || {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::TCP, &["pod"]);
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::TCP, &["pod"]);
        world
    };
    let stray = |tuple: FlowKey<A>| Craft {
        transport: Transport::Tcp { flags: ACK, seq: 77, ack: 99, options: vec![] },
        ..sent(&tuple, [OWN, ROUTER])
    };
    let to_vip = stray(key("node", 4000, "vip", 80, proto::TCP));
    for (hook, device) in [(Hook::ExternalOut, EXTERNAL), (Hook::LoopbackOut, 1)] {
        let (decision, bytes) = serving().run(hook, device, &to_vip.frame());
        assert_eq!(decision, Decision::new(Verdict::Answer, Reason::StrayPacket));
        assert_eq!(bytes, reset_of(&to_vip, 0x04, 99, 0).frame());
        let to_node = stray(key("node", 4000, "node", 30000, proto::TCP));
        let (decision, _) = serving().run(hook, device, &to_node.frame());
        assert_eq!(decision, Decision::pass(Reason::NoFlow));
    }
    for (hook, device, reason) in [
        (Hook::PodIn, POD_DEVICE, Reason::NoFlow),
        (Hook::ExternalIn, EXTERNAL, Reason::NoFlow),
        (Hook::Xdp, EXTERNAL, Reason::LeftToTc),
    ] {
        let (decision, bytes) = serving().run(hook, device, &to_vip.frame());
        assert_eq!(decision, Decision::pass(reason));
        assert_eq!(bytes, to_vip.frame());
    }
}
