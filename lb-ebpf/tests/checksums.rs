//! Checksums after a translation equal those computed over the whole packet by somebody else.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::{FlowKey, FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Verdict,
    host::craft::{Checksum, Craft, Transport},
    refuse::Answer,
};
use proptest::prelude::*;
use world::{EXTERNAL, OWN, ROUTER, World, key, sent};

both_families![
    translations_sum_up,
    udp_without_checksum_keeps_none,
    udp_checksum_is_never_zero_by_correction,
    sctp_checksum_left_to_the_device_stays_so,
];

/// Whether all checksums of a frame are what etherparse computes.
fn sound(frame: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet that parses");
    let transport = packet.transport.expect("a transport header");
    match packet.net.expect("an IP header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            let segment = match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv4(header.source, header.destination).unwrap()
                        == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    let (src, dst) = (header.source, header.destination);
                    let computed =
                        udp.to_header().calc_checksum_ipv4_raw(src, dst, udp.payload()).unwrap();
                    udp.checksum() == computed
                }
                TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => {
                    panic!("neither TCP nor UDP")
                }
            };
            segment && header.calc_header_checksum() == header.header_checksum
        }
        NetSlice::Ipv6(ip) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    tcp.calc_checksum_ipv6(src, dst).unwrap() == tcp.checksum()
                }
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    header.calc_checksum_ipv6_raw(src, dst, udp.payload()).unwrap()
                        == udp.checksum()
                }
                TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => {
                    panic!("neither TCP nor UDP")
                }
            }
        }
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

fn translations_sum_up<A: Answer>(_: &mut World<A>) {
    let strategy = (
        any::<[u16; 2]>(),
        prop::sample::select(vec![proto::TCP, proto::UDP]),
        prop::collection::vec(any::<u8>(), 0..200),
        prop::sample::select(vec!["pod", "remote-pod", "node"]),
        any::<[u32; 2]>(),
        2u8..=255,
        1u16..,
    );
    let test = |([sport, port], proto, payload, backend, [seq, ack], hop_limit, at): (
        [u16; 2],
        u8,
        Vec<u8>,
        &str,
        [u32; 2],
        u8,
        u16,
    )| {
        let mut world = World::<A>::new();
        let id = world.serve(FrontendKind::NodePort, "node", port, proto, &[backend]);
        world.tables.backends.get_mut(&id).unwrap().port = at;
        let tuple = key("client", sport, "node", port, proto);
        let mut craft = Craft { payload, hop_limit, ..sent::<A>(&tuple, [ROUTER, OWN]) };
        if proto == proto::TCP {
            craft.transport = Transport::Tcp { flags: 2, seq, ack, options: vec![1; 4] };
        }
        assert!(sound(&craft.frame()));
        let (decision, bytes) = world.run(Hook::ExternalIn, EXTERNAL, &craft.frame());
        assert_eq!(decision.reason, Reason::NewFlow);
        assert!(sound(&bytes));
        let to = world.flow(&tuple).unwrap().translated(proto);
        let back = sent::<A>(&to.reversed(), [ROUTER, OWN]);
        let hook = if backend == "remote-pod" { Hook::ExternalIn } else { Hook::ExternalOut };
        let (decision, bytes) = world.run(hook, EXTERNAL, &back.frame());
        assert_eq!(decision.reason, Reason::Reply);
        assert!(sound(&bytes));
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::default();
    runner.run(&strategy, test).unwrap();
}

/// B12. Over IPv4 zero says that there is none; over IPv6 it is wrong (or a tunnel's, RFC 6935), and not
/// ours to make right.
fn udp_without_checksum_keeps_none<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::UDP, &["remote-pod"]);
    let tuple = key("client", 4000, "node", 30000, proto::UDP);
    let craft = Craft { checksum: Checksum::None, ..sent::<A>(&tuple, [ROUTER, OWN]) };
    // tc starts the flow.
    for hook in [Hook::ExternalIn, Hook::Xdp] {
        let (decision, bytes) = world.run(hook, EXTERNAL, &craft.frame());
        assert_eq!(decision.verdict, Verdict::Redirect);
        let to = world.flow(&tuple).unwrap().translated(proto::UDP);
        let wanted = world::hop(&craft.translated(&to), [OWN, ROUTER]);
        assert_eq!(bytes, wanted.frame());
    }
}

/// B12. The device computes it over the packet as it leaves.
fn sctp_checksum_left_to_the_device_stays_so<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::SCTP, &["remote-pod"]);
    let tuple = key("client", 4000, "node", 30000, proto::SCTP);
    for checksum in [Checksum::None, Checksum::Complete] {
        let craft = Craft { checksum, ..sent::<A>(&tuple, [ROUTER, OWN]) };
        for hook in [Hook::ExternalIn, Hook::Xdp] {
            let (decision, bytes) = world.run(hook, EXTERNAL, &craft.frame());
            assert_eq!(decision.verdict, Verdict::Redirect);
            let to = world.flow(&tuple).unwrap().translated(proto::SCTP);
            assert_ne!((to.sport, to.dport), (tuple.sport, tuple.dport));
            let wanted = world::hop(&craft.translated(&to), [OWN, ROUTER]);
            assert_eq!(bytes, wanted.frame());
        }
    }
}

/// B12. A checksum that comes to zero is sent as 0xffff, in both families: zero would say "none", which
/// receivers of IPv6 discard (RFC 768, RFC 8200 §8.1).
fn udp_checksum_is_never_zero_by_correction<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::UDP, &["pod"]);
    let tuple = key("client", 4000, "node", 30000, proto::UDP);
    let to: FlowKey<A> = key("client", 4000, "pod", 8080, proto::UDP);
    let mut edges = 0;
    for word in 0..=u16::MAX {
        let payload = word.to_be_bytes().to_vec();
        let craft = Craft { payload, ..sent::<A>(&tuple, [ROUTER, OWN]) };
        let becomes = craft.translated(&to).frame();
        let at = becomes.len() - 4;
        if becomes[at..at + 2] != [0xff, 0xff] {
            continue;
        }
        edges += 1;
        let (_, bytes) = world.run(Hook::ExternalIn, EXTERNAL, &craft.frame());
        assert_eq!(bytes, becomes);
    }
    assert_eq!(edges, 1);
}
