//! What an existing flow means for its next packet.

use lb_common::{Address, BackendValue, FlowKey, Hook, Seen};

use crate::{
    packet::Work,
    tables::{Env, FlowSlot, Tables},
};

/// Whether a packet that found its forward entry must start afresh, because the flow is over or its
/// backend is gone for this protocol.
///
/// UDP and SCTP follow the serving set at once (a client would otherwise talk to a removed pod for
/// ever, or as long as its association lives); TCP connections stay with their backend until they end.
#[inline(always)]
pub(crate) fn starts_afresh<A: Address, T: Tables<A>, E: Env<A>>(
    tables: &T,
    env: &E,
    work: &mut Work<A>,
    now: u32,
) -> bool {
    let Work { packet, flow, other, .. } = work;
    if !packet.is_tcp()
        && !tables.backend(flow.backend).as_ref().is_some_and(BackendValue::is_serving)
    {
        return true;
    }
    if !packet.is_udp() {
        if !packet.opens() {
            return false;
        }
        flow.write_other_key(packet.tuple.proto, other);
        return is_finished(tables, flow.seen, other);
    }
    let settings = env.settings();
    let idle = now.wrapping_sub(flow.last_seen);
    if idle <= settings.udp_unreplied.wrapping_mul(settings.hz) {
        return false;
    }
    flow.write_other_key(packet.tuple.proto, other);
    is_idle(tables, other, idle, now, settings.udp_replied.wrapping_mul(settings.hz))
}

/// Whether a connection ended: a reset by either side, or a FIN by both (RFC 9293 §3.6); of SCTP the
/// like. What opens one may then choose again, as over a socket in TIME-WAIT.
#[inline(always)]
fn is_finished<A: Address, T: Tables<A>>(tables: &T, seen: u8, other: &FlowKey<A>) -> bool {
    let back = tables.flow(other).map_or(0, |slot| slot.value().seen);
    (seen | back) & Seen::RST != 0 || seen & back & Seen::FIN != 0
}

/// A SYN or INIT of no flow: where what is left of a finished connection would translate the replies to it, that
/// goes.
///
/// The client used the same port before to reach the same backend through a Service of this node, and
/// now reaches it past this node's Services: by the backend's own address, or translated on another
/// node. Two translations by one node never meet like this, since the second takes another port.
#[inline(never)]
pub(crate) fn make_way<A: Address, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    // XDP leaves what it does not know to tc, and what is sent to a pod was looked at where it came from.
    if matches!(work.place.hook, Hook::Xdp | Hook::PodOut) {
        return;
    }
    let Work { packet, flow, other, .. } = work;
    let tuple = &packet.tuple;
    tuple.write_reversed(other);
    let Some(slot) = tables.flow(other) else { return };
    *flow = slot.value();
    if flow.reverse == 0 {
        return;
    }
    flow.write_other_key(tuple.proto, other);
    if is_finished(tables, flow.seen, other) {
        tables.remove_flow(other);
        tuple.write_reversed(other);
        tables.remove_flow(other);
    }
}

/// Whether a UDP flow that the client left idle is over: never answered, or idle on both sides for
/// `life` jiffies.
#[inline(always)]
fn is_idle<A: Address, T: Tables<A>>(
    tables: &T,
    other: &FlowKey<A>,
    idle: u32,
    now: u32,
    life: u32,
) -> bool {
    match tables.flow(other) {
        Some(slot) if slot.value().seen != 0 => {
            idle > life && now.wrapping_sub(slot.value().last_seen) > life
        }
        _ => true,
    }
}

/// Removes both entries of the flow in `work`, which is a forward entry.
#[inline(always)]
pub(crate) fn remove_pair<A: Address, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    work.flow.write_other_key(work.packet.tuple.proto, &mut work.other);
    tables.remove_flow(&work.packet.tuple);
    tables.remove_flow(&work.other);
}
