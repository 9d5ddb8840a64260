//! Sockets: the destination is rewritten once, when the process names it, and no packet after.
//!
//! A connected socket talks to its backend directly and only its idea of its peer is translated
//! back. A UDP socket that names a destination with every datagram keeps the backend it got, as a
//! flow would, until it is idle or the backend leaves.

use lb_common::{
    Address, AffinityKey, BackendValue, FlowKey, FrontendValue, Reason, SockDirection, SockKey,
    SockValue,
};

use crate::{
    affinity,
    family::Family,
    frontend::{Found, find, may_be_vip},
    select::{Client, choose, set_for},
    tables::{Env, Tables},
};

/// A socket and the address that a call is about.
#[derive(Clone, Copy, Debug)]
pub struct Call<A> {
    /// Socket cookie.
    pub cookie: u64,
    /// Address, network order.
    pub addr: A,
    /// Port, host order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome<A> {
    /// Nothing, because of this.
    Untouched(Reason),
    /// Another address and port (host order) take the place of those named.
    Rewritten(A, u16, Reason),
    /// The call fails with ECONNREFUSED.
    Refused(Reason),
}

impl<A: Address> Call<A> {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the cookie is split into halves")]
    fn key(&self, addr: A, port: u16, direction: SockDirection) -> SockKey<A> {
        SockKey {
            cookie_low: self.cookie as u32,
            cookie_high: (self.cookie >> 32) as u32,
            addr,
            port,
            proto: self.proto,
            direction: direction as u8,
        }
    }
}

/// A socket connects, TCP or UDP.
#[inline(always)]
pub fn connect<A, T, E>(tables: &T, env: &E, call: &Call<A>) -> Outcome<A>
where
    A: Family,
    T: Tables<A>,
    E: Env<A>,
{
    select(tables, env, call, false)
}

/// A UDP socket sends a datagram to a destination that it names.
#[inline(always)]
pub fn sendmsg<A, T, E>(tables: &T, env: &E, call: &Call<A>) -> Outcome<A>
where
    A: Family,
    T: Tables<A>,
    E: Env<A>,
{
    let key = call.key(call.addr, call.port, SockDirection::Out);
    if let Some(known) = tables.sock(&key) {
        let settings = env.settings();
        let idle = env.now().wrapping_sub(known.last_seen);
        let serving = tables.backend(known.backend).as_ref().is_some_and(BackendValue::is_serving);
        if serving && idle <= settings.udp_replied.wrapping_mul(settings.hz) {
            // Stored again only when it aged visibly: most datagrams write nothing.
            if idle > settings.hz {
                tables.put_sock(&key, &SockValue { last_seen: env.now(), ..known });
            }
            return Outcome::Rewritten(known.addr, known.port, Reason::SocketConnect);
        }
    }
    select(tables, env, call, true)
}

/// A socket is told where a datagram came from, or who its peer is.
#[inline(always)]
pub fn reply<A, T>(tables: &T, call: &Call<A>) -> Outcome<A>
where
    A: Address,
    T: Tables<A>,
{
    match tables.sock(&call.key(call.addr, call.port, SockDirection::Back)) {
        Some(frontend) => Outcome::Rewritten(frontend.addr, frontend.port, Reason::SocketReply),
        None => Outcome::Untouched(Reason::NotService),
    }
}

/// Chooses a backend and remembers both ways; `keep` also remembers the choice for the next
/// datagram.
#[inline(always)]
fn select<A, T, E>(tables: &T, env: &E, call: &Call<A>, keep: bool) -> Outcome<A>
where
    A: Family,
    T: Tables<A>,
    E: Env<A>,
{
    // Every loopback address is the node's own; NodePorts are found under one of them.
    let addr = if call.addr.is_loopback() { A::loopback() } else { call.addr };
    if !may_be_vip(tables, &addr) {
        return Outcome::Untouched(Reason::NotService);
    }
    let mut frontend = FrontendValue::default();
    match find(tables, &addr, call.port, call.proto, &mut frontend) {
        Found::Nothing => return Outcome::Untouched(Reason::NotService),
        Found::UnknownPort => return Outcome::Refused(Reason::UnknownPort),
        Found::Frontend => {}
    }
    let set = set_for(&frontend, Client::Host);
    // A socket may not have its address yet, and silence is none of the answers that a call can be
    // given: devices check source ranges, and drop.
    if frontend.ranges != 0 || (set.len == 0 && frontend.len != 0) {
        return Outcome::Untouched(Reason::LeftToDevice);
    }
    if frontend.len == 0 {
        return Outcome::Refused(Reason::NoBackend);
    }
    let mut to = FlowKey::default();
    let mut client = AffinityKey::default();
    let mut chosen = None;
    if frontend.affinity != 0 {
        affinity::identify(&frontend, Client::Host, &addr, &mut client);
        chosen = affinity::recall(tables, env, &client, &frontend, &set, &mut to);
    }
    if chosen.is_none() {
        chosen = choose(tables, &set, env.random(), &mut to);
    }
    let Some(backend) = chosen else {
        return Outcome::Refused(Reason::Inconsistent);
    };
    if frontend.affinity != 0 {
        affinity::remember(tables, env, &client, backend);
    }
    let value = SockValue {
        addr: call.addr,
        port: call.port,
        pad: 0,
        backend,
        service: frontend.service,
        last_seen: env.now(),
    };
    tables.put_sock(&call.key(to.dst, to.dport, SockDirection::Back), &value);
    if keep {
        let value = SockValue { addr: to.dst, port: to.dport, ..value };
        tables.put_sock(&call.key(call.addr, call.port, SockDirection::Out), &value);
    }
    tables.count_backend(backend, 1, 0, 0);
    Outcome::Rewritten(to.dst, to.dport, Reason::SocketConnect)
}
