//! The order of ops within a plan.
//!
//! Invariant: whatever an op refers to was written by an earlier stage or an earlier plan, and
//! whatever an op takes away is no longer referred to. So every prefix of a plan leaves maps in
//! which each frontend leads to its old or its new state: backends, policy, affinity and source
//! ranges. A backend that enters or leaves a set while it serves is written twice, so that session
//! affinity finds it there from before the switch of the first frontend to after that of the last.

use lb_common::Family;

use super::op::Op;

/// The ops of a plan, by stage.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// Names for new service ids.
    pub(super) services: Vec<Op>,
    /// Backends that are or become serving. Of those that go on serving, each stands in the sets
    /// that it leaves as well as in those that it enters.
    pub(super) serving: Vec<Op>,
    /// Ranges that no frontend names yet.
    pub(super) slots: Vec<Op>,
    /// Source ranges of sets that no frontend names yet.
    pub(super) ranges: Vec<Op>,
    /// Bits of the filter that become set.
    pub(super) bits_set: Vec<Op>,
    /// Frontends, then markers: this is where a change becomes visible.
    pub(super) frontends: Vec<Op>,
    /// Frontends, then markers, that nobody wants any more.
    pub(super) deletes: Vec<Op>,
    /// Bits of the filter that become clear.
    pub(super) bits_cleared: Vec<Op>,
    /// Backends that left the serving set, or one of its parts: no frontend leads to them there any
    /// more.
    pub(super) gone: Vec<Op>,
    /// Source ranges of sets that no frontend names any more.
    pub(super) old_ranges: Vec<Op>,
    /// Backends that no flow names any more.
    pub(super) free: Vec<Op>,
    /// Service ids that no frontend and no backend names any more.
    pub(super) forgotten: Vec<Op>,
}

impl Stages {
    /// All ops in order.
    pub(super) fn into_ops(self) -> Vec<Op> {
        let Self {
            services,
            serving,
            slots,
            ranges,
            bits_set,
            frontends,
            deletes,
            bits_cleared,
            gone,
            old_ranges,
            free,
            forgotten,
        } = self;
        let mut ops = services;
        // Within a stage the order is free: what goes to one map is kept together, for the batches.
        for mut stage in [
            serving,
            slots,
            ranges,
            bits_set,
            frontends,
            deletes,
            bits_cleared,
            gone,
            old_ranges,
            free,
            forgotten,
        ] {
            stage.sort_by_key(is_ipv6);
            ops.extend(stage);
        }
        ops
    }
}

fn is_ipv6(op: &Op) -> bool {
    let family = match op {
        Op::PutBackend(_, backend) => backend.family(),
        Op::PutRange(range) | Op::DeleteRange(range) => range.family(),
        Op::PutFrontend(frontend, _) | Op::DeleteFrontend(frontend) => frontend.family(),
        Op::PutService(..)
        | Op::DeleteService(_)
        | Op::WriteSlots { .. }
        | Op::SetFilter { .. } => {
            return false;
        }
    };
    family == Family::V6
}
