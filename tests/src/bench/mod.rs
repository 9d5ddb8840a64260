//! Benchmarks: nanoseconds per packet of the programs, and the time from objects to maps.
//!
//! Every sample comes from a process of its own: tables that lie elsewhere in memory give other
//! times, and one process would measure one such accident many times.

pub mod machine;
pub mod packet;
pub mod stats;
