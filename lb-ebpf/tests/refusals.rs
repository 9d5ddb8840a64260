//! Answers to what nobody serves, byte for byte.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

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
    pings_and_other_protocols_of_a_vip_are_unreachable,
    only_pings_among_icmp_are_answered,
    what_is_not_whole_is_not_answered,
    groups_are_never_answered,
    a_flood_is_answered_a_thousand_times_a_second,
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

/// The packet turned round, with other control bits and numbers.
fn reset_of(craft: &Craft, flags: u8, seq: u32, ack: u32) -> Craft {
    let Transport::Tcp { options, .. } = &craft.transport else { panic!("not TCP") };
    Craft {
        eth: [craft.eth[1], craft.eth[0]],
        src: craft.dst,
        dst: craft.src,
        sport: craft.dport,
        dport: craft.sport,
        hop_limit: 64,
        transport: Transport::Tcp { flags, seq, ack, options: options.clone() },
        ..craft.clone()
    }
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
    Craft {
        eth: [craft.eth[1], craft.eth[0]],
        src: craft.dst,
        dst: craft.src,
        sport: craft.dport,
        dport: craft.sport,
        hop_limit: 64,
        transport: Transport::Sctp { tag, chunk: 6, flags: 1 },
        payload: Vec::new(),
        ..craft.clone()
    }
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
    for (hook, device) in
        [(Hook::PodIn, POD_DEVICE), (Hook::ExternalIn, EXTERNAL), (Hook::Xdp, EXTERNAL)]
    {
        let (decision, bytes) = serving().run(hook, device, &to_vip.frame());
        assert_eq!(decision, Decision::pass(Reason::NoFlow));
        assert_eq!(bytes, to_vip.frame());
    }
}

/// The ways to the VIP that end in an answer.
const WAYS: [(Hook, u32, &str); 4] = [
    (Hook::PodIn, POD_DEVICE, "pod"),
    (Hook::ExternalIn, EXTERNAL, "client"),
    (Hook::ExternalOut, EXTERNAL, "node"),
    (Hook::LoopbackOut, 1, "node"),
];

/// A ping, and packets of protocols that no Service has.
fn foreign<A: Answer>(from: &str, to: &str) -> Vec<Craft> {
    let ping = if A::FAMILY == lb_common::Family::V4 { 8 } else { 128 };
    let of = |number| sent::<A>(&key(from, 4000, to, 80, number), [ROUTER, OWN]);
    let mut all = vec![];
    for payload in [vec![7; 4], b"odd length".to_vec(), vec![1; 1300]] {
        let transport = Transport::Icmp(ping, 0);
        all.push(Craft { transport, payload: payload.clone(), ..of(proto::UDP) });
        for number in [4, 33, 47, 50, 136, 253] {
            all.push(Craft { payload: payload.clone(), ..of(number) });
        }
    }
    all
}

/// ICMP-1, NE-13, CIP-8, LB-8.
fn pings_and_other_protocols_of_a_vip_are_unreachable<A: Answer>(_: &mut World<A>) {
    for (hook, device, from) in WAYS {
        for craft in foreign::<A>(from, "vip") {
            let (decision, bytes) = refusing::<A>().run(hook, device, &craft.frame());
            let wanted = Decision::new(Verdict::Answer, Reason::UnknownProtocol);
            assert_eq!(decision, wanted, "{craft:?}");
            assert_eq!(bytes, unreachable_of(&craft, 8), "{craft:?}");
        }
        // An address that may be others' too, whatever frontends it has.
        for craft in foreign::<A>(from, "node") {
            let (decision, bytes) = refusing::<A>().run(hook, device, &craft.frame());
            assert_eq!((decision.verdict, bytes), (Verdict::Pass, craft.frame()));
        }
    }
    for craft in foreign::<A>("client", "vip") {
        let (decision, _) = refusing::<A>().run(Hook::Xdp, EXTERNAL, &craft.frame());
        assert_eq!(decision, Decision::pass(Reason::LeftToTc));
        let (decision, _) = refusing::<A>().run(Hook::PodOut, POD_DEVICE, &craft.frame());
        assert_eq!(decision.verdict, Verdict::Pass);
    }
}

