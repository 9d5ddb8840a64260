//! Backends of one service, brought to what is wanted.
//!
//! Invariant: a backend enters the sets that it is new in before any frontend leads to it there, and
//! leaves those that it leaves after the last one did.

use std::collections::BTreeSet;

use lb_common::{BackendSets, BackendState, Family};

use super::{
    actual::Actual,
    build::Build,
    draft::Draft,
    limits::Full,
    op::{Backend, BackendId, Op, ServiceId},
};
use crate::model::TrafficPolicy;

/// Backends of one service, brought to what is wanted.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) put: Vec<Op>,
    pub(super) gone: Vec<Op>,
    /// The cluster set.
    pub(super) cluster: Vec<BackendId>,
    /// The local set, where a policy asks for it.
    pub(super) local: Vec<BackendId>,
}

impl Merged {
    /// What the slots shall name: the cluster set, then the local set.
    pub(super) fn slots(&self) -> Vec<BackendId> {
        self.cluster.iter().chain(&self.local).copied().collect()
    }
}

impl Build<'_> {
    /// Brings the backends of a service to what the draft wants.
    pub(super) fn merge_backends(&mut self, draft: &Draft, service: ServiceId) -> Merged {
        let mut merged = Merged::default();
        let asks_for_local = [draft.port.internal_policy, draft.port.external_policy]
            .contains(&TrafficPolicy::Local);
        let entry = self.actual.services.get(&service);
        let mut known = entry.map_or(&[][..], |entry| &entry.backends).iter().copied().peekable();
        let backends = &self.actual.backends;
        let leave = |id: BackendId, merged: &mut Merged| {
            if let Some(backend) = backends[id.0 as usize]
                && backend.state == BackendState::Serving
            {
                let gone = Backend { state: BackendState::Gone, sets: 0, ..backend };
                merged.gone.push(Op::PutBackend(id, gone));
            }
        };
        for want in &draft.port.backends {
            let wanted = Some((want.addr, want.port));
            let spot = |id: BackendId| backends[id.0 as usize].map(|b| (b.addr, b.port));
            while let Some(id) = known.next_if(|id| spot(*id) < wanted) {
                leave(id, &mut merged);
            }
            let reuse = known.next_if(|id| spot(*id) == wanted);
            // Of several with the same address and port, which only damage can cause, one stays.
            while let Some(id) = known.next_if(|id| spot(*id) == wanted) {
                leave(id, &mut merged);
            }
            let id = match reuse {
                Some(id) => id,
                None => match self.actual.backend_ids.take().map(BackendId) {
                    Some(id) => {
                        self.reserved.backends.push(id);
                        id
                    }
                    None => {
                        let _before = self.unfit.insert(draft.name.clone(), Full::Backends);
                        continue;
                    }
                },
            };
            let backend = Backend {
                addr: want.addr,
                port: want.port,
                proto: draft.port.proto,
                state: BackendState::Serving,
                service,
                sets: u8::from(want.cluster) * BackendSets::CLUSTER
                    + u8::from(want.local) * BackendSets::LOCAL,
                location: want.location,
            };
            // It leaves a set only when no frontend leads to it there any more.
            let before = backends.get(id.0 as usize).copied().flatten();
            let left = before.map_or(0, |before| before.sets & !backend.sets);
            let first = Backend { sets: backend.sets | left, ..backend };
            if before != Some(first) {
                merged.put.push(Op::PutBackend(id, first));
            }
            if left != 0 {
                merged.gone.push(Op::PutBackend(id, backend));
            }
            let _new = self.serving.insert(id);
            if want.cluster {
                merged.cluster.push(id);
            }
            if want.local && asks_for_local {
                merged.local.push(id);
            }
        }
        for id in known {
            leave(id, &mut merged);
        }
        merged
    }

    /// Frees backends that no flow names any more.
    pub(super) fn free(&mut self, released: &BTreeSet<BackendId>) {
        for id in released.iter().filter(|id| !self.serving.contains(id)) {
            if let Some(backend) = self.actual.backend(*id)
                && backend.state == BackendState::Gone
            {
                let free = Backend { state: BackendState::Free, ..*backend };
                self.stages.of(free.family()).free.push(Op::PutBackend(*id, free));
                let _new = self.freed.insert(*id);
            }
        }
    }
}

/// The op that takes a backend out of the serving set, if it is in, and the family of the backend.
pub(super) fn leave(actual: &Actual, id: BackendId) -> Option<(Family, Op)> {
    let backend = actual.backend(id).filter(|b| b.state == BackendState::Serving)?;
    let gone = Backend { state: BackendState::Gone, sets: 0, ..*backend };
    Some((gone.family(), Op::PutBackend(id, gone)))
}
