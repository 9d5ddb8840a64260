//! The way of one packet through the datapath, stage by stage.

mod new_flow;
mod road;

use lb_common::{Action, FlowValue, Hook, Reason};

use crate::{
    errors,
    establish::LOOPBACK,
    family::parse,
    fragments,
    frame::Frame,
    frontend::{is_vip, may_be_vip},
    header::{ETH_LEN, TCP_OFFSET, Udp},
    packet::{Packet, Part, Place, Work},
    refuse::{self, Answer},
    rewrite,
    step::{Next, Step},
    tables::{Env, FlowSlot, Tables},
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
        Ok(()) => {
            work.packet.tuple.hook = place.flow_hook() as u8;
            match known(frame, tables, env, place, work) {
                Some(step) => step,
                None => strange(tables, env, place, work),
            }
        }
        Err(reason) if place.is_xdp() => return Decision::pass(reason),
        Err(Reason::Fragment) if work.packet.part == Part::Later => {
            fragments::follow(frame, tables, env, work)
        }
        Err(Reason::Icmp) if errors::is_one::<A, F>(frame) => errors::find(frame, tables, work),
        Err(reason @ (Reason::Icmp | Reason::OtherProtocol))
            if may_be_vip(tables, &work.packet.tuple.dst)
                && is_unserved(frame, tables, reason, work) =>
        {
            Step::new(Next::Refuse, Reason::UnknownProtocol)
        }
        Err(reason) => return Decision::pass(reason),
    };
    // Most of what a node carries is not ours: it shall not be asked about every stage.
    if matches!(step.next, Next::Pass) && work.packet.part == Part::Whole {
        env.observe(place.hook, &work.packet.tuple, step.reason, None);
        return Decision::pass(step.reason);
    }
    if !place.is_xdp() && !matches!(place.hook, Hook::PodOut) {
        step = start(frame, tables, env, place, work, step);
    }
    let quoted = matches!(step.next, Next::Quoted | Next::QuotedRoad);
    if !place.is_xdp()
        && let Next::Road | Next::QuotedRoad = step.next
    {
        step = road::first_leg(tables, env, work, step.reason);
    }
    if !place.is_xdp() && quoted && !matches!(step.next, Next::Drop) {
        let change = errors::turn_quoted(frame, work);
        step = if change != errors::REFUSED && errors::turn_outer(frame, work, change) {
            // The stack's own error to an address of the node is to be routed again: the sender of the packet
            // is elsewhere.
            let moved = work.packet.tuple.hook != place.flow_hook() as u8;
            Step::new(if moved { Next::TurnedToHost } else { Next::Turned }, Reason::Error)
        } else {
            Step::drop(Reason::RewriteFailed)
        };
    }
    if let Next::Exit = step.next {
        road::choose_exit(tables, env, work);
        step.next = Next::Apply;
    }
    if !place.is_xdp() && !quoted && work.packet.part == Part::First {
        fragments::remember(tables, env, work, matches!(step.next, Next::Apply));
    }
    // One place each where a packet is rewritten, whatever led there: inlined code is stack.
    let decision = match step.next {
        Next::Drop => Decision::drop(step.reason),
        Next::Apply | Next::Deliver => apply(frame, work, step),
        Next::Refuse => refused(frame, env, &work.packet, step.reason),
        Next::Turned => Decision::new(Verdict::Stack, step.reason),
        Next::TurnedToHost => {
            Decision { ifindex: LOOPBACK, verdict: Verdict::ToHost, reason: step.reason }
        }
        // The others are stages that lead to one of these.
        Next::Pass
        | Next::Recall
        | Next::Draft
        | Next::Insert
        | Next::Road
        | Next::Exit
        | Next::Quoted
        | Next::QuotedRoad => Decision::pass(step.reason),
    };
    let edited = matches!(step.next, Next::Apply);
    let flow = if edited { Some(&work.flow) } else { None };
    env.observe(place.hook, &work.packet.tuple, decision.reason, flow);
    decision
}

