//! Starting a flow: which translation its packets get, in both directions, and where.

use lb_common::{
    Action, DeviceRole, DeviceValue, FlowKey, Hook, Location, NextHop, Reason, Settings,
};

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
pub(crate) fn draft<A, F, T, E>(
    frame: &F,
    tables: &T,
    env: &E,
    work: &mut Work<A>,
) -> Result<(), Reason>
where
    A: Family,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { place, packet, flow, reverse, other, .. } = &mut *work;
    let tuple = &packet.tuple;
    flow.src = tuple.src;
    flow.dst = other.dst;
    flow.sport = tuple.sport;
    flow.dport = other.dport;
    flow.next_hop = NextHop::default();
    flow.last_seen = env.now();
    flow.seen = packet.shows();
    flow.action = Action::Stack as u8;
    flow.reverse = 0;
    flow.other_hook = Hook::opposite_of(tuple.hook);
    flow.packets = 1;
    flow.road_port = 0;
    flow.second = 0;
    flow.pad = 0;
    flow.bytes = u64::from(packet.len);

    reverse.src = tuple.dst;
    reverse.dst = tuple.src;
    reverse.sport = tuple.dport;
    reverse.dport = tuple.sport;
    reverse.next_hop = NextHop::default();
    reverse.backend = flow.backend;
    reverse.last_seen = flow.last_seen;
    reverse.seen = 0;
    reverse.action = Action::Stack as u8;
    reverse.reverse = 1;
    reverse.other_hook = tuple.hook;
    reverse.packets = 0;
    reverse.road_port = 0;
    reverse.second = 0;
    reverse.pad = 0;
    reverse.bytes = 0;
    match place.hook {
        Hook::PodIn | Hook::PodOut | Hook::Socket => from_pod(env, work),
        Hook::ExternalIn | Hook::Xdp => from_outside(tables, env, work),
        Hook::ExternalOut | Hook::LoopbackOut => from_node(frame, env, work),
    }
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
    // The client's own port first, where the backend is to see the client's address.
    if !masquerade {
        flow.port_delta = port_delta(&packet.tuple, [flow.sport, flow.dport]);
        reverse.port_delta = opposite(flow.port_delta);
        let mut inserted = tables.insert_flow(other, reverse);
        if let Err(InsertError::Exists) = inserted
            && removed_orphan(tables, &packet.tuple, other)
        {
            inserted = tables.insert_flow(other, reverse);
        }
        match inserted {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(Refusal::Reason(Reason::FlowTableFull)),
            Err(InsertError::Exists) => {}
        }
    }
    let settings = env.settings();
    let mut random = env.random();
    let mut attempt = 0;
    while attempt < PORT_ATTEMPTS {
        flow.sport = drawn_port(&mut random, &settings);
        other.dport = flow.sport;
        flow.port_delta = port_delta(&packet.tuple, [flow.sport, flow.dport]);
        reverse.port_delta = opposite(flow.port_delta);
        match tables.insert_flow(other, reverse) {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(Refusal::Reason(Reason::FlowTableFull)),
            Err(InsertError::Exists) => {}
        }
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
            && held.other_hook == tuple.hook
    });
    let is_orphan = ours && tables.flow(tuple).is_none();
    if is_orphan {
        tables.remove_flow(reverse);
    }
    is_orphan
}

/// A source port of ours, drawn afresh each time: neighbouring tries would cluster (the generator of
/// Numerical Recipes; its high bits are what the scaling uses).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a port offset below `snat_count`")]
pub(crate) const fn drawn_port(random: &mut u32, settings: &Settings) -> u16 {
    *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let offset = (*random as u64 * settings.snat_count as u64) >> 32;
    settings.snat_first.wrapping_add(offset as u16)
}

/// A pod keeps its address, since its replies come back through its own node. Only to itself it must not be
/// seen: it would answer past us.
#[inline(always)]
fn from_pod<A: Family, E: Env<A>>(env: &E, work: &mut Work<A>) -> Result<(), Reason> {
    let Work { place, packet, flow, other, .. } = &mut *work;
    if flow.dst != packet.tuple.src {
        return Ok(());
    }
    // The device that leads to pods may be a bridge, whose address they know as their gateway's.
    *other = packet.tuple;
    other.dst = flow.dst;
    other.dport = flow.dport;
    let leads = env.route(place.ifindex, other).ifindex();
    let device = env.device(if leads == 0 { place.ifindex } else { leads });
    masquerade(work, &device)
}

