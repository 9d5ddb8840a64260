//! Packets in, packets out: the loaded programs run on frames by `BPF_PROG_TEST_RUN`.
//!
//! A [`Ground`] is a network namespace without a name, with the devices, routes and neighbours of a
//! small node, so that the kernel's route look-ups have known answers. A [`Scene`] is what the maps
//! hold, in memory; [`Kernel`] holds the loaded programs over the same. Nothing is attached to any
//! device, and no packet leaves.

mod follow;
mod generate;
mod ground;
mod kernel;
mod scene;
mod twin;

pub use generate::{Case, Generator};
pub use ground::{Ground, inside};
pub use kernel::{Kernel, Side};
pub use scene::{Scene, World, addr};
pub use twin::{Agreed, Difference, Twin};
