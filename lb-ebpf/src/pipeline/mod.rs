//! The way of one packet through the datapath, stage by stage.

mod new_flow;

use lb_common::{Action, Class, DeviceRole, Hook, NextHop, Reason};

use crate::{
    family::parse,
    frame::Frame,
    frontend::{is_vip, may_be_vip},
    packet::{Packet, Place, Work},
    refuse::{self, Answer},
    rewrite,
    tables::{Env, FlowSlot, Route, Tables},
    track,
    verdict::{Decision, Verdict},
};

/// Decides about one packet of family `A` and rewrites it accordingly.
///
/// The frame is changed only when the verdict is not [`Verdict::Pass`].
#[inline(always)]
pub fn process<A, F, T, E>(
    frame: &mut F,
    tables: &T,
    env: &E,
    place: Place,
    work: &mut Work<A>,
) -> Decision
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    work.place = place;
    // The rarer stages are functions of their own, called one after the other: nested or inlined,
    // their variables would not fit the stack together.
    let mut step = match parse::<A, F>(frame, &mut work.packet) {
        Ok(()) => match known(tables, env, place, work) {
            Some(step) => step,
            // Most of what a node carries is not ours: it shall not even cost a call.
            None => {
                let may_be_ours = may_be_vip(tables, &work.packet.tuple.dst);
                let step = if may_be_ours {
                    new_flow::unknown(tables, env, work)
                } else {
                    Step::pass(Reason::NotService)
                };
                if matches!(step.reason, Reason::NotService)
                    && track::may_collide(&work.packet, place.hook, may_be_ours)
                {
                    track::make_way(tables, env, work);
                }
                step
            }
        },
        Err(reason @ (Reason::Icmp | Reason::OtherProtocol))
            if may_be_vip(tables, &work.packet.tuple.dst)
                && is_unserved(frame, tables, reason, work) =>
        {
            Step::new(Next::Refuse, Reason::UnknownProtocol)
        }
        Err(reason) => return Decision::pass(reason),
    };
    if let Next::Recall = step.next {
        step = new_flow::recall(tables, env, work);
    }
    if let Next::Draft = step.next {
        step = new_flow::draft(frame, env, work);
    }
    if let Next::Insert = step.next {
        step = new_flow::insert(tables, env, work);
    }
    // One place each where a packet is rewritten, whatever led there: inlined code is stack.
    let decision = match step.next {
        Next::Pass | Next::Recall | Next::Draft | Next::Insert => Decision::pass(step.reason),
        Next::Drop => Decision::drop(step.reason),
        Next::Apply => apply(frame, work, step.reason),
        Next::Refuse => refused(frame, env, place.is_xdp(), &work.packet, step.reason),
    };
    let edited = matches!(decision.reason.class(), Class::Translate);
    let flow = if edited { Some(&work.flow) } else { None };
    env.observe(place.hook, &work.packet.tuple, decision.reason, flow);
    decision
}

/// What a stage comes to.
#[derive(Clone, Copy)]
#[repr(C)]
struct Step {
    next: Next,
    reason: Reason,
}

/// What remains to be done with the packet.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Next {
    /// Leave it and let it go on.
    Pass,
    /// Discard it.
    Drop,
    /// Find the backend that its client had last, or choose one.
    Recall,
    /// Draft that flow.
    Draft,
    /// Put the drafted flow into the map.
    Insert,
    /// Rewrite it as its flow entry says.
    Apply,
    /// Answer it.
    Refuse,
}

impl Step {
    #[inline(always)]
    const fn new(next: Next, reason: Reason) -> Self {
        Self { next, reason }
    }

    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self::new(Next::Pass, reason)
    }

    #[inline(always)]
    const fn drop(reason: Reason) -> Self {
        Self::new(Next::Drop, reason)
    }
}

