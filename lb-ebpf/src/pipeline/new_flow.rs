//! The first packet of a flow: whether it is one, to whom it goes, and the flow that it starts.

use lb_common::{Class, FlowValue, FrontendKind, FrontendValue, Hook, Reason};

use crate::{
    affinity,
    establish::{self, Refusal},
    frame::Frame,
    frontend::{Found, find},
    packet::{Place, Work},
    refuse::Answer,
    select::{self, Client, objection, set_for},
    step::{Next, Step},
    tables::{Env, Tables},
};

/// A packet of no flow: perhaps the first of one.
#[inline(never)]
pub(super) fn unknown<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Step
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let place = work.place;
    // What a bridge passes on is between others.
    if place.bridged {
        return Step::pass(Reason::NotService);
    }
    let Work { packet, flow, other, frontend, set, .. } = work;
    let tuple = &packet.tuple;
    match find(tables, &tuple.dst, tuple.dport, tuple.proto, frontend) {
        Found::Nothing => return Step::pass(Reason::NotService),
        Found::UnknownPort => return Step::new(Next::Refuse, Reason::UnknownPort),
        Found::Frontend => {}
    }
    // A loopback address is for the node's own clients; the stack discards what others send there.
    let arrives = matches!(place.hook, Hook::ExternalIn | Hook::PodIn);
    if arrives && tuple.dst.is_loopback() {
        return Step::pass(Reason::NotService);
    }
    if !packet.is_udp() && !packet.opens() {
        return stray(place, frontend);
    }
    // The node may itself have sent from this address and port, if the address is one of its own:
    // the port of a frontend is no socket's.
    if packet.is_udp()
        && frontend.is_external()
        && matches!(place.hook, Hook::ExternalIn)
        && env.is_awaited(tuple)
    {
        return Step::pass(Reason::HostSocket);
    }
    if arrives && (!tuple.src.is_one() || tuple.src.is_loopback()) {
        return Step::drop(Reason::BadSource);
    }
    *set = set_for(frontend, Client::at(place.hook));
    if let Some(reason) = objection(tables, frontend, set, &tuple.src) {
        let refused = matches!(reason.class(), Class::Refuse);
        return Step::new(if refused { Next::Refuse } else { Next::Drop }, reason);
    }
    if frontend.affinity != 0 {
        return Step::new(Next::Recall, Reason::NewFlow);
    }
    chosen(flow, select::choose(tables, set, env.random(), other))
}

/// The first packet of a flow to a Service with session affinity: the backend that its client had last,
/// or else one out of `work.set`, which has some.
#[inline(never)]
pub(super) fn recall<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Step
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    let Work { place, packet, flow, other, frontend, set, client, .. } = work;
    affinity::identify(frontend, Client::at(place.hook), &packet.tuple.src, client);
    let known = affinity::recall(tables, env, client, frontend, set, other);
    chosen(flow, known.or_else(|| select::choose(tables, set, env.random(), other)))
}

/// What follows on a choice.
#[inline(always)]
const fn chosen<A>(flow: &mut FlowValue<A>, backend: Option<u32>) -> Step {
    match backend {
        Some(backend) => {
            flow.backend = backend;
            Step::new(Next::Draft, Reason::NewFlow)
        }
        None => Step::drop(Reason::Inconsistent),
    }
}

/// The backend is chosen: where its flow leads.
#[inline(never)]
pub(super) fn draft<A, F, T, E>(frame: &F, tables: &T, env: &E, work: &mut Work<A>) -> Step
where
    A: Answer,
    F: Frame,
    T: Tables<A>,
    E: Env<A>,
{
    match establish::draft(frame, tables, env, work) {
        Ok(()) => Step::new(Next::Insert, Reason::NewFlow),
        Err(reason) => Step::drop(reason),
    }
}

/// The flow is drafted: make it known, and send its packet on its way.
#[inline(never)]
pub(super) fn insert<A, T, E>(tables: &T, env: &E, work: &mut Work<A>) -> Step
where
    A: Answer,
    T: Tables<A>,
    E: Env<A>,
{
    match establish::insert(tables, env, work) {
        // The entry that won a race is as good as ours.
        Ok(()) | Err(Refusal::Raced) => {}
        Err(Refusal::Reason(reason)) => return Step::drop(reason),
    }
    if work.frontend.affinity != 0 {
        affinity::remember(tables, env, &work.client, work.flow.backend);
    }
    Step::new(Next::Apply, Reason::NewFlow)
}

/// A TCP or SCTP packet that belongs to no flow and starts none.
///
/// On its way in it may belong to the node itself, or to a connection that another Service proxy
/// translates, so it passes; what would leave the node for a Service's address is answered.
#[inline(always)]
fn stray(place: Place, frontend: &FrontendValue) -> Step {
    let leaving = matches!(place.hook, Hook::ExternalOut | Hook::LoopbackOut);
    if leaving && frontend.kind == FrontendKind::ClusterIp as u8 {
        return Step::new(Next::Refuse, Reason::StrayPacket);
    }
    Step::pass(Reason::NoFlow)
}