fn only_pings_among_icmp_are_answered<A: Answer>(_: &mut World<A>) {
    let v4 = A::FAMILY == lb_common::Family::V4;
    for kind in 0..=255 {
        let transport = Transport::Icmp(kind, 0);
        let craft = Craft { transport, ..foreign::<A>("client", "vip")[0].clone() };
        let (decision, bytes) = refusing::<A>().run(Hook::ExternalIn, EXTERNAL, &craft.frame());
        if kind == if v4 { 8 } else { 128 } {
            assert_eq!(decision.verdict, Verdict::Answer);
        } else {
            assert_eq!(decision, Decision::pass(Reason::Icmp), "type {kind}");
            assert_eq!(bytes, craft.frame());
        }
    }
}

fn what_is_not_whole_is_not_answered<A: Answer>(_: &mut World<A>) {
    for craft in foreign::<A>("client", "vip") {
        let whole = craft.frame();
        for length in 14..whole.len() {
            let (decision, bytes) =
                refusing::<A>().run(Hook::ExternalIn, EXTERNAL, &whole[..length]);
            assert_eq!((decision.verdict, bytes), (Verdict::Pass, whole[..length].to_vec()));
        }
        if craft.src.is_ipv4() {
            for fragment in [0x2000, 0x0005] {
                let frame = Craft { fragment, ..craft.clone() }.frame();
                let (decision, _) = refusing::<A>().run(Hook::ExternalIn, EXTERNAL, &frame);
                assert_eq!(decision, Decision::pass(Reason::Fragment));
            }
        }
    }
    // Fewer bytes than an error quotes.
    let short = Craft { payload: vec![1; 3], ..foreign::<A>("client", "vip")[1].clone() };
    let (decision, _) = refusing::<A>().run(Hook::ExternalIn, EXTERNAL, &short.frame());
    assert_eq!(decision, Decision::pass(Reason::OtherProtocol));
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4: neither what was sent to many nor what claims to come from many.
fn groups_are_never_answered<A: Answer>(_: &mut World<A>) {
    let senders: &[&str] = match A::FAMILY {
        lb_common::Family::V4 => &["224.0.0.1", "255.255.255.255", "0.0.0.0", "239.1.2.3"],
        lb_common::Family::V6 => &["ff02::1", "::", "ff0e::7"],
    };
    let mut all = foreign::<A>("client", "vip");
    for proto in world::PROTOS {
        all.push(sent::<A>(&key("client", 4000, "vip", 80, proto), [ROUTER, OWN]));
    }
    for craft in all {
        let broadcast = Craft { eth: [[0xff; 6], craft.eth[1]], ..craft.clone() };
        let multicast = Craft { eth: [[1, 0, 0x5e, 0, 0, 1], craft.eth[1]], ..craft.clone() };
        let from = senders.iter().map(|src| Craft { src: src.parse().unwrap(), ..craft.clone() });
        for craft in from.chain([broadcast, multicast]) {
            let frame = craft.frame();
            let (decision, bytes) = refusing::<A>().run(Hook::ExternalIn, EXTERNAL, &frame);
            assert_eq!(decision, Decision::drop(Reason::RefuseFailed), "{craft:?}");
            assert_eq!(bytes, frame);
        }
    }
}

/// NE-14: of all sorts of refusals together; what is served is served as ever.
fn a_flood_is_answered_a_thousand_times_a_second<A: Answer>(_: &mut World<A>) {
    let mut world = refusing::<A>();
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 82, proto::TCP, &["pod"]);
    let mut flood = foreign::<A>("client", "vip");
    for proto in world::PROTOS {
        for port in [80, 81] {
            flood.push(sent::<A>(&key("client", 4000, "vip", port, proto), [ROUTER, OWN]));
        }
    }
    let frames: Vec<_> = flood.iter().map(Craft::frame).collect();
    for second in 0..3 {
        let mut answered = 0;
        for frame in frames.iter().cycle().take(1500) {
            let (decision, bytes) = world.run(Hook::ExternalIn, EXTERNAL, frame);
            if decision.verdict == Verdict::Answer {
                answered += 1;
            } else {
                assert_eq!(decision, Decision::drop(Reason::RefuseLimit));
                assert_eq!(&bytes, frame);
            }
        }
        assert_eq!(answered, 1000);
        let served = sent::<A>(&key("client", 5000 + second, "vip", 82, proto::TCP), [ROUTER, OWN]);
        let (decision, _) = world.run(Hook::ExternalIn, EXTERNAL, &served.frame());
        assert_eq!(decision.reason, Reason::NewFlow);
        world.env.now.set(world.env.now.get() + world::HZ);
    }
}
