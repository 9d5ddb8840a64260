//! Protocols that no Service has, senders that are never answered, and how much is answered at most.

use lb_common::{FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Decision, Verdict,
    host::craft::{Craft, Transport},
    refuse::Answer,
};

use crate::{
    refusing, unreachable_of,
    world::{self, EXTERNAL, OWN, POD_DEVICE, ROUTER, World, key, sent},
};

both_families![
    pings_and_other_protocols_of_a_vip_are_unreachable,
    only_pings_among_icmp_are_answered,
    what_is_not_whole_is_not_answered,
    groups_are_never_answered,
    a_flood_is_answered_a_thousand_times_a_second,
];

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
        let reasons = [Reason::Icmp, Reason::OtherProtocol];
        assert!(reasons.map(Decision::pass).contains(&decision), "{decision:?}");
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
                assert_eq!(decision.verdict, Verdict::Pass, "{craft:?}");
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
        for (number, craft) in [broadcast, multicast].into_iter().chain(from).enumerate() {
            let frame = craft.frame();
            let (decision, bytes) = refusing::<A>().run(Hook::ExternalIn, EXTERNAL, &frame);
            // What may start a flow is not even judged.
            let judged = number < 2 || !world::PROTOS.contains(&craft.protocol());
            let reason = if judged { Reason::RefuseFailed } else { Reason::BadSource };
            assert_eq!(decision, Decision::drop(reason), "{craft:?}");
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
