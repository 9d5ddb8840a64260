//! Packets in, packets out: every path through the loaded programs, at tc and XDP, both families.
//!
//! What must come out is built from a description with all checksums computed in full; what the
//! library on the host makes of the same packet must agree as well.

use anyhow::{Result, anyhow};
use lb_common::{Addr4, Addr6, FlowKey, Hook, MacAddr, Reason, proto};
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

/// One packet of a path: its name, where it is seen, from whom to whom, and what becomes of it.
struct Step {
    name: &'static str,
    hook: Hook,
    macs: [MacAddr; 2],
    from: (&'static str, u16),
    to: (&'static str, u16),
    becomes: Becomes,
}

/// What becomes of a packet.
enum Becomes {
    /// Nothing.
    Untouched(Reason),
    /// These addresses, on its way.
    Stack(Reason, (&'static str, u16), (&'static str, u16)),
    /// From this address and a port of ours to that, on its way.
    Source(Reason, &'static str, (&'static str, u16)),
    /// The same out of a device to a neighbour, as a router sends it.
    Masqueraded(Reason, &'static str, (&'static str, u16), [MacAddr; 2]),
    /// The same as its sender sends it.
    Redirected(Reason, &'static str, (&'static str, u16), [MacAddr; 2]),
    /// A reset or an ICMP error back.
    Refused(Reason),
    /// Discarded.
    Dropped(Reason),
}

use Becomes::{Dropped, Masqueraded, Redirected, Refused, Source, Stack, Untouched};

const FROM_OUTSIDE: [MacAddr; 2] = [Ground::ROUTER, Ground::OWN];
const TO_OUTSIDE: [MacAddr; 2] = [Ground::OWN, Ground::ROUTER];
/// What the node itself sends: a test run takes a frame to another address for one that a bridge passes on.
const LEAVING: [MacAddr; 2] = [Ground::OWN; 2];
const FROM_POD: [MacAddr; 2] = [Ground::POD, Ground::POD_OWN];
const TO_POD: [MacAddr; 2] = [Ground::POD_OWN, Ground::POD];
const TO_OTHER_POD: [MacAddr; 2] = [Ground::OTHER_POD_OWN, Ground::OTHER_POD];
const LO: [MacAddr; 2] = [MacAddr { octets: [0; 6] }; 2];