/// The stages that start a flow.
#[inline(always)]
fn start<A, F, T, E>(
    frame: &F,
    tables: &T,
    env: &E,
    place: Place,
    work: &mut Work<A>,
    mut step: Step,
) -> Step
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    if let Next::Recall = step.next {
        step = new_flow::recall(tables, env, work);
    }
    if let Next::Draft = step.next {
        step = new_flow::draft(frame, tables, env, work);
    }
    if let Next::Insert = step.next {
        step = new_flow::insert(tables, env, work);
        let masquerades = work.flow.action == MASQUERADE && matches!(step.next, Next::Apply);
        let open = F::ETHERNET && place.has_shortcut() && is_open(frame, &work.packet, &work.flow);
        if masquerades && !open {
            step.next = Next::Road;
        }
    }
    step
}

/// A packet of an existing flow; `None` when there is none, or none that goes on.
#[inline(always)]
fn known<A, F, T, E>(
    frame: &F,
    tables: &T,
    env: &E,
    place: Place,
    work: &mut Work<A>,
) -> Option<Step>
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    let slot = tables.flow(&work.packet.tuple)?;
    work.flow = slot.value();
    let reason = if work.flow.reverse == 0 { Reason::Forward } else { Reason::Reply };
    // The first leg counted the packet.
    if work.flow.second != 0 {
        return Some(Step::new(leaving(env, place, work.flow.reverse), reason));
    }
    let now = env.now();
    if work.flow.reverse == 0 && track::starts_afresh(tables, env, work, now) {
        if place.is_xdp() {
            return Some(Step::pass(Reason::LeftToTc));
        }
        track::remove_pair(tables, work);
        return None;
    }
    let action = work.flow.action;
    let next = match action {
        MASQUERADE if takes_shortcut(frame, tables, env, place, work) => Next::Apply,
        _ if place.is_xdp() => return Some(Step::pass(Reason::LeftToTc)),
        MASQUERADE => Next::Road,
        REDIRECT => {
            if work.flow.next_hop.generation != env.generation() && !road::renew(tables, env, work)
            {
                return Some(Step::drop(Reason::NoRoute));
            }
            Next::Apply
        }
        _ => leaving(env, place, work.flow.reverse),
    };
    let Work { packet, flow, .. } = work;
    slot.touch(flow.seen | packet.shows(), now, u64::from(packet.len));
    tables.count_backend(flow.backend, 0, 1, u64::from(packet.len));
    Some(Step::new(next, reason))
}

/// What remains to be done with a packet that the stack has routed: where rules of the node look at source
/// addresses, a reply must leave as they say for the address that it is about to get.
#[inline(always)]
fn leaving<A: Answer, E: Env<A>>(env: &E, place: Place, reverse: u8) -> Next {
    let by_source =
        matches!(place.hook, Hook::ExternalOut) && reverse != 0 && env.routes_by_source();
    if by_source { Next::Exit } else { Next::Apply }
}

/// Whether this packet of a masqueraded flow takes the shortcut; its next hop is up to date then.
///
/// The first packet in each generation of next hops goes by the road: so the kernel uses the neighbour too,
/// and notices when it is gone.
#[inline(always)]
fn takes_shortcut<A, F, T, E>(
    frame: &F,
    tables: &T,
    env: &E,
    place: Place,
    work: &mut Work<A>,
) -> bool
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    if !place.has_shortcut() || !F::ETHERNET {
        return false;
    }
    if work.flow.next_hop.generation != env.generation() {
        if !place.is_xdp() {
            road::find_shortcut(tables, env, work);
        }
        return false;
    }
    let to = work.flow.next_hop.ifindex;
    if place.is_xdp() && to != place.ifindex && !env.transmits(to) {
        return false;
    }
    is_open(frame, &work.packet, &work.flow)
}

/// Whether the shortcut of a flow, whose next hop is up to date, is open to this packet: it fits, and it is
/// not for us to tell its sender that its hop limit is used up.
#[inline(always)]
fn is_open<A: Answer, F: Frame>(frame: &F, packet: &Packet<A>, flow: &FlowValue<A>) -> bool {
    flow.next_hop.ifindex != 0
        && packet.hop_limit > 1
        && packet.part == Part::Whole
        && (packet.len <= u32::from(flow.next_hop.mtu)
            || fits_in_segments(frame, packet, u32::from(flow.next_hop.mtu)))
}

