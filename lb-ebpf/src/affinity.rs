//! Session affinity: a client gets again the backend that it had last.
//!
//! The entry of a client is of the Service port, whatever frontend and set it came through: one that
//! leads out of the set that is chosen from stays in the table, does not count, and is replaced by
//! the new choice.

use lb_common::{Address, AffinityKey, AffinityValue, BackendValue, FlowKey, FrontendValue};

use crate::{
    packet::Set,
    select::Client,
    tables::{Env, Tables},
};

/// Who is to have the same backend again.
///
/// The processes of the node are one client: sockets ask before they have an address, and shall agree
/// with packets.
#[inline(always)]
pub(crate) fn identify<A: Address>(
    frontend: &FrontendValue,
    client: Client,
    source: &A,
    key: &mut AffinityKey<A>,
) {
    key.service = frontend.service;
    key.client = if matches!(client, Client::Host) { A::default() } else { *source };
}

/// The backend that the client had last, if it may have it again; its address and port into `to`.
#[inline(always)]
pub(crate) fn recall<A, T, E>(
    tables: &T,
    env: &E,
    key: &AffinityKey<A>,
    frontend: &FrontendValue,
    set: &Set,
    to: &mut FlowKey<A>,
) -> Option<u32>
where
    A: Address,
    T: Tables<A>,
    E: Env<A>,
{
    let last = tables.affinity(key)?;
    let idle = env.now().wrapping_sub(last.last_used);
    if u64::from(idle) > u64::from(frontend.affinity) * u64::from(env.settings().hz) {
        return None;
    }
    let backend = tables.backend(last.backend)?;
    if !is_member(&backend, frontend, set) {
        return None;
    }
    to.dst = backend.addr;
    to.dport = backend.port;
    Some(last.backend)
}

/// Whether a backend is one of `set`; ids of others may have been used again since.
#[inline(always)]
const fn is_member<A: Address>(
    backend: &BackendValue<A>,
    frontend: &FrontendValue,
    set: &Set,
) -> bool {
    backend.is_serving() && backend.service == frontend.service && backend.sets & set.bit != 0
}

/// A new flow of the client goes to this backend: from now on the time counts.
#[inline(always)]
pub(crate) fn remember<A, T, E>(tables: &T, env: &E, key: &AffinityKey<A>, backend: u32)
where
    A: Address,
    T: Tables<A>,
    E: Env<A>,
{
    tables.put_affinity(key, &AffinityValue { backend, last_used: env.now() });
}
