//! Devices whose packets begin with the IP header: tunnels, mostly.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[macro_use]
mod world;

use bytemuck::{AnyBitPattern, NoUninit};
use lb_common::{FlowKey, FrontendKind, Hook, Reason, proto};
use lb_ebpf::{
    Decision, Frame, Place, Verdict,
    host::craft::{Craft, Transport},
    process,
    refuse::Answer,
};
use world::{EXTERNAL, OWN, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, addr, key, sent};

both_families![
    a_pods_link_balances_as_ever,
    what_comes_in_takes_the_road_from_its_first_packet_on,
    what_the_node_sends_gets_a_header_for_its_new_device,
    refusals_have_none_either,
    errors_are_turned_as_ever,
];

/// A packet without Ethernet header, until it is given one.
struct Bare {
    /// The bytes from the IP header on.
    bytes: Vec<u8>,
    header: Option<[u8; 14]>,
}

impl Frame for Bare {
    const ETHERNET: bool = false;

    fn load<T: AnyBitPattern>(&self, at: usize) -> Option<T> {
        let at = at.checked_sub(14)?;
        Some(bytemuck::pod_read_unaligned(self.bytes.get(at..at + size_of::<T>())?))
    }

    /// The kernel would write into the IP header what goes in front of it.
    fn store<T: NoUninit>(&mut self, at: usize, value: T) -> Option<()> {
        let bytes = bytemuck::bytes_of(&value);
        match at.checked_sub(14) {
            Some(at) => self.bytes.get_mut(at..at + bytes.len())?.copy_from_slice(bytes),
            None => {
                let header = self.header.as_mut().expect("written before there is a header");
                header.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            }
        }
        Some(())
    }

    fn reaches(&self, len: usize) -> bool {
        self.bytes.len() + 14 >= len
    }

    fn make_readable(&mut self, _len: usize) {}

    fn segment_size(&self) -> u32 {
        0
    }

    fn open_header(&mut self) -> Option<()> {
        let ethertype = if self.bytes[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let mut header = [0; 14];
        header[12..].copy_from_slice(&ethertype);
        assert!(self.header.replace(header).is_none(), "one is enough");
        Some(())
    }

    fn reshape(&mut self, keep: usize, insert: usize) -> Option<()> {
        self.bytes.truncate(keep.checked_sub(14)?);
        drop(self.bytes.splice(0..0, std::iter::repeat_n(0, insert)));
        Some(())
    }
}

/// Runs a packet; returns what it is then, with its header if it has got one.
fn run<A: Answer>(
    world: &mut World<A>,
    (hook, ifindex): (Hook, u32),
    craft: &Craft,
) -> (Decision, Vec<u8>) {
    let mut frame = Bare { bytes: bare(craft), header: None };
    let World { tables, env, work, .. } = world;
    let decision = process(&mut frame, tables, env, Place::new(hook, ifindex), work);
    (decision, [frame.header.map_or(vec![], Vec::from), frame.bytes].concat())
}

fn bare(craft: &Craft) -> Vec<u8> {
    craft.frame()[14..].to_vec()
}

const IN: (Hook, u32) = (Hook::ExternalIn, EXTERNAL);
const OUT: (Hook, u32) = (Hook::ExternalOut, EXTERNAL);

fn a_pods_link_balances_as_ever<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &["remote-pod"]);
        let (tuple, to) = (
            key::<A>("pod", 4000, "vip", 80, proto),
            key::<A>("pod", 4000, "remote-pod", 8080, proto),
        );
        let out = Craft::of(&tuple);
        let (decision, bytes) = run(&mut world, (Hook::PodIn, POD_DEVICE), &out);
        assert_eq!(decision, world::stack(Reason::NewFlow));
        assert_eq!(bytes, bare(&out.translated(&to)));
        let back = Craft::of(&to.reversed());
        let (decision, bytes) = run(&mut world, (Hook::PodOut, POD_DEVICE), &back);
        assert_eq!(decision, world::stack(Reason::Reply));
        assert_eq!(bytes, bare(&back.translated(&tuple.reversed())));
    }
}

