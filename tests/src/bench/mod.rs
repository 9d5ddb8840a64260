//! Benchmarks: nanoseconds per packet of the programs, the speed of bulk transfers, and the time from objects to
//! maps.
//!
//! Every sample comes from a process of its own: tables that lie elsewhere in memory give other
//! times, and one process would measure one such accident many times.

pub mod machine;
pub mod packet;
mod pairs;
pub mod stats;
pub mod stream;
