//! ICMP errors about packets of flows: both the error and the packet that it quotes are translated back.
//!
//! Whoever sends an error quotes the packet as it met him. So the error is translated where a reply to that
//! packet would be, and as that reply: the sender of the packet is told of the addresses and ports that it
//! used. Without that a "too big" reaches nobody, and a transfer over a smaller hop stalls for ever.
//!
//! **Invariant:** an error neither starts, moves nor ends a flow, and one about anything else passes
//! untouched.

use bytemuck::{AnyBitPattern, NoUninit};
use lb_common::{Action, Family as Number, FlowKey, Hook, Reason, proto};

use crate::{
    checksum::{Delta, add, corrected, fold16, replaced},
    family::{Family, address_delta, port_delta},
    frame::Frame,
    header::{ETH_LEN, IcmpError, Ports, TCP_CHECK, UDP_CHECK},
    packet::{Packet, Work},
    pipeline::{Next, Step, first_leg},
    refuse::Answer,
    tables::{Env, FlowSlot, Tables},
};

/// Offset of the checksum in an ICMP header.
const ICMP_CHECK: usize = 2;

/// Octets of a quoted transport header that are looked at, up to the checksum of TCP.
const QUOTED: usize = 18;

/// Whether an ICMP message is an error that quotes a packet.
#[inline(always)]
pub(crate) fn is_one<A: Answer, F: Frame>(frame: &F) -> bool {
    frame.load(A::TRANSPORT).is_some_and(A::is_error)
}

/// The packet that an error quotes, as a frame: its IP header stands where that of a frame does.
struct Quoted<'a, F>(&'a mut F, usize);

impl<F: Frame> Frame for Quoted<'_, F> {
    const ETHERNET: bool = false;

    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, at: usize) -> Option<T> {
        self.0.load(self.1 + at)
    }

    #[inline(always)]
    fn store<T: NoUninit>(&mut self, at: usize, value: T) -> Option<()> {
        self.0.store(self.1 + at, value)
    }

    #[inline(always)]
    fn reaches(&self, len: usize) -> bool {
        self.0.reaches(self.1 + len)
    }

    #[inline(always)]
    fn make_readable(&mut self, len: usize) {
        self.0.make_readable(self.1 + len);
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn open_header(&mut self) -> Option<()> {
        None
    }

    #[inline(always)]
    fn reshape(&mut self, _keep: usize, _insert: usize) -> Option<()> {
        None
    }
}

/// Translates an error back, if it quotes a packet of a flow.
#[inline(never)]
pub(crate) fn turn_back<A, F, T, E>(frame: &mut F, tables: &T, env: &E, work: &mut Work<A>) -> Step
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    let untouched = Step::pass(Reason::Icmp);
    let shift = A::TRANSPORT - ETH_LEN + size_of::<IcmpError>();
    frame.make_readable(shift + A::TRANSPORT + QUOTED);
    let (from, to) = (work.packet.tuple.src, work.packet.tuple.dst);
    let mut quoted = Quoted(frame, shift);
    let Some(ports) = parse::<A, _>(&quoted, &mut work.packet) else { return untouched };
    let tuple = &mut work.packet.tuple;
    // Errors go to who sent the packet.
    if tuple.src != to {
        return untouched;
    }
    let by_receiver = tuple.dst == from;
    let hook = work.place.flow_hook();
    *tuple = FlowKey {
        src: tuple.dst,
        dst: tuple.src,
        sport: u16::from_be(ports.dport),
        dport: u16::from_be(ports.sport),
        proto: tuple.proto,
        hook: hook as u8,
        pad: [0; 2],
    };
    let mut slot = tables.flow(tuple);
    if slot.is_none() && matches!(hook, Hook::LoopbackOut) {
        // A tunnel of the node itself says so to the address that a packet left with.
        tuple.hook = Hook::ExternalIn as u8;
        slot = tables.flow(tuple);
    }
    let Some(slot) = slot else { return untouched };
    work.flow = slot.value();
    if work.flow.action == Action::Masquerade as u8 {
        let step = first_leg(tables, env, work, Reason::Error);
        if !matches!(step.next, Next::Apply) {
            return step;
        }
    }
    let moved = matches!(hook, Hook::LoopbackOut) && work.packet.tuple.hook != hook as u8;
    match rewrite(&mut quoted, work, by_receiver.then_some(()), &from, &to) {
        Some(()) if moved => {
            // Up again, for the stack to route it: the sender of the packet is elsewhere.
            Step::new(Next::TurnedToHost, Reason::Error)
        }
        Some(()) => Step::new(Next::Turned, Reason::Error),
        None => Step::drop(Reason::RewriteFailed),
    }
}

/// Reads the quoted packet's addresses and protocol into `into`, and returns its ports; `None` when it is
/// nothing that flows are made of.
#[inline(always)]
fn parse<A: Family, F: Frame>(quoted: &F, into: &mut Packet<A>) -> Option<Ports> {
    A::parse_ip(quoted, into).ok()?;
    match into.tuple.proto {
        proto::TCP | proto::UDP | proto::SCTP => quoted.load(A::TRANSPORT),
        _ => None,
    }
}

/// Writes what the reply to the quoted packet would become, turned round, into the quoted packet, and its
/// addresses into the error's own header. The error is from the packet's receiver, or from a router between,
/// whose address stays.
#[inline(always)]
fn rewrite<A: Answer, F: Frame>(
    quoted: &mut Quoted<'_, F>,
    work: &Work<A>,
    by_receiver: Option<()>,
    from: &A,
    to: &A,
) -> Option<()> {
    let (flow, tuple) = (&work.flow, &work.packet.tuple);
    let delta = Delta {
        pseudo: address_delta(tuple, &flow.src, &flow.dst),
        segment: port_delta(tuple, [flow.sport, flow.dport]),
    };
    A::rewrite_ip(quoted, &flow.dst, &flow.src, delta.pseudo, 0)?;
    quoted.store(A::TRANSPORT, Ports { sport: flow.dport.to_be(), dport: flow.sport.to_be() })?;
    // An IPv4 header has its own checksum, with which it sums to the same as before.
    let address = if matches!(A::FAMILY, Number::V4) { 0 } else { u32::from(delta.pseudo) };
    let mut change = add(address, u32::from(delta.segment));
    let at = match tuple.proto {
        proto::TCP => A::TRANSPORT + TCP_CHECK,
        _ => A::TRANSPORT + UDP_CHECK,
    };
    // Routers may quote less; of SCTP nobody can check a part.
    if tuple.proto != proto::SCTP
        && quoted.reaches(at + 2)
        && let Some(old) = quoted.load::<u16>(at)
        && (tuple.proto == proto::TCP || old != 0)
    {
        let new = corrected(old, delta.whole());
        quoted.store(at, new)?;
        change = add(change, replaced([u32::from(old)], [u32::from(new)]));
    }
    let frame = &mut *quoted.0;
    let src = if by_receiver.is_some() { flow.src } else { *from };
    let outer = FlowKey { src: *from, dst: *to, ..FlowKey::default() };
    let outer_delta = address_delta(&outer, &src, &flow.dst);
    A::rewrite_ip(frame, &src, &flow.dst, outer_delta, 0)?;
    if matches!(A::FAMILY, Number::V6) {
        change = add(change, u32::from(outer_delta));
    }
    let check: u16 = frame.load(A::TRANSPORT + ICMP_CHECK)?;
    frame.store(A::TRANSPORT + ICMP_CHECK, corrected(check, u32::from(fold16(change))))
}
