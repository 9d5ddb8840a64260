//! The maps: executes ops, and reads back what is there.
//!
//! Invariant: whoever executes ops says exactly which of them took effect, so that the planner
//! mirrors what the kernel accepted and nothing else.

pub mod bpf;
mod dump;
pub mod family;
mod faulty;
pub mod kernel;
mod memory;
pub mod reader;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

pub use dump::Dump;
pub use faulty::{Fault, FaultyMaps};
use lb_common::{FrontendValue, ServiceInfo};
pub use memory::{MemoryMaps, map_of};

use crate::plan::{Backend, BackendId, Frontend, Op, Range, ServiceId};

/// Something that holds the maps: the kernel, or memory in tests.
pub trait Maps {
    /// Executes `ops` in order and stops at the first that fails.
    ///
    /// Deleting what is not there succeeds. Runs of ops of one kind may be executed as one batch,
    /// as long as no op after the first that failed takes effect.
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError>;

    /// Reads everything that the agent writes, to adopt it or to show it.
    fn contents(&self) -> Result<Contents, MapsError>;
}

/// Everything that the agent writes for its Services.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contents {
    /// Services by id.
    pub services: BTreeMap<ServiceId, ServiceInfo>,
    /// Backends by id, without those whose state is `Free`.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Backend ids by slot, at least up to the last one that a frontend names; trailing zeros may
    /// be left out.
    pub slots: Vec<u32>,
    /// Source ranges.
    pub ranges: BTreeSet<Range>,
    /// Words of the VIP filter that are not zero.
    pub filter: BTreeMap<u32, u64>,
    /// Frontends and markers.
    pub frontends: BTreeMap<Frontend, FrontendValue>,
}

/// Executing a plan stopped: `ops[..applied]` took effect.
#[derive(Debug, thiserror::Error)]
#[error("{op} in map {map}")]
pub struct ApplyError {
    /// How many ops took effect.
    pub applied: usize,
    /// The op that failed, printed.
    pub op: String,
    /// Name of the map that refused it.
    pub map: &'static str,
    /// Why.
    pub source: io::Error,
}

/// A map could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading map {map}")]
pub struct MapsError {
    /// Name of the map.
    pub map: &'static str,
    /// Why.
    pub source: io::Error,
}
