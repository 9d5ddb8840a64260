//! Starting a flow: which translation its packets get, in both directions, and where.

use lb_common::{Action, DeviceRole, FlowKey, Hook, NextHop, Reason};

use crate::{
    family::{Family, address_delta, opposite, port_delta},
    frame::Frame,
    packet::Work,
    rewrite::way_back,
    tables::{Env, FlowSlot, InsertError, Route, Tables},
};

/// Attempts to find a free source port. At nine of ten ports taken, 32 fresh draws fail for one
/// flow in thirty; at three of four, for one in ten thousand.
const PORT_ATTEMPTS: u32 = 32;

/// Why no flow was started.
pub(crate) enum Refusal {
    /// For this reason.
    Reason(Reason),
    /// Another CPU started the same flow at the same time: its entry, now in `Work`, counts.
    Raced,
}

/// Drafts both entries of a flow in `work` to the backend whose id is in `work.flow` and whose address
/// and port are in `work.other`: by which way, and how back. Source port and checksum deltas come with
/// [`insert`].
///
/// # Errors
/// The reason why the packet is discarded.
#[inline(always)]
pub(crate) fn draft<A, F, E>(frame: &F, env: &E, work: &mut Work<A>) -> Result<(), Reason>
where
    A: Family,
    F: Frame,
    E: Env<A>,
{
    let Work { place, packet, flow, reverse, other, .. } = &mut *work;
    let tuple = &packet.tuple;
    other.src = tuple.src;
    other.sport = tuple.sport;
    other.proto = tuple.proto;
    other.pad = [0; 3];

    flow.src = tuple.src;
    flow.dst = other.dst;
    flow.sport = tuple.sport;
    flow.dport = other.dport;
    flow.next_hop = NextHop::default();
    flow.last_seen = env.now();
    flow.seen = packet.shows();
    flow.hooks = place.flow_hook().bit();
    flow.reverse = 0;
    flow.packets = 1;
    flow.bytes = u64::from(packet.len);

    reverse.src = tuple.dst;
    reverse.dst = tuple.src;
    reverse.sport = tuple.dport;
    reverse.dport = tuple.sport;
    way_back(frame, &mut reverse.next_hop).ok_or(Reason::Inconsistent)?;
    reverse.next_hop.ifindex = place.ifindex;
    reverse.next_hop.generation = env.generation();
    reverse.backend = flow.backend;
    reverse.last_seen = flow.last_seen;
    reverse.seen = 0;
    reverse.reverse = 1;
    reverse.packets = 0;
    reverse.bytes = 0;
    lead(env, work)
}

/// Puts both entries of the flow in `work` into the map, the reverse one first: once the forward
/// entry is there, a reply is understood.
#[inline(always)]
pub(crate) fn insert<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Result<(), Refusal>
where
    A: Family,
    T: Tables<A>,
    E: Env<A>,
{
    claim(tables, env, work)?;
    match tables.insert_flow(&work.packet.tuple, &work.flow) {
        Ok(()) => {
            tables.count_backend(work.flow.backend, 1, 1, u64::from(work.packet.len));
            Ok(())
        }
        Err(InsertError::Full) => {
            tables.remove_flow(&work.other);
            Err(Refusal::Reason(Reason::FlowTableFull))
        }
        Err(InsertError::Exists) => {
            let Some(slot) = tables.flow(&work.packet.tuple) else {
                tables.remove_flow(&work.other);
                return Err(Refusal::Reason(Reason::Inconsistent));
            };
            work.flow = slot.value();
            // With the same choice and ports our reverse entry is the winner's too, and whoever
            // inserted it, it must stay.
            let Work { flow, other, .. } = work;
            let shared = flow.src == other.dst
                && flow.dst == other.src
                && flow.sport == other.dport
                && flow.dport == other.sport;
            if !shared {
                tables.remove_flow(other);
            }
            Err(Refusal::Raced)
        }
    }
}

