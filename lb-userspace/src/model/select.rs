//! Which endpoints of a Service's slices serve one of its ports.
//!
//! Invariant: the result depends on the set of slices only, not on the order in which they or their
//! endpoints come.

use std::{net::IpAddr, sync::Arc};

use lb_common::Family;

use super::{
    desired::DesiredBackend,
    object::{Conditions, ServicePort, Slice},
};

/// The serving set of `port` in one family, sorted.
///
/// Slices join on (port name, protocol). New flows select among the ready endpoints; where none is
/// ready, among those that still serve while they terminate.
pub(super) fn serving_set(
    port: &ServicePort,
    family: Family,
    slices: &[Arc<Slice>],
) -> Vec<DesiredBackend> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| is_used(slice) && slice.family == Some(family)) {
        for joined in slice.ports.iter().filter(|p| p.name == port.name && p.proto == port.proto) {
            found.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                addr: endpoint.addr,
                port: joined.port,
                conditions: endpoint.conditions,
            }));
        }
    }
    // Of several entries for one address and port, the best condition counts: a pod that runs wins
    // over one that terminates and had the same address.
    found.sort_unstable_by_key(|c| (c.addr, c.port, std::cmp::Reverse(rank(c.conditions))));
    found.dedup_by_key(|c| (c.addr, c.port));

    let any_ready = found.iter().any(|c| c.conditions.ready);
    found
        .iter()
        .filter(|c| c.conditions.ready || c.conditions.serving)
        .map(|c| DesiredBackend {
            addr: c.addr,
            port: c.port,
            on_node: false,
            local: false,
            cluster: match any_ready {
                true => c.conditions.ready,
                false => c.conditions.serving && c.conditions.terminating,
            },
        })
        .collect()
}

/// Whether anything of a slice is used.
pub(super) fn is_used(slice: &Slice) -> bool {
    !slice.headless
}

struct Candidate {
    addr: IpAddr,
    port: u16,
    conditions: Conditions,
}

fn rank(conditions: Conditions) -> (bool, bool, bool) {
    (!conditions.terminating, conditions.ready, conditions.serving)
}