fn steps() -> Vec<Step> {
    let step = |name, hook, macs, from, to, becomes| Step { name, hook, macs, from, to, becomes };
    let pod = ("pod", 4000);
    let client = ("client", 4000);
    let node = ("node", 4000);
    // Other ports, for backends that were met before.
    let [other_pod, other_client, other_node] = [("pod", 4100), ("client", 4100), ("node", 4100)];
    vec![
        step(
            "pod to ClusterIP",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("other-vip", 80),
            Stack(Reason::NewFlow, pod, ("other-pod", 8080)),
        ),
        step(
            "and its reply",
            Hook::PodOut,
            TO_POD,
            ("other-pod", 8080),
            pod,
            Stack(Reason::Reply, ("other-vip", 80), pod),
        ),
        step(
            "pod to itself",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("other-vip", 82),
            Stack(Reason::NewFlow, pod, ("pod", 8080)),
        ),
        step(
            "which hears it from the node",
            Hook::PodOut,
            TO_POD,
            pod,
            ("pod", 8080),
            Source(Reason::Forward, "node-at-pods", ("pod", 8080)),
        ),
        step(
            "outside to a remote pod",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 30006),
            Masqueraded(Reason::NewFlow, "node", ("remote-pod", 8080), TO_OUTSIDE),
        ),
        step(
            "which XDP carries on",
            Hook::Xdp,
            FROM_OUTSIDE,
            client,
            ("node", 30006),
            Masqueraded(Reason::Forward, "node", ("remote-pod", 8080), TO_OUTSIDE),
        ),
        step(
            "a flooded frame",
            Hook::ExternalIn,
            [Ground::ROUTER, Ground::POD],
            client,
            ("node", 30006),
            Untouched(Reason::OtherHost),
        ),
        step(
            "a flooded frame at XDP",
            Hook::Xdp,
            [Ground::ROUTER, Ground::POD],
            client,
            ("node", 30006),
            Untouched(Reason::OtherHost),
        ),
        step(
            "a broadcast frame of a pod",
            Hook::PodIn,
            [Ground::POD, MacAddr { octets: [0xff; 6] }],
            pod,
            ("other-vip", 80),
            Untouched(Reason::OtherHost),
        ),
        step(
            "what a bridge passes on",
            Hook::ExternalOut,
            TO_OUTSIDE,
            ("node", 4300),
            ("other-vip", 80),
            Untouched(Reason::NotService),
        ),
        step(
            "somebody outside with the node's address",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            node,
            ("node", 30006),
            Dropped(Reason::BadSource),
        ),
        step(
            "pod to a host-network backend",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("node", 30003),
            Stack(Reason::NewFlow, pod, ("node", 8080)),
        ),
        step(
            "outside to a host-network backend",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 30003),
            Stack(Reason::NewFlow, client, ("node", 8080)),
        ),
        step(
            "and its reply",
            Hook::ExternalOut,
            TO_OUTSIDE,
            ("node", 8080),
            client,
            Stack(Reason::Reply, ("node", 30003), client),
        ),
        step(
            "outside to a local pod by XDP",
            Hook::Xdp,
            FROM_OUTSIDE,
            client,
            ("other-vip", 80),
            Untouched(Reason::LeftToTc),
        ),
        step(
            "which tc does",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("other-vip", 80),
            Stack(Reason::NewFlow, client, ("other-pod", 8080)),
        ),
        step(
            "host to a local pod",
            Hook::ExternalOut,
            LEAVING,
            node,
            ("other-vip", 80),
            Redirected(Reason::NewFlow, "node-at-pods", ("other-pod", 8080), TO_OTHER_POD),
        ),
        step(
            "VIP without backends",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("vip", 81),
            Refused(Reason::NoBackend),
        ),
        step(
            "node port without backends",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 30001),
            Refused(Reason::NoBackend),
        ),
        step(
            "unknown port of a VIP",
            Hook::ExternalOut,
            LEAVING,
            node,
            ("vip", 99),
            Refused(Reason::UnknownPort),
        ),
        step(
            "the same on loopback",
            Hook::LoopbackOut,
            LO,
            node,
            ("vip", 99),
            Refused(Reason::UnknownPort),
        ),
        step(
            "XDP refuses nothing",
            Hook::Xdp,
            FROM_OUTSIDE,
            client,
            ("node", 30001),
            Untouched(Reason::LeftToTc),
        ),
        step(
            "no Service",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            client,
            ("node", 22),
            Untouched(Reason::NotService),
        ),
        step(
            "outside to a load balancer's address",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            other_client,
            ("public", 82),
            Stack(Reason::NewFlow, other_client, ("other-pod", 8080)),
        ),
        step(
            "a pod outside the source ranges",
            Hook::PodIn,
            FROM_POD,
            other_pod,
            ("public", 82),
            Dropped(Reason::SourceRange),
        ),
        step(
            "the node inside them",
            Hook::ExternalOut,
            LEAVING,
            other_node,
            ("public", 82),
            Redirected(Reason::NewFlow, "node-at-pods", ("other-pod", 8080), TO_OTHER_POD),
        ),
        step(
            "outside to the local set",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            ("client", 4200),
            ("node", 30004),
            Stack(Reason::NewFlow, ("client", 4200), ("other-pod", 8080)),
        ),
        step(
            "pod past the local set, unmasqueraded",
            Hook::PodIn,
            FROM_POD,
            other_pod,
            ("node", 30004),
            Stack(Reason::NewFlow, other_pod, ("remote-pod", 8080)),
        ),
        step(
            "XDP drops nothing",
            Hook::Xdp,
            FROM_OUTSIDE,
            other_client,
            ("public", 81),
            Untouched(Reason::LeftToTc),
        ),
        step(
            "no local backend",
            Hook::ExternalIn,
            FROM_OUTSIDE,
            other_client,
            ("public", 81),
            Dropped(Reason::NoLocalBackend),
        ),
        step(
            "no local backend for a process of the node",
            Hook::ExternalOut,
            LEAVING,
            other_node,
            ("vip", 87),
            Dropped(Reason::NoLocalBackend),
        ),
        step(
            "a slot without backend",
            Hook::PodIn,
            FROM_POD,
            pod,
            ("other-vip", 84),
            Dropped(Reason::Inconsistent),
        ),
    ]
}

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
    let key = |from: &(&str, u16), to: &(&str, u16)| FlowKey::<A> {
        src: addr(from.0),
        dst: addr(to.0),
        sport: from.1,
        dport: to.1,
        proto,
        hook: if *hook == Hook::Xdp { Hook::ExternalIn } else { *hook } as u8,
        pad: [0; 2],
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