/// A packet of an existing flow; `None` when there is none, or none that goes on.
#[inline(always)]
fn known<A, T, E>(tables: &T, env: &E, place: Place, work: &mut Work<A>) -> Option<Step>
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let slot = tables.flow(&work.packet.tuple)?;
    work.flow = slot.value();
    if !work.flow.applies_at(place.flow_hook()) {
        return Some(Step::pass(Reason::OtherHook));
    }
    let now = env.now();
    if work.flow.reverse == 0 && track::starts_afresh(tables, env, work, now) {
        track::remove_pair(tables, work);
        return None;
    }
    let Work { packet, flow, other, .. } = work;
    if flow.action == FORWARD {
        // A frame that XDP redirects into a pod's link is lost unless the pod's end happens to have
        // what takes it up; tc delivers to any.
        if place.is_xdp()
            && flow.next_hop.ifindex != place.ifindex
            && env.device(flow.next_hop.ifindex).role != DeviceRole::External as u8
        {
            return Some(Step::pass(Reason::LeftToTc));
        }
        if flow.next_hop.generation != env.generation() {
            if place.is_xdp() {
                return Some(Step::pass(Reason::LeftToTc));
            }
            other.src = flow.src;
            other.dst = flow.dst;
            other.sport = flow.sport;
            other.dport = flow.dport;
            other.proto = packet.tuple.proto;
            other.pad = [0; 3];
            // The kernel sends this one, which also makes it probe a neighbour that we would
            // otherwise use unseen for ever; the next ones use what it finds.
            match env.route(place.ifindex, other) {
                Route::Via(hop) => {
                    slot.set_next_hop(hop);
                    flow.next_hop = NextHop { generation: 0, ..hop };
                }
                Route::Unresolved(ifindex) => {
                    flow.next_hop = NextHop { ifindex, ..NextHop::default() };
                }
                Route::Local | Route::None => return Some(Step::drop(Reason::NoRoute)),
            }
        }
        if packet.hop_limit <= 1 {
            return Some(Step::drop(Reason::HopLimit));
        }
    } else if place.is_xdp() {
        return Some(Step::pass(Reason::LeftToTc));
    }
    slot.touch(flow.seen | packet.shows(), now, u64::from(packet.len));
    tables.count_backend(flow.backend, 0, 1, u64::from(packet.len));
    let reason = if flow.reverse == 0 { Reason::Forward } else { Reason::Reply };
    Some(Step::new(Next::Apply, reason))
}

const FORWARD: u8 = Action::Forward as u8;
const TO_HOST: u8 = Action::ToHost as u8;

/// Applies the flow entry in `work` to its packet. A forwarded packet whose next hop has no generation
/// leaves it to the kernel to find the neighbour.
#[inline(always)]
fn apply<A: Answer, F: Frame>(frame: &mut F, work: &Work<A>, reason: Reason) -> Decision {
    let flow = &work.flow;
    // Where we forward past the stack, we are the router.
    let hops = u8::from(flow.action == FORWARD);
    if rewrite::translate(frame, flow, &work.packet, hops).is_none() {
        return Decision::drop(Reason::RewriteFailed);
    }
    let verdict = match flow.action {
        FORWARD if flow.next_hop.generation == 0 => Verdict::RedirectNeighbour,
        // To the node too: its stack takes only what is addressed to the device where it enters.
        FORWARD | TO_HOST => {
            if rewrite::address(frame, &flow.next_hop).is_none() {
                return Decision::drop(Reason::RewriteFailed);
            }
            if flow.action == FORWARD { Verdict::Redirect } else { Verdict::ToHost }
        }
        _ => Verdict::Stack,
    };
    Decision { ifindex: flow.next_hop.ifindex, verdict, reason }
}

/// Whether a packet of a protocol that no Service has is for an address that only Services have. Of
/// ICMP only a ping is: errors and everything else are about packets, or about the network.
#[inline(never)]
fn is_unserved<A, F, T>(frame: &F, tables: &T, reason: Reason, work: &mut Work<A>) -> bool
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
{
    let packet = &mut work.packet;
    if matches!(work.place.hook, Hook::PodOut) || !refuse::is_whole(frame, packet) {
        return false;
    }
    if matches!(reason, Reason::Icmp) && !refuse::is_ping::<A, F>(frame) {
        return false;
    }
    packet.tuple.sport = 0;
    packet.tuple.dport = 0;
    packet.tuple.pad = [0; 3];
    packet.tcp_flags = 0;
    is_vip(tables, &packet.tuple.dst)
}

/// Answers a packet that cannot be served.
#[inline(never)]
fn refused<A, F, E>(
    frame: &mut F,
    env: &E,
    xdp: bool,
    packet: &Packet<A>,
    reason: Reason,
) -> Decision
where
    A: Answer,
    F: Frame,
    E: Env<A>,
{
    if xdp {
        return Decision::pass(Reason::LeftToTc);
    }
    if packet.is_reset() {
        return Decision::drop(Reason::StrayReset);
    }
    if !refuse::has_one_sender(frame, packet) {
        return Decision::drop(Reason::RefuseFailed);
    }
    if !env.may_refuse() {
        return Decision::drop(Reason::RefuseLimit);
    }
    match refuse::answer(frame, packet) {
        Some(()) => Decision::new(Verdict::Answer, reason),
        None => Decision::drop(Reason::RefuseFailed),
    }
}
