//! Packets in, packets out: every path through the loaded programs, at tc and XDP, both families.
//!
//! What must come out is built from a description with all checksums computed in full; what the
//! library on the host makes of the same packet must agree as well.

mod road;
mod steps;

use anyhow::{Result, anyhow};
use lb_common::{Addr4, Addr6, FlowKey, Hook, Reason, proto};
use lb_ebpf::{
    Verdict,
    host::craft::{Craft, Transport},
    limit::REFUSALS,
    refuse::Answer,
};
use lb_tests::{
    lab,
    packet::{Case, Ground, Kernel, Scene, Twin, addr, inside},
};

use steps::{
    Becomes::{Dropped, Masqueraded, Redirected, Refused, Source, Stack, Untouched},
    Step, steps,
};

#[test]
fn every_path_does_what_it_must() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    inside(|ground| {
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            let mut twin = Twin::new(&ground)?;
            for step in steps() {
                check::<Addr4>(&mut twin, &ground, &step, proto, |t, k| t.kernel.v4.flow(k))?;
                check::<Addr6>(&mut twin, &ground, &step, proto, |t, k| t.kernel.v6.flow(k))?;
            }
            twin.compare()?;
        }
        Ok(())
    })
    .unwrap();
}

/// What flow entries are found by.
fn key<A: Answer>(hook: Hook, from: (&str, u16), to: (&str, u16), proto: u8) -> FlowKey<A> {
    FlowKey {
        src: addr(from.0),
        dst: addr(to.0),
        sport: from.1,
        dport: to.1,
        proto,
        hook: hook as u8,
        pad: [0; 2],
    }
}

type Flow<A> = fn(&Twin, &FlowKey<A>) -> Option<lb_common::FlowValue<A>>;

fn check<A: Answer>(
    twin: &mut Twin,
    ground: &Ground,
    step: &Step,
    proto: u8,
    flow: Flow<A>,
) -> Result<()> {
    let Step { name, hook, macs: [from_mac, to_mac], from, to, becomes } = step;
    let what = format!("{name}, protocol {proto}, {:?}", A::FAMILY);
    let key = |from: &(&'static str, u16), to: &(&'static str, u16)| {
        let hook = if *hook == Hook::Xdp { Hook::ExternalIn } else { *hook };
        key::<A>(hook, *from, *to, proto)
    };
    let tuple = key(from, to);
    let craft = Craft { eth: [to_mac.octets, from_mac.octets], ..Craft::of(&tuple) };
    let case = Case { hook: *hook, ifindex: device(ground, *hook), frame: craft.frame() };
    let (decision, bytes) =
        twin.run(&case)?.map_err(|difference| anyhow!("{what}: {difference}"))?;
    let (reason, verdict) = match becomes {
        Untouched(reason) => {
            assert_eq!(bytes, case.frame, "{what}");
            (reason, Verdict::Pass)
        }
        Dropped(reason) => {
            assert_eq!(bytes, case.frame, "{what}");
            (reason, Verdict::Drop)
        }
        Stack(reason, src, dst) => {
            assert_eq!(bytes, craft.translated(&key(src, dst)).frame(), "{what}");
            (reason, Verdict::Stack)
        }
        Source(reason, src, dst)
        | Masqueraded(reason, src, dst, _)
        | Redirected(reason, src, dst, _) => {
            let flow = flow(twin, &tuple).expect("a flow entry in the kernel");
            assert!((16384..32768).contains(&flow.sport), "{what}");
            let mut wanted = craft.translated(&key(&(*src, flow.sport), dst));
            if let Masqueraded(.., [own, neighbour]) | Redirected(.., [own, neighbour]) = becomes {
                wanted.eth = [neighbour.octets, own.octets];
            }
            wanted.hop_limit -= u8::from(matches!(becomes, Masqueraded(..)));
            assert_eq!(bytes, wanted.frame(), "{what}");
            let on = matches!(becomes, Source(..));
            (reason, if on { Verdict::Stack } else { Verdict::Redirect })
        }
        Refused(reason) => {
            assert_eq!(bytes, refusal(&craft), "{what}");
            (reason, Verdict::Answer)
        }
    };
    assert_eq!((decision.reason, decision.verdict), (*reason, verdict), "{what}");
    Ok(())
}

const fn device(ground: &Ground, hook: Hook) -> u32 {
    match hook {
        Hook::PodIn | Hook::PodOut => ground.pod,
        Hook::ExternalIn | Hook::ExternalOut | Hook::Xdp => ground.external,
        Hook::LoopbackOut | Hook::Socket => Ground::LOOPBACK,
    }
}

/// The reset of a SYN, or the ICMP error for a datagram.
fn refusal(craft: &Craft) -> Vec<u8> {
    let turned = Craft {
        eth: [craft.eth[1], craft.eth[0]],
        src: craft.dst,
        dst: craft.src,
        sport: craft.dport,
        dport: craft.sport,
        ..craft.clone()
    };
    if let Transport::Tcp { seq, .. } = &craft.transport {
        let length = u32::try_from(craft.payload.len()).expect("a short payload");
        let ack = seq.wrapping_add(1 + length);
        let transport = Transport::Tcp { flags: 0x14, seq: 0, ack, options: vec![] };
        return Craft { transport, ..turned }.frame();
    }
    let ip_len = if craft.src.is_ipv4() { 20 } else { 40 };
    let (kind, code) = if craft.src.is_ipv4() { (3, 3) } else { (1, 4) };
    // Of an INIT as much as has its tag.
    let quoted = if let Transport::Sctp { .. } = &craft.transport { 20 } else { 8 };
    let payload = craft.frame()[14..14 + ip_len + quoted].to_vec();
    let mut bytes = Craft { transport: Transport::Icmp(kind, code), payload, ..turned }.frame();
    // An answer of ours has neither class nor identification nor flow label.
    if craft.src.is_ipv4() {
        bytes[15] = 0;
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
        let check = !lb_ebpf::host::craft::sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        bytes[15..18].fill(0);
    }
    bytes
}

/// NE-14. The clock of the programs is set so that a test is over before a refusal is granted again.
#[test]
fn a_cpu_refuses_so_many_and_no_more() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    inside(|ground| {
        let mut kernel = Kernel::load()?;
        kernel.fill(&Scene::new(&ground))?;
        kernel.allow_refusals()?;
        let tuple = FlowKey::<Addr4> {
            src: addr("client"),
            dst: addr("vip"),
            sport: 4000,
            dport: 81,
            proto: proto::TCP,
            ..FlowKey::default()
        };
        let frame = Craft::of(&tuple).frame();
        let mut out = Vec::new();
        let cpus = u64::try_from(std::thread::available_parallelism()?.get())?;
        let most = u64::from(REFUSALS) * cpus;
        for _ in 0..most + 1000 {
            let _code = kernel.run(Hook::ExternalIn, ground.external, &frame, &mut out)?;
        }
        let refused = kernel.counted(Hook::ExternalIn, Reason::NoBackend)?;
        let limited = kernel.counted(Hook::ExternalIn, Reason::RefuseLimit)?;
        assert_eq!(refused + limited, most + 1000);
        assert!((u64::from(REFUSALS)..=most + 500).contains(&refused), "{refused} refused");
        Ok(())
    })
    .unwrap();
}
