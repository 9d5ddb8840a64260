//! What the programs must know of the node as a whole: the map `LB_RUNTIME`.
//!
//! Invariant: flags and generation change in one write, so no program sees a next hop of the old
//! flags under the new generation.

use std::path::Path;

use lb_common::{Runtime, names};

use crate::maps::{
    bpf::Access,
    table::{Table, TableError},
};

/// Writes `LB_RUNTIME`.
#[derive(Debug)]
pub struct RuntimeTable {
    table: Table<u32, Runtime>,
    generation: u16,
}

impl RuntimeTable {
    /// Opens the map in the directory `maps` and goes on from what it says.
    ///
    /// # Errors
    ///
    /// When the map cannot be opened or read.
    pub fn open(maps: &Path) -> Result<Self, TableError> {
        let table: Table<u32, Runtime> = Table::open(maps, names::LB_RUNTIME, Access::ReadWrite)?;
        let generation = table.get(&0)?.unwrap_or_default().generation;
        Ok(Self { table, generation })
    }

    /// Makes all cached next hops be looked up again, under these flags (bits of [`Runtime`]).
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn renew(&mut self, flags: u8) -> Result<(), TableError> {
        // Zero is what an entry has that was never resolved.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.table.put(&0, &Runtime { generation: self.generation, flags, pad: [0; 5] })
    }
}
