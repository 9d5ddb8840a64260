//! The road: a masqueraded flow by the kernel's stack, in two legs; and what the shortcut past it needs.
//!
//! At the edge where a packet enters, only its destination is rewritten. The stack routes it, filters it,
//! fragments it or says that it is too big. Where it leaves, the second leg replaces its source. Between
//! the two, everybody sees the client and the backend by their own addresses.

use lb_common::{FlowKey, FlowValue, Hook, NextHop, Reason};

use super::{REDIRECT, STACK};
use crate::{
    establish::{drawn_port, shortcut},
    family::{address_delta, port_delta},
    packet::Work,
    refuse::Answer,
    step::{Next, Step},
    tables::{Env, FlowSlot, InsertError, Route, Tables},
};

/// Turns the flow entry in `work` into the first leg of its direction.
#[inline(never)]
pub(super) fn first_leg<A, T, E>(tables: &T, env: &E, work: &mut Work<A>, reason: Reason) -> Step
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    if work.flow.road_port == 0
        && let Err(reason) = pave(tables, env, work)
    {
        return Step::drop(reason);
    }
    let Work { packet, flow, .. } = work;
    let tuple = &packet.tuple;
    flow.src = tuple.src;
    if flow.reverse == 0 {
        flow.sport = flow.road_port;
    } else {
        flow.sport = tuple.sport;
        flow.dport = flow.road_port;
    }
    flow.address_delta = address_delta(tuple, &flow.src, &flow.dst);
    flow.port_delta = port_delta(tuple, [flow.sport, flow.dport]);
    flow.action = STACK;
    Step::new(Next::Apply, reason)
}

/// Attempts to find a port for a client on the road. Its own is taken only by another flow between the very
/// same client, port and backend.
const ATTEMPTS: u32 = 3;

/// Makes the second legs of the flow whose entry is in `work`, of both directions.
///
/// What they say follows from the entry and the client's port on the road. So two CPUs that do this at the
/// same time make the same, unless that port is taken; then the legs of one of them are never used.
#[inline(never)]
fn pave<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Result<(), Reason>
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { packet, flow, reverse: leg, other: back, scratch: on, .. } = work;
    let own = &packet.tuple;
    let settings = env.settings();
    let mut random = env.random();
    let mut port = if flow.reverse == 0 { own.sport } else { flow.dport };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        // On in this direction: to what the entry makes of its packets, but from where the first leg ends.
        on.src = own.src;
        on.dst = flow.dst;
        (on.sport, on.dport) =
            if flow.reverse == 0 { (port, flow.dport) } else { (own.sport, port) };
        on.proto = own.proto;
        on.hook = Hook::opposite_of(flow.other_hook);
        on.pad = [0; 2];
        *leg = *flow;
        leg.next_hop = NextHop::default();
        leg.last_seen = env.now();
        leg.seen = 0;
        leg.action = STACK;
        leg.packets = 0;
        leg.bytes = 0;
        leg.second = 1;
        let first = lay(tables, on, leg);
        // And back in the other: to what the entry's packets were before.
        on.write_reversed(Hook::opposite_of(own.hook), back);
        leg.src = own.dst;
        leg.dst = own.src;
        leg.sport = own.dport;
        leg.dport = own.sport;
        leg.reverse = 1 - (flow.reverse & 1);
        leg.other_hook = own.hook;
        let both = match first {
            Laid::New | Laid::Before => lay(tables, back, leg),
            Laid::Taken | Laid::Full => first,
        };
        match both {
            Laid::New | Laid::Before => {
                flow.road_port = port;
                if let Some(slot) = tables.flow(own) {
                    slot.set_road_port(port);
                }
                flow.write_other_key(own.proto, back);
                if let Some(slot) = tables.flow(back) {
                    slot.set_road_port(port);
                }
                return Ok(());
            }
            Laid::Taken | Laid::Full => {
                if let Laid::New = first {
                    tables.remove_flow(on);
                }
                if let Laid::Full = both {
                    return Err(Reason::FlowTableFull);
                }
            }
        }
        port = drawn_port(&mut random, &settings);
        attempt += 1;
    }
    Err(Reason::SnatPortsExhausted)
}