/// A backend on this node sees the client that comes from outside; another node's must answer through us.
/// Which it is, its slice says; where it does not, the way there tells.
#[inline(always)]
fn from_outside<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Result<(), Reason>
where
    A: Family,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { place, packet, flow, reverse, other, .. } = &mut *work;
    *other = packet.tuple.reversed();
    let back = env.route(place.ifindex, other);
    // Nobody outside has an address of the node.
    if let Route::Local = back {
        return Err(Reason::BadSource);
    }
    let location =
        tables.backend(flow.backend).map_or(Location::Unknown as u8, |backend| backend.location);
    if location == Location::Here as u8 {
        return Ok(());
    }
    *other = packet.tuple;
    other.dst = flow.dst;
    other.dport = flow.dport;
    let on = env.route(place.ifindex, other);
    let device = env.device(on.ifindex());
    if location == Location::Unknown as u8
        && (matches!(on, Route::Local) || device.role == DeviceRole::Workload as u8)
    {
        return Ok(());
    }
    flow.next_hop = shortcut(env, on);
    reverse.next_hop = shortcut(env, back);
    // A device that the look-up does not name leaves the address of the one where the packet came in.
    let device = if on.ifindex() == 0 { env.device(place.ifindex) } else { device };
    masquerade(work, &device)
}

/// The flow in `work` gets the address of `device`, and its replies come back by the same side of the node.
#[inline(always)]
fn masquerade<A: Family>(work: &mut Work<A>, device: &DeviceValue) -> Result<(), Reason> {
    let Work { packet, flow, reverse, .. } = work;
    flow.src = A::snat_address(device);
    flow.action = Action::Masquerade as u8;
    flow.other_hook = packet.tuple.hook;
    reverse.action = Action::Masquerade as u8;
    if flow.src == A::default() { Err(Reason::NoRoute) } else { Ok(()) }
}

/// What the node itself sends, where no socket hook saw the call, was routed already: it is redirected,
/// with an address of the device that it leaves by.
#[inline(always)]
fn from_node<A, F, E>(frame: &F, env: &E, work: &mut Work<A>) -> Result<(), Reason>
where
    A: Family,
    F: Frame,
    E: Env<A>,
{
    let Work { place, packet, flow, reverse, other, .. } = &mut *work;
    *other = packet.tuple;
    other.dst = flow.dst;
    other.dport = flow.dport;
    let route = env.route(place.ifindex, other);
    if let Route::Local = route {
        flow.action = Action::ToHost as u8;
        flow.next_hop.ifindex = LOOPBACK;
        flow.other_hook = Hook::LoopbackOut as u8;
        return Ok(());
    }
    let device = env.device(route.ifindex());
    flow.action = Action::Redirect as u8;
    flow.src = A::snat_address(&device);
    flow.other_hook = if device.role == DeviceRole::Workload as u8 {
        Hook::PodIn as u8
    } else {
        Hook::ExternalIn as u8
    };
    // Replies re-enter where the request was to leave, addressed to that device.
    reverse.action = Action::ToHost as u8;
    if F::ETHERNET {
        way_back(frame, &mut reverse.next_hop).ok_or(Reason::Inconsistent)?;
    }
    reverse.next_hop.ifindex = place.ifindex;
    match route {
        Route::Via(hop) => flow.next_hop = hop,
        Route::Unresolved(ifindex) => flow.next_hop.ifindex = ifindex,
        Route::Local | Route::Unknown => return Err(Reason::NoRoute),
    }
    if flow.src == A::default() { Err(Reason::NoRoute) } else { Ok(()) }
}

/// The next hop of a shortcut along `route`: of device 0 where there is none, since the hop is not known to
/// be plain or redirecting is not allowed.
#[inline(always)]
pub(crate) fn shortcut<A: Family, E: Env<A>>(env: &E, route: Route) -> NextHop {
    match route {
        Route::Via(hop) if env.may_redirect() && env.device(hop.ifindex).is_ethernet() => hop,
        // Asked again with each packet until the stack, which these go by, knows the neighbour.
        Route::Unresolved(_) => NextHop::default(),
        Route::Via(_) | Route::Local | Route::Unknown => {
            NextHop { generation: env.generation(), ..NextHop::default() }
        }
    }
}

/// Interface index of the loopback device, the same in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;
