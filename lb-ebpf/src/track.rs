//! What an existing flow means for its next packet.

use lb_common::{Address, BackendValue, FlowKey, FlowValue, Hook, LAST_SEEN_GRAIN, Seen};

use crate::{
    packet::{Packet, Work},
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

/// Seconds for which a UDP flow is taken for one that its client still uses.
///
/// It must be longer than a translated datagram may take from the hook that translates it to the device
/// that it leaves by, where it looks like one that was never translated: the kernel may have to ask
/// twice, a second apart, for the neighbour.
const UDP_IN_USE: u32 = 2;

/// Whether a packet that is no Service's may get its replies translated in the name of another flow, so
/// that [`make_way`] has to look.
///
/// What opens a connection is looked at wherever it passes, and a datagram too, since it does not tell
/// whether it is the first: its replies meet a flow's entries only at the device where it came in, and
/// what a process of the node sends comes in nowhere.
#[inline(always)]
pub(crate) const fn may_collide<A: Address>(packet: &Packet<A>, hook: Hook) -> bool {
    // The packet first: most are neither.
    if !packet.is_udp() && !packet.opens() {
        return false;
    }
    match hook {
        // tc sees it too, and XDP does not see all.
        Hook::Xdp | Hook::Socket => false,
        Hook::PodIn | Hook::PodOut | Hook::ExternalIn | Hook::ExternalOut | Hook::LoopbackOut => {
            true
        }
    }
}

/// A packet past all Services: where what is left of a flow that is over would translate the replies to
/// it, that goes.
///
/// The client used the same port before to reach the same backend through a Service of this node, and
/// now reaches it another way: by the backend's own address, by a socket hook, or translated on another
/// node. Two translations by one node never meet like this, since the second takes another port.
#[inline(never)]
pub(crate) fn make_way<A: Address, T: Tables<A>, E: Env<A>>(
    tables: &T,
    env: &E,
    work: &mut Work<A>,
) {
    let Work { place, packet, flow, other, scratch, .. } = work;
    let tuple = &packet.tuple;
    tuple.write_reversed(place.hook.opposite() as u8, other);
    let Some(slot) = tables.flow(other) else { return };
    *flow = slot.value();
    if flow.reverse == 0 {
        return;
    }
    // The forward entry, whose key goes to `scratch`.
    flow.write_other_key(tuple.proto, scratch);
    let Some(slot) = tables.flow(scratch) else {
        tables.remove_flow(other);
        return;
    };
    *flow = slot.value();
    flow.write_other_key(tuple.proto, other);
    let over = if packet.is_udp() {
        is_left(env, flow.last_seen)
    } else {
        is_finished(tables, flow.seen, other)
    };
    if over {
        remove(tables, scratch, flow, other);
    }
}

/// Whether the client of a UDP flow, which used it last at `last_seen`, sends nothing on it any more.
#[inline(always)]
fn is_left<A: Address, E: Env<A>>(env: &E, last_seen: u32) -> bool {
    let in_use = UDP_IN_USE.wrapping_mul(env.settings().hz).wrapping_add(LAST_SEEN_GRAIN);
    env.now().wrapping_sub(last_seen) > in_use
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

/// Removes the flow whose forward entry is in `work`.
#[inline(never)]
pub(crate) fn remove_pair<A: Address, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    let Work { packet, flow, other, .. } = work;
    remove(tables, &packet.tuple, flow, other);
}

/// Removes every entry of the flow with this forward entry, that one first; `key` is memory.
#[inline(always)]
fn remove<A: Address, T: Tables<A>>(
    tables: &T,
    forward: &FlowKey<A>,
    flow: &FlowValue<A>,
    key: &mut FlowKey<A>,
) {
    tables.remove_flow(forward);
    flow.write_other_key(forward.proto, key);
    tables.remove_flow(key);
    if let Some([on, back]) = flow.second_legs(forward) {
        *key = on;
        tables.remove_flow(key);
        *key = back;
        tables.remove_flow(key);
    }
}