/// What became of a second leg that was to be made.
#[derive(Clone, Copy)]
enum Laid {
    /// It is made.
    New,
    /// It was there: another CPU has made it.
    Before,
    /// Another flow between the same ends has its key.
    Taken,
    /// The map is full.
    Full,
}

#[inline(always)]
fn lay<A: Answer, T: Tables<A>>(tables: &T, key: &FlowKey<A>, leg: &mut FlowValue<A>) -> Laid {
    leg.address_delta = address_delta(key, &leg.src, &leg.dst);
    leg.port_delta = port_delta(key, [leg.sport, leg.dport]);
    match tables.insert_flow(key, leg) {
        Ok(()) => Laid::New,
        Err(InsertError::Full) => Laid::Full,
        Err(InsertError::Exists) => match tables.flow(key) {
            Some(slot) if leads_alike(&slot.value(), leg) => Laid::Before,
            Some(_) | None => Laid::Taken,
        },
    }
}

#[inline(always)]
fn leads_alike<A: Answer>(there: &FlowValue<A>, leg: &FlowValue<A>) -> bool {
    // Without a branch for each word, of which the verifier would follow both ways.
    let differs = |a: &A, b: &A| {
        let ([a, b, c, d], [e, f, g, h]) = (a.words(), b.words());
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h)
    };
    let ports = u32::from((there.sport ^ leg.sport) | (there.dport ^ leg.dport));
    let addresses = differs(&there.src, &leg.src) | differs(&there.dst, &leg.dst);
    (addresses | ports | u32::from(there.second ^ 1)) == 0
}

/// Asks the kernel once in each generation whether the flow in `work` has a shortcut, and remembers what it
/// says: with the addresses that the stack will see on the road, or for a reply with those that leave.
#[inline(never)]
pub(super) fn find_shortcut<A, T, E>(tables: &T, env: &E, work: &mut Work<A>)
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { place, packet, flow, other, .. } = work;
    *other = flow.translated(packet.tuple.proto);
    if flow.reverse == 0 {
        other.src = packet.tuple.src;
        other.sport = packet.tuple.sport;
    }
    flow.next_hop = shortcut(env, env.route(place.ifindex, other));
    if let Some(slot) = tables.flow(&packet.tuple) {
        slot.set_next_hop(flow.next_hop);
    }
}

/// Asks the kernel for the next hop of a redirected flow. It sends this one packet itself, which also makes it
/// probe a neighbour that we would otherwise use unseen for ever; the next ones use what it found. False
/// when there is no way.
#[inline(never)]
pub(super) fn renew<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> bool
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { place, packet, flow, other, .. } = work;
    *other = flow.translated(packet.tuple.proto);
    match env.route(place.ifindex, other) {
        Route::Via(hop) => {
            if let Some(slot) = tables.flow(&packet.tuple) {
                slot.set_next_hop(hop);
            }
            flow.next_hop = NextHop { generation: 0, ..hop };
            true
        }
        Route::Unresolved(ifindex) => {
            flow.next_hop = NextHop { ifindex, ..NextHop::default() };
            true
        }
        Route::Local | Route::Unknown => false,
    }
}

/// Decides by which device a reply leaves that the stack routed by the backend's address: as the rules of
/// the node say for the address of the frontend, which is what the network outside will see. Asked once in
/// each generation.
#[inline(never)]
pub(super) fn choose_exit<A, T, E>(tables: &T, env: &E, work: &mut Work<A>)
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { place, packet, flow, other, .. } = work;
    if flow.next_hop.generation != env.generation() {
        *other = flow.translated(packet.tuple.proto);
        let ifindex = env.route(place.ifindex, other).ifindex();
        let generation = env.generation();
        flow.next_hop = NextHop { ifindex, generation, ..NextHop::default() };
        if let Some(slot) = tables.flow(&packet.tuple) {
            slot.set_next_hop(flow.next_hop);
        }
    }
    if flow.next_hop.ifindex != 0 && flow.next_hop.ifindex != place.ifindex {
        flow.action = REDIRECT;
        flow.next_hop.generation = 0;
    }
}
