//! ICMP errors about packets of flows: both the error and the packet that it quotes are translated back.
//!
//! Whoever sends an error quotes the packet as it met him. So the error is translated where a reply to that
//! packet would be, and as that reply: the sender of the packet is told of the addresses and ports that it
//! used. Without that a "too big" reaches nobody, and a transfer over a smaller hop stalls for ever.
//!
//! **Invariant:** an error neither starts, moves nor ends a flow, and one about anything else passes
//! untouched.

use bytemuck::{AnyBitPattern, NoUninit};
use lb_common::{Action, Family as Number, Hook, Reason, proto};

use crate::{
    checksum::{Delta, add, corrected, fold16, replaced},
    family::{Family, address_delta, port_delta},
    frame::Frame,
    header::{ETH_LEN, IcmpError, Ports, TCP_CHECK, UDP_CHECK},
    packet::{Packet, Work},
    refuse::Answer,
    step::{Next, Step},
    tables::{FlowSlot, Tables},
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

/// Looks whether an error quotes a packet of a flow. If so, that flow's entry for the replies to it is in
/// `work`, and what remains is to take the road of those replies, and be turned back.
#[inline(never)]
pub(crate) fn find<A, F, T>(frame: &mut F, tables: &T, work: &mut Work<A>) -> Step
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
{
    let untouched = Step::pass(Reason::Icmp);
    let quoted = &mut quoted::<A, F>(frame);
    quoted.make_readable(A::TRANSPORT + QUOTED);
    let Work { place, packet, flow, outer, .. } = work;
    outer.src = packet.tuple.src;
    outer.dst = packet.tuple.dst;
    let Some(ports) = parse::<A, _>(quoted, packet) else { return untouched };
    let tuple = &mut packet.tuple;
    // Errors go to who sent the packet.
    if tuple.src != outer.dst {
        return untouched;
    }
    tuple.src = tuple.dst;
    tuple.dst = outer.dst;
    tuple.sport = u16::from_be(ports.dport);
    tuple.dport = u16::from_be(ports.sport);
    tuple.hook = place.flow_hook() as u8;
    tuple.pad = [0; 2];
    let mut slot = tables.flow(tuple);
    if slot.is_none() && matches!(place.hook, Hook::LoopbackOut) {
        // A tunnel of the node itself says so to the address that the packet left with.
        tuple.hook = Hook::ExternalIn as u8;
        slot = tables.flow(tuple);
    }
    let Some(slot) = slot else { return untouched };
    *flow = slot.value();
    let next =
        if flow.action == Action::Masquerade as u8 { Next::QuotedRoad } else { Next::Quoted };
    Step::new(next, Reason::Error)
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

/// Writes what the reply to the quoted packet would become by the flow entry in `work`, turned round, into the
/// quoted packet. Returns what that adds to the sum of the error, folded to 16 bits; [`REFUSED`] when the
/// kernel refuses a change.
#[inline(never)]
pub(crate) fn turn_quoted<A: Answer, F: Frame>(frame: &mut F, work: &mut Work<A>) -> u32 {
    rewrite_quoted(&mut quoted::<A, F>(frame), work).unwrap_or(REFUSED)
}

/// No sum of 16 bits.
pub(crate) const REFUSED: u32 = u32::MAX;

#[inline(always)]
fn quoted<A: Answer, F: Frame>(frame: &mut F) -> Quoted<'_, F> {
    Quoted(frame, A::TRANSPORT - ETH_LEN + size_of::<IcmpError>())
}

#[inline(always)]
fn rewrite_quoted<A: Answer, F: Frame>(quoted: &mut Quoted<'_, F>, work: &Work<A>) -> Option<u32> {
    let Work { packet, flow, .. } = work;
    let tuple = &packet.tuple;
    let delta = Delta {
        pseudo: address_delta(tuple, &flow.src, &flow.dst),
        segment: port_delta(tuple, [flow.sport, flow.dport]),
    };
    A::rewrite_ip(quoted, &flow.dst, &flow.src, delta.pseudo, 0)?;
    let ports = Ports { sport: flow.dport.to_be(), dport: flow.sport.to_be() };
    quoted.store(A::TRANSPORT, ports)?;
    // An IPv4 header has its own checksum, with which it sums to the same as before.
    let address = if matches!(A::FAMILY, Number::V4) { 0 } else { u32::from(delta.pseudo) };
    let mut change = add(address, u32::from(delta.segment));
    let at = A::TRANSPORT + if packet.is_tcp() { TCP_CHECK } else { UDP_CHECK };
    // Routers may quote less; of SCTP nobody can check a part.
    if !packet.is_sctp()
        && quoted.reaches(at + 2)
        && let Some(old) = quoted.load::<u16>(at)
        && (packet.is_tcp() || old != 0)
    {
        let new = corrected(old, delta.whole());
        quoted.store(at, new)?;
        change = add(change, replaced([u32::from(old)], [u32::from(new)]));
    }
    Some(u32::from(fold16(change)))
}

/// Writes the addresses of the error itself by the flow entry in `work`, and its checksum, whose sum the quoted
/// packet changed by `change`. Where the error is from a router between and not from the packet's
/// receiver, its source stays. False when the kernel refuses a change.
#[inline(never)]
pub(crate) fn turn_outer<A: Answer, F: Frame>(
    frame: &mut F,
    work: &mut Work<A>,
    change: u32,
) -> bool {
    let Work { packet, flow, outer, .. } = work;
    if outer.src != packet.tuple.src {
        flow.src = outer.src;
    }
    let delta = address_delta(outer, &flow.src, &flow.dst);
    if A::rewrite_ip(frame, &flow.src, &flow.dst, delta, 0).is_none() {
        return false;
    }
    // The checksum of ICMPv6 covers the addresses.
    let addresses = if matches!(A::FAMILY, Number::V6) { u32::from(delta) } else { 0 };
    let Some(check) = frame.load::<u16>(A::TRANSPORT + ICMP_CHECK) else { return false };
    frame.store(A::TRANSPORT + ICMP_CHECK, corrected(check, add(addresses, change))).is_some()
}