/// The way on is plain; from here there is no shortcut all the same.
fn what_comes_in_takes_the_road_from_its_first_packet_on<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        let mut world = World::<A>::new();
        let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto, &["remote-pod"]);
        let tuple = key::<A>("client", 4000, "node", 30000, proto);
        let out = Craft::of(&tuple);
        let between = key::<A>("client", 4000, "remote-pod", 8080, proto);
        for reason in [Reason::NewFlow, Reason::Forward, Reason::Forward] {
            let (decision, bytes) = run(&mut world, IN, &out);
            assert_eq!(decision, world::stack(reason));
            assert_eq!(bytes, bare(&out.translated(&between)));
        }
        let to = world.flow(&tuple).unwrap().translated(proto);
        for (leg, into, reason) in
            [(between, to, Reason::Forward), (between.reversed(), tuple.reversed(), Reason::Reply)]
        {
            let craft = Craft::of(&leg);
            let (decision, bytes) = run(&mut world, OUT, &craft);
            assert_eq!(decision, world::stack(reason));
            assert_eq!(bytes, bare(&craft.translated(&into)));
        }
        world.assert_pairs();
        // By a device with Ethernet the same flow has a shortcut.
        let frame = sent::<A>(&tuple, [ROUTER, OWN]).frame();
        assert_eq!(world.run(IN.0, IN.1, &frame).0, world::redirect(EXTERNAL, Reason::Forward));
    }
}

fn what_the_node_sends_gets_a_header_for_its_new_device<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for (backend, device, macs) in [
            ("pod", POD_DEVICE, [POD_OWN, POD]),
            ("remote-pod", EXTERNAL, [OWN, ROUTER]),
            ("node", 1, [world::mac(0); 2]),
        ] {
            let mut world = World::<A>::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[backend]);
            let tuple = key::<A>("node", 4000, "vip", 80, proto);
            let (decision, bytes) = run(&mut world, OUT, &Craft::of(&tuple));
            assert_eq!((decision.reason, decision.ifindex), (Reason::NewFlow, device));
            let to = world.flow(&tuple).unwrap().translated(proto);
            let mut wanted = sent::<A>(&to, macs);
            if backend == "node" {
                assert_eq!(decision.verdict, Verdict::ToHost);
                wanted.eth = [[0; 6]; 2];
            } else {
                assert_eq!(decision.verdict, Verdict::Redirect);
            }
            assert_eq!(bytes, wanted.frame(), "to {backend}");
        }
    }
}

fn refusals_have_none_either<A: Answer>(_: &mut World<A>) {
    for proto in PROTOS {
        for (at, from) in [(IN, "client"), (OUT, "node")] {
            let mut world = World::<A>::new();
            let _ = world.serve(FrontendKind::ClusterIp, "vip", 80, proto, &[]);
            let craft = sent::<A>(&key(from, 4000, "vip", 80, proto), [ROUTER, OWN]);
            let (decision, bytes) = run(&mut world, at, &craft);
            assert_eq!(decision, Decision::new(Verdict::Answer, Reason::NoBackend));
            let (_, with) = world.run(at.0, at.1, &craft.frame());
            assert_eq!(bytes, with[14..]);
        }
    }
}

fn errors_are_turned_as_ever<A: Answer>(_: &mut World<A>) {
    let mut world = World::<A>::new();
    world.env.stack_only = true;
    let _ = world.serve(FrontendKind::NodePort, "node", 30000, proto::TCP, &["remote-pod"]);
    let tuple = key::<A>("client", 4000, "node", 30000, proto::TCP);
    let _ = run(&mut world, IN, &Craft::of(&tuple));
    let to = world.flow(&tuple).unwrap().translated(proto::TCP);
    let kind = if A::FAMILY == lb_common::Family::V4 { (3, 4) } else { (2, 0) };
    let about = |about: &FlowKey<A>, dst: A| {
        let outer = FlowKey { src: addr("node-at-pods"), dst, ..*about };
        let payload = bare(&Craft::of(about));
        Craft { transport: Transport::Icmp(kind.0, kind.1), payload, ..Craft::of(&outer) }
    };
    let (decision, bytes) = run(&mut world, IN, &about(&to, to.src));
    assert_eq!(decision, world::stack(Reason::Error));
    let between = FlowKey { src: tuple.src, sport: 4000, ..to };
    assert_eq!(bytes, bare(&about(&between, tuple.src)));
    let (_, bytes) = run(&mut world, OUT, &about(&between, tuple.src));
    assert_eq!(bytes, bare(&about(&tuple, tuple.src)));
}
