//! Fragments of datagrams: the first one has the ports and is translated as any packet; the others follow it.
//!
//! The stack itself makes fragments on the road, of what is too large for the next hop and may be cut. They
//! leave in order, so each meets what its first one left behind. One that comes before the first passes
//! untouched.

use lb_common::{FRAGMENT_SECONDS, FragmentKey, FragmentValue, Reason};

use crate::{
    frame::Frame,
    packet::{Packet, Work},
    refuse::Answer,
    step::{Next, Step},
    tables::{Env, Tables},
};

#[inline(always)]
fn key<A: Answer>(packet: &Packet<A>, hook: u8) -> FragmentKey<A> {
    let tuple = &packet.tuple;
    FragmentKey { src: tuple.src, dst: tuple.dst, id: packet.id, proto: tuple.proto, hook, pad: 0 }
}

/// Lets the fragments behind the first one in `work` do as it does, if it was translated; else forgets what
/// an older datagram of the same number did.
#[inline(never)]
pub(crate) fn remember<A, T, E>(tables: &T, env: &E, work: &mut Work<A>, translated: bool)
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { packet, flow, .. } = work;
    let key = key(packet, packet.tuple.hook);
    if !translated {
        tables.remove_fragment(&key);
        return;
    }
    let value = FragmentValue {
        src: flow.src,
        dst: flow.dst,
        next_hop: flow.next_hop,
        seen_at: env.now(),
        address_delta: flow.address_delta,
        action: flow.action,
        pad: 0,
    };
    tables.put_fragment(&key, &value);
}

/// Rewrites a later fragment as the first one of its datagram was, if that was.
#[inline(never)]
pub(crate) fn follow<A, F, T, E>(frame: &mut F, tables: &T, env: &E, work: &mut Work<A>) -> Step
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    let untouched = Step::pass(Reason::Fragment);
    let key = key(&work.packet, work.place.flow_hook() as u8);
    let Some(first) = tables.fragment(&key) else { return untouched };
    let age = env.now().wrapping_sub(first.seen_at);
    if age > FRAGMENT_SECONDS.wrapping_mul(env.settings().hz) {
        return untouched;
    }
    let flow = &mut work.flow;
    flow.action = first.action;
    flow.next_hop = first.next_hop;
    match A::rewrite_ip(frame, &first.src, &first.dst, first.address_delta, 0) {
        Some(()) => Step::new(Next::Deliver, Reason::Following),
        None => Step::drop(Reason::RewriteFailed),
    }
}
