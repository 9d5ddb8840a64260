//! The order of ops within a plan.
//!
//! Invariant: whatever an op refers to was written by an earlier stage or an earlier plan, and
//! whatever an op takes away is no longer referred to. So every prefix of a plan leaves maps in
//! which each frontend leads to its old or its new state: backends, policy, affinity and source
//! ranges. A backend that enters or leaves a set while it serves is written twice, so that session
//! affinity finds it there from before the switch of the first frontend to after that of the last.
//!
//! Nothing of one family refers to anything of the other; what they share are words of the filter.
//! So the stages of each go on where those of the other stop: bits are set before both, where one
//! too many does no harm, and cleared once both are through.

use lb_common::{Family, ServiceInfo};

use super::op::Op;

/// The ops of a plan, by family and stage.
#[derive(Debug, Default)]
pub(super) struct Stages {
    /// Bits of the filter that become set.
    pub(super) bits_set: Vec<Op>,
    v4: FamilyStages,
    v6: FamilyStages,
    /// Bits of the filter that become clear.
    pub(super) bits_cleared: Vec<Op>,
}

/// The ops of one family, by stage.
#[derive(Debug, Default)]
pub(super) struct FamilyStages {
    /// Names for new service ids.
    pub(super) services: Vec<Op>,
    /// Backends that are or become serving. Of those that go on serving, each stands in the sets
    /// that it leaves as well as in those that it enters.
    pub(super) serving: Vec<Op>,
    /// Ranges that no frontend names yet.
    pub(super) slots: Vec<Op>,
    /// Source ranges of sets that no frontend names yet.
    pub(super) ranges: Vec<Op>,
    /// Frontends, then markers: this is where a change becomes visible.
    pub(super) frontends: Vec<Op>,
    /// Frontends, then markers, that nobody wants any more.
    pub(super) deletes: Vec<Op>,
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
    /// Those of one family.
    pub(super) fn of(&mut self, family: Family) -> &mut FamilyStages {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Those of the family of a service id.
    pub(super) fn of_service(&mut self, info: &ServiceInfo) -> &mut FamilyStages {
        let v6 = info.family == Family::V6 as u8;
        self.of(if v6 { Family::V6 } else { Family::V4 })
    }

    /// What becomes visible.
    pub(super) fn switches(&self) -> impl Iterator<Item = &Op> {
        let families = [&self.v4, &self.v6].into_iter();
        families.flat_map(|stages| stages.frontends.iter().chain(&stages.deletes))
    }

    /// All ops in order: what comes before both families, each of them, and what comes after both.
    pub(super) fn into_parts(self) -> [Vec<Op>; 4] {
        let Self { bits_set, v4, v6, bits_cleared } = self;
        [bits_set, v4.into_ops(), v6.into_ops(), bits_cleared]
    }
}

impl FamilyStages {
    fn into_ops(self) -> Vec<Op> {
        let Self {
            services,
            serving,
            slots,
            ranges,
            frontends,
            deletes,
            gone,
            old_ranges,
            free,
            forgotten,
        } = self;
        let mut ops = services;
        for stage in [serving, slots, ranges, frontends, deletes, gone, old_ranges, free, forgotten]
        {
            ops.extend(stage);
        }
        ops
    }
}
