//! The plan: what is to be written into the maps, in which order.
//!
//! Invariant: no prefix of a plan leaves an entry that refers to something missing, and each
//! frontend leads to its old or its new state. Planning does no I/O and reads no clock.

mod actual;
mod adopt;
mod backends;
mod build;
mod compare;
mod draft;
mod execute;
mod ids;
mod limits;
mod op;
mod planner;
mod report;
mod slots;
mod sources;
mod stages;
#[cfg(test)]
mod tests;
mod vips;

use std::time::Instant;

pub use execute::FAMILIES;
pub use limits::Limits;
pub use op::{Backend, BackendId, Frontend, Op, Range, RangeSetId, ServiceId};
pub(crate) use op::{ServiceName, set_names};
pub use planner::{NodeAddresses, Plan, Planner};

pub use crate::model::ProtoName;
use crate::{
    maps::Contents,
    model::{Desired, ObjectName},
};

/// The ops that turn maps with `contents` into what is desired for `services`, and remove everything
/// else.
pub fn plan(
    desired: &impl Desired,
    services: impl IntoIterator<Item = ObjectName>,
    node: NodeAddresses,
    contents: &Contents,
    limits: Limits,
    now: Instant,
) -> Vec<Op> {
    let mut planner = Planner::adopt(contents, limits, now);
    planner.set_node(node);
    planner.mark(services);
    planner.prune();
    planner.plan(desired, now).ops
}