/// Whether a packet that is too large will be cut into segments that fit.
#[inline(always)]
fn fits_in_segments<A: Answer, F: Frame>(frame: &F, packet: &Packet<A>, mtu: u32) -> bool {
    let segment = frame.segment_size();
    if segment == 0 {
        return false;
    }
    let transport = if packet.is_udp() {
        size_of::<Udp>()
    } else {
        match frame.load::<u8>(A::TRANSPORT + TCP_OFFSET) {
            Some(offset) => usize::from(offset >> 4) * 4,
            None => return false,
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "header lengths")]
    let headers = (A::TRANSPORT - ETH_LEN + transport) as u32;
    headers + segment <= mtu
}

/// A packet of no flow.
#[inline(always)]
fn strange<A, T, E>(tables: &T, env: &E, place: Place, work: &mut Work<A>) -> Step
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    // Most of what a node carries is not ours: it shall not even cost a call.
    let may_be_ours = may_be_vip(tables, &work.packet.tuple.dst);
    if place.is_xdp() {
        // XDP starts no flow: it sees neither what the frame's device took off it, nor what only the
        // stack knows.
        let reason = if may_be_ours { Reason::LeftToTc } else { Reason::NotService };
        return Step::pass(reason);
    }
    // What is sent to a pod was decided where it came from.
    let step = if may_be_ours && !matches!(place.hook, Hook::PodOut) {
        new_flow::unknown(tables, env, work)
    } else {
        Step::pass(Reason::NotService)
    };
    if matches!(step.reason, Reason::NotService) && track::may_collide(&work.packet, place.hook) {
        track::make_way(tables, env, work);
    }
    step
}

const STACK: u8 = Action::Stack as u8;
const MASQUERADE: u8 = Action::Masquerade as u8;
const TO_HOST: u8 = Action::ToHost as u8;
const REDIRECT: u8 = Action::Redirect as u8;

/// Applies the flow entry in `work` to its packet. One that is redirected and whose next hop has no
/// generation leaves it to the kernel to find the neighbour.
#[inline(always)]
fn apply<A: Answer, F: Frame>(frame: &mut F, work: &Work<A>, step: Step) -> Decision {
    let (flow, reason) = (&work.flow, step.reason);
    // On the shortcut we are the router.
    let hops = u8::from(flow.action == MASQUERADE);
    if matches!(step.next, Next::Apply)
        && rewrite::translate(frame, flow, &work.packet, hops).is_none()
    {
        return Decision::drop(Reason::RewriteFailed);
    }
    if flow.action == STACK {
        return Decision::new(Verdict::Stack, reason);
    }
    if frame.open_header().is_none() {
        return Decision::drop(Reason::RewriteFailed);
    }
    let verdict = if flow.action == REDIRECT && flow.next_hop.generation == 0 {
        Verdict::RedirectNeighbour
    } else {
        // To the node too: its stack takes only what is addressed to the device where it enters.
        if rewrite::address(frame, &flow.next_hop).is_none() {
            return Decision::drop(Reason::RewriteFailed);
        }
        if flow.action == TO_HOST { Verdict::ToHost } else { Verdict::Redirect }
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
    let whole = packet.part == Part::Whole && refuse::is_whole(frame, packet);
    if matches!(work.place.hook, Hook::PodOut) || !whole {
        return false;
    }
    if matches!(reason, Reason::Icmp) && !refuse::is_ping::<A, F>(frame) {
        return false;
    }
    packet.tuple.sport = 0;
    packet.tuple.dport = 0;
    packet.tuple.hook = work.place.flow_hook() as u8;
    packet.tuple.pad = [0; 2];
    packet.tcp_flags = 0;
    is_vip(tables, &packet.tuple.dst)
}

/// Answers a packet that cannot be served.
#[inline(never)]
fn refused<A, F, E>(frame: &mut F, env: &E, packet: &Packet<A>, reason: Reason) -> Decision
where
    A: Answer,
    F: Frame,
    E: Env<A>,
{
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
