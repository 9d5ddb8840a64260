//! What is not understood passes the loaded programs untouched, cut anywhere, and counted by its
//! reason.

use anyhow::{Result, anyhow};
use lb_common::{Addr4, Addr6, FlowKey, Hook, Reason, proto};
use lb_ebpf::{
    Verdict,
    host::craft::{Craft, Transport},
    refuse::Answer,
};
use lb_tests::{
    lab,
    packet::{Case, Ground, Kernel, Twin, addr, inside},
};

const HOOKS: [Hook; 6] =
    [Hook::PodIn, Hook::PodOut, Hook::ExternalIn, Hook::ExternalOut, Hook::LoopbackOut, Hook::Xdp];

/// One of each kind, addressed to a Service; why it passes, unless it is translated when whole.
fn kinds<A: Answer>() -> Vec<(&'static str, Craft, Option<Reason>)> {
    let to = |name, proto| {
        let (src, dst) = (addr("client"), addr(name));
        Craft::of(&FlowKey::<A> { src, dst, sport: 4000, dport: 80, proto, ..FlowKey::default() })
    };
    let of = |proto| to("vip", proto);
    let (tcp, udp) = (of(proto::TCP), of(proto::UDP));
    let options = vec![2, 4, 5, 180, 1, 1, 4, 2];
    let with_options = Transport::Tcp { flags: 2, seq: 1, ack: 0, options };
    let mut kinds = vec![
        ("TCP", tcp.clone(), None),
        ("TCP with options", Craft { transport: with_options, ..tcp.clone() }, None),
        ("TCP without data", Craft { payload: vec![], ..tcp.clone() }, None),
        ("UDP", udp.clone(), None),
        ("UDP without data", Craft { payload: vec![], ..udp.clone() }, None),
        ("ICMP", Craft { transport: Transport::Icmp(3, 0), ..udp.clone() }, Some(Reason::Icmp)),
        ("GRE", to("node", 47), Some(Reason::OtherProtocol)),
        ("ESP", to("node", 50), Some(Reason::OtherProtocol)),
        ("VLAN", Craft { vlan: Some(5), ..tcp.clone() }, Some(Reason::NotIp)),
    ];
    for base in [tcp, udp] {
        if base.src.is_ipv4() {
            for fragment in [0x2005, 0x0005] {
                let craft = Craft { fragment, ..base.clone() };
                kinds.push(("fragment", craft, Some(Reason::Fragment)));
            }
            let craft = Craft { options: vec![1; 8], ..base };
            kinds.push(("IPv4 options", craft, Some(Reason::Ipv4Options)));
        } else {
            for kind in [0, 43, 51, 60, 135] {
                let craft = Craft { extensions: vec![(kind, vec![0; 7])], ..base.clone() };
                kinds.push(("extension header", craft, Some(Reason::Ipv6Extension)));
            }
            let craft = Craft { extensions: vec![(44, vec![0, 0, 1, 0, 0, 0, 9])], ..base };
            kinds.push(("fragment", craft, Some(Reason::Fragment)));
        }
    }
    kinds
}

#[test]
fn every_truncation_of_every_kind_passes_untouched() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    inside(|ground| {
        let mut twin = Twin::new(&ground)?;
        check::<Addr4>(&mut twin, &ground)?;
        check::<Addr6>(&mut twin, &ground)?;
        arp(&mut twin, &ground)?;
        // Every packet was counted once, and nothing else was.
        twin.compare()
    })
    .unwrap();
}

fn check<A: Answer>(twin: &mut Twin, ground: &Ground) -> Result<()> {
    for (name, craft, reason) in kinds::<A>() {
        let whole = craft.frame();
        for hook in HOOKS {
            for length in 14..=whole.len() {
                let frame = whole[..length].to_vec();
                if !Kernel::takes(hook, &frame) {
                    continue;
                }
                let case = Case { hook, ifindex: device(ground, hook), frame };
                let what = format!("{name} cut to {length} at {hook:?}");
                let (decision, bytes) =
                    twin.run(&case)?.map_err(|difference| anyhow!("{what}: {difference}"))?;
                if length == whole.len() {
                    if let Some(reason) = reason {
                        assert_eq!(decision.reason, reason, "{what}");
                    }
                    if reason.is_none() {
                        continue;
                    }
                }
                assert_eq!(decision.verdict, Verdict::Pass, "{what}");
                assert_eq!(bytes, case.frame, "{what}");
                // Nothing short is taken for something else.
                if length < whole.len() && reason.is_none() {
                    assert_eq!(decision.reason, Reason::Truncated, "{what}");
                }
            }
        }
        twin.clear_flows()?;
    }
    Ok(())
}

fn arp(twin: &mut Twin, ground: &Ground) -> Result<()> {
    let mut frame = vec![0xff; 6];
    frame.extend(Ground::ROUTER.octets);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.resize(60, 0);
    for hook in HOOKS {
        let case = Case { hook, ifindex: device(ground, hook), frame: frame.clone() };
        let (decision, bytes) = twin.run(&case)?.map_err(|difference| anyhow!("{difference}"))?;
        // To everybody: tc does not even look where only what is for the node may be ours.
        let reason = match hook {
            Hook::ExternalIn | Hook::PodIn => Reason::OtherHost,
            Hook::PodOut | Hook::ExternalOut | Hook::LoopbackOut | Hook::Xdp | Hook::Socket => {
                Reason::NotIp
            }
        };
        assert_eq!((decision.verdict, decision.reason), (Verdict::Pass, reason), "{hook:?}");
        assert_eq!(bytes, frame);
    }
    Ok(())
}

const fn device(ground: &Ground, hook: Hook) -> u32 {
    match hook {
        Hook::PodIn | Hook::PodOut => ground.pod,
        Hook::ExternalIn | Hook::ExternalOut | Hook::Xdp => ground.external,
        Hook::LoopbackOut | Hook::Socket => Ground::LOOPBACK,
    }
}