/// Inserts the reverse entry, with the client's own source port where that is free and may be kept,
/// else with one of ours: the reverse key must be unique, or two flows would get each other's
/// replies.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port offset below `snat_count`")]
fn claim<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Result<(), Refusal>
where
    A: Family,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { packet, flow, reverse, other, .. } = work;
    let masquerade = flow.src != packet.tuple.src;
    flow.write_other_key(packet.tuple.proto, other);
    flow.address_delta = address_delta(&packet.tuple, &flow.src, &flow.dst);
    reverse.address_delta = opposite(flow.address_delta);
    let settings = env.settings();
    let mut random = env.random();
    // The client's own port first, where the backend is to see the client's address.
    let mut keeps_port = !masquerade;
    let mut attempt = 0;
    while attempt < PORT_ATTEMPTS {
        if !keeps_port {
            // A fresh draw each time: neighbouring tries would cluster (the generator of Numerical
            // Recipes; its high bits are what the scaling uses).
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let offset = (u64::from(random) * u64::from(settings.snat_count)) >> 32;
            flow.sport = settings.snat_first.wrapping_add(offset as u16);
            other.dport = flow.sport;
        }
        flow.port_delta = port_delta(&packet.tuple, [flow.sport, flow.dport]);
        reverse.port_delta = opposite(flow.port_delta);
        match tables.insert_flow(other, reverse) {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(Refusal::Reason(Reason::FlowTableFull)),
            Err(InsertError::Exists) => {}
        }
        keeps_port = keeps_port && attempt == 0 && removed_orphan(tables, &packet.tuple, other);
        attempt += 1;
    }
    Err(Refusal::Reason(Reason::SnatPortsExhausted))
}

/// Whether the reverse key that the flow of `tuple` wants was held by its own half of a pair that lost
/// the forward half. Nobody else needs that: it is removed.
#[inline(always)]
fn removed_orphan<A: Family, T: Tables<A>>(
    tables: &T,
    tuple: &FlowKey<A>,
    reverse: &FlowKey<A>,
) -> bool {
    let ours = tables.flow(reverse).is_some_and(|slot| {
        let held = slot.value();
        held.dst == tuple.src
            && held.dport == tuple.sport
            && held.src == tuple.dst
            && held.sport == tuple.dport
    });
    let is_orphan = ours && tables.flow(tuple).is_none();
    if is_orphan {
        tables.remove_flow(reverse);
    }
    is_orphan
}

/// Decides how the flow in `work` is led, from who sends and where the backend is: actions, hooks,
/// next hop, and whether the source address changes.
#[inline(always)]
fn lead<A, E>(env: &E, work: &mut Work<A>) -> Result<(), Reason>
where
    A: Family,
    E: Env<A>,
{
    let place = work.place;
    let Work { packet, flow, reverse, other, frontend, .. } = work;
    let route = env.route(place.ifindex, other);
    let here = matches!(route, Route::Local);
    let device = env.device(route.ifindex());

    // Untouched source, and the stack goes on: right for most.
    flow.action = Action::Stack as u8;
    reverse.action = Action::Stack as u8;
    match place.hook {
        // A pod. Its address is kept, except where the backend must not see it: to itself (it would
        // answer past us), and by an address meant for clients outside, as kube-proxy masquerades,
        // which `externalTrafficPolicy: Local` forbids.
        Hook::PodIn | Hook::PodOut | Hook::Socket => {
            let hairpin = flow.dst == packet.tuple.src;
            let masqueraded = frontend.is_external() && !frontend.is_local();
            if here || !(hairpin || masqueraded) {
                reverse.hooks = Hook::PodOut.bit();
                return Ok(());
            }
            reverse.action = Action::Forward as u8;
        }
        // Outside. A backend on this node sees the client; another node's must answer through us.
        Hook::ExternalIn | Hook::Xdp => {
            if device.role != DeviceRole::External as u8 {
                reverse.hooks = Hook::ExternalOut.bit();
                return Ok(());
            }
            reverse.action = Action::Forward as u8;
        }
        // The node itself, where no socket hook saw the call.
        Hook::ExternalOut | Hook::LoopbackOut => {
            if here {
                flow.action = Action::ToHost as u8;
                flow.next_hop.ifindex = LOOPBACK;
                reverse.hooks = Hook::LoopbackOut.bit();
                return Ok(());
            }
            reverse.action = Action::ToHost as u8;
        }
    }
    // Past the stack, with an address of the node, so that the reply comes back to us.
    flow.action = Action::Forward as u8;
    reverse.hooks = Hook::PodIn.bit() | Hook::ExternalIn.bit();
    flow.src = A::snat_address(&device);
    if flow.src == A::default() {
        return Err(Reason::NoRoute);
    }
    match route {
        Route::Via(hop) => {
            flow.next_hop = hop;
            Ok(())
        }
        Route::Unresolved(ifindex) => {
            flow.next_hop.ifindex = ifindex;
            Ok(())
        }
        Route::Local | Route::None => Err(Reason::NoRoute),
    }
}

/// Interface index of the loopback device, the same in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;
