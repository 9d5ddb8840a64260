//! Which backend a new flow gets: who may choose, among which, and the choice.

use lb_common::{Address, BackendSets, FlowKey, FrontendValue, Hook, Reason};

use crate::{packet::Set, tables::Tables};

/// Who starts a flow, as far as policies tell clients apart. Where a packet is seen says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Client {
    /// A pod of this node.
    Pod,
    /// Anyone beyond the external devices, pods of other nodes among them.
    Outside,
    /// A process of this node.
    Host,
}

impl Client {
    /// Who sends what is seen at `hook`.
    #[inline(always)]
    pub(crate) const fn at(hook: Hook) -> Self {
        match hook {
            Hook::PodIn | Hook::PodOut => Self::Pod,
            Hook::ExternalIn | Hook::Xdp => Self::Outside,
            Hook::ExternalOut | Hook::LoopbackOut | Hook::Socket => Self::Host,
        }
    }
}

/// The slots from which this client's flow to `frontend` is chosen.
///
/// `internalTrafficPolicy: Local` binds every client. `externalTrafficPolicy: Local` is there to keep
/// the address of clients outside; pods and the node itself go to any backend, as in kube-proxy.
#[inline(always)]
pub(crate) const fn set_for(frontend: &FrontendValue, client: Client) -> Set {
    let outside = matches!(client, Client::Outside);
    if frontend.is_local() && (outside || !frontend.is_external()) {
        Set {
            base: frontend.base.wrapping_add(frontend.len),
            len: frontend.local_len,
            bit: BackendSets::LOCAL,
        }
    } else {
        Set { base: frontend.base, len: frontend.len, bit: BackendSets::CLUSTER }
    }
}

/// Why a new flow from `source` to `frontend` is not for `set`: `None` when it is.
///
/// The source ranges come first, so that nobody outside them learns whether anything serves.
#[inline(always)]
pub(crate) fn objection<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendValue,
    set: &Set,
    source: &A,
) -> Option<Reason> {
    if frontend.ranges != 0 && !tables.in_range(frontend.ranges, source) {
        return Some(Reason::SourceRange);
    }
    if set.len != 0 {
        return None;
    }
    // Where other nodes could serve, silence makes a load balancer's client try those.
    Some(if frontend.len == 0 { Reason::NoBackend } else { Reason::NoLocalBackend })
}

/// Chooses uniformly among the slots of a set that has at least one, and writes the backend's
/// address and port into `to`; `random` is uniform over all 32-bit numbers. Returns the backend id.
///
/// `None` when the maps contradict themselves: the order in which they are written excludes it.
#[inline(always)]
pub(crate) fn choose<A: Address, T: Tables<A>>(
    tables: &T,
    set: &Set,
    random: u32,
    to: &mut FlowKey<A>,
) -> Option<u32> {
    // Scaling instead of a division: no modulo bias worth a second draw at these set sizes.
    let offset = ((u64::from(random) * u64::from(set.len)) >> 32) as u32;
    let id = tables.slot(set.base.wrapping_add(offset))?;
    let backend = tables.backend(id)?;
    to.dst = backend.addr;
    to.dport = backend.port;
    // A free id has no port: port 0 serves nobody.
    (backend.port != 0).then_some(id)
}
