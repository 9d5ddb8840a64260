//! What is not understood passes untouched, whatever it is and wherever it ends.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{FlowKey, FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Decision, Verdict,
    host::craft::{Craft, Transport},
    refuse::Answer,
};
use world::{EXTERNAL, OWN, POD_DEVICE, ROUTER, World, key, sent};

both_families![
    every_truncation_passes_untouched,
    every_kind_has_its_reason,
    malformed_headers_pass,
    padding_behind_the_packet_is_kept,
];

const HOOKS: [Hook; 6] =
    [Hook::PodIn, Hook::PodOut, Hook::ExternalIn, Hook::ExternalOut, Hook::LoopbackOut, Hook::Xdp];

/// One of each kind, addressed to a frontend, with the reason why it passes; `None` for those that
/// are translated.
fn kinds<A: Answer>() -> Vec<(Craft, Option<Reason>)> {
    let of = |proto| sent::<A>(&key("client", 4000, "vip", 80, proto), [ROUTER, OWN]);
    let (tcp, udp) = (of(proto::TCP), of(proto::UDP));
    let with_options = Craft {
        transport: Transport::Tcp {
            flags: 2,
            seq: 1,
            ack: 0,
            options: vec![2, 4, 5, 180, 1, 1, 4, 2],
        },
        ..tcp.clone()
    };
    let bare = Craft { payload: Vec::new(), ..tcp.clone() };
    let empty = Craft { payload: Vec::new(), ..udp.clone() };
    // An error, and what is no Service's without being refused: not at an address of Services only.
    let icmp = Craft { transport: Transport::Icmp(3, 0), ..udp.clone() };
    let gre = sent::<A>(&key("client", 4000, "node", 80, 47), [ROUTER, OWN]);
    let mut kinds = vec![
        (tcp.clone(), None),
        (with_options, None),
        (bare, None),
        (udp.clone(), None),
        (empty, None),
        (icmp, Some(Reason::Icmp)),
        (of(proto::SCTP), None),
        (gre, Some(Reason::OtherProtocol)),
        (Craft { vlan: Some(5), ..tcp.clone() }, Some(Reason::NotIp)),
    ];
    for base in [tcp, udp] {
        if base.src.is_ipv4() {
            // The first fragment has the ports.
            kinds.push((Craft { fragment: 0x2000, ..base.clone() }, None));
            for fragment in [0x2005, 0x0005] {
                kinds.push((Craft { fragment, ..base.clone() }, Some(Reason::Fragment)));
            }
            let options = Craft { options: vec![1; 8], ..base };
            kinds.push((options, Some(Reason::Ipv4Options)));
        } else {
            for kind in [0, 43, 60, 135] {
                let extensions = vec![(kind, vec![0; 7])];
                kinds.push((Craft { extensions, ..base.clone() }, Some(Reason::Ipv6Extension)));
            }
            let extensions = vec![(44, vec![0, 0, 1, 0, 0, 0, 9])];
            kinds.push((Craft { extensions, ..base }, Some(Reason::Fragment)));
        }
    }
    kinds
}

fn world<A: Answer>() -> World<A> {
    let mut world = World::new();
    for proto in [proto::TCP, proto::UDP, proto::SCTP] {
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
    }
    world
}

fn every_truncation_passes_untouched<A: Answer>(_: &mut World<A>) {
    for (craft, _) in kinds::<A>() {
        let whole = craft.frame();
        for hook in HOOKS {
            for length in 14..whole.len() {
                let mut world = world::<A>();
                let (decision, bytes) = world.run(hook, EXTERNAL, &whole[..length]);
                assert_eq!(bytes, &whole[..length]);
                assert_eq!(decision.verdict, Verdict::Pass, "{craft:?} cut to {length}");
                assert!(world.tables.flows.borrow().is_empty());
                // Only a reason that shows before the cut may win over it.
                let early = [
                    Reason::Truncated,
                    Reason::Fragment,
                    Reason::Ipv4Options,
                    Reason::Ipv6Extension,
                    Reason::OtherProtocol,
                    Reason::Icmp,
                    Reason::Malformed,
                ];
                assert!(early.contains(&decision.reason), "{craft:?}: {:?}", decision.reason);
                if craft.vlan.is_none() && length < 14 + if craft.src.is_ipv4() { 20 } else { 8 } {
                    assert_eq!(decision.reason, Reason::Truncated);
                }
            }
        }
    }
}

fn every_kind_has_its_reason<A: Answer>(_: &mut World<A>) {
    for (craft, reason) in kinds::<A>() {
        // What is tagged does not come to the library: the EtherType tells.
        if craft.vlan.is_some() {
            continue;
        }
        for hook in HOOKS {
            let mut world = world::<A>();
            let (decision, bytes) = world.run(hook, EXTERNAL, &craft.frame());
            match reason {
                Some(reason) => {
                    assert_eq!(decision, Decision::pass(reason), "{craft:?}");
                    assert_eq!(bytes, craft.frame());
                }
                None if hook == Hook::PodOut => {
                    assert_eq!(decision, Decision::pass(Reason::NotService));
                }
                None if hook == Hook::Xdp => {
                    assert_eq!(decision, Decision::pass(Reason::LeftToTc));
                }
                None => assert_eq!(decision.reason, Reason::NewFlow, "{craft:?} at {hook:?}"),
            }
        }
    }
}

fn malformed_headers_pass<A: Answer>(_: &mut World<A>) {
    let ip = 14;
    let transport = ip + if A::FAMILY == lb_common::Family::V4 { 20 } else { 40 };
    let tuple: FlowKey<A> = key("client", 4000, "vip", 80, proto::TCP);
    let whole = sent(&tuple, [ROUTER, OWN]).frame();
    let v4 = A::FAMILY == lb_common::Family::V4;
    let mut edits: Vec<(usize, u8)> = vec![
        // The version of the other family, and none.
        (ip, if v4 { 0x65 } else { 0x45 }),
        (ip, 0x05),
        // A TCP header shorter than the least, and one longer than the packet.
        (transport + 12, 0x40),
        (transport + 12, 0xf0),
    ];
    if v4 {
        // Header length below the least; total length that ends inside the headers.
        edits.extend([(ip, 0x44), (ip, 0x40), (ip + 3, 39), (ip + 3, 0)]);
    } else {
        edits.extend([(ip + 5, 19), (ip + 5, 0)]);
    }
    for (at, value) in edits {
        let mut bytes = whole.clone();
        bytes[at] = value;
        for hook in HOOKS {
            let (decision, after) = world::<A>().run(hook, POD_DEVICE, &bytes);
            let wanted = Decision::pass(Reason::Malformed);
            assert_eq!(decision, wanted, "byte {at} set to {value:#x}");
            assert_eq!(after, bytes);
        }
    }
}

fn padding_behind_the_packet_is_kept<A: Answer>(world: &mut World<A>) {
    let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto::UDP, &["pod"]);
    let tuple: FlowKey<A> = key("client", 4000, "vip", 80, proto::UDP);
    let craft = sent(&tuple, [ROUTER, OWN]);
    let mut padded = craft.frame();
    padded.extend([0xaa; 9]);
    let (_, after) = world.run(Hook::ExternalIn, EXTERNAL, &padded);
    let to: FlowKey<A> = key("client", 4000, "pod", 8080, proto::UDP);
    let mut wanted = craft.translated(&to).frame();
    wanted.extend([0xaa; 9]);
    assert_eq!(after, wanted);
}
