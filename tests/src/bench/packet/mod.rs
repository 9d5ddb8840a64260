//! `lb-bench packet`: nanoseconds per packet, as ratios to the reference of the same minute.
//!
//! A sample is one case in one process. A comparison alternates samples of two cases, because a
//! shared machine drifts by tens of percent within minutes while neighbours in time agree. What a
//! sample did is proven by the program's own counters; one that did not do what it claims fails the
//! whole run.

mod case;
mod compare;
mod frames;
mod ground;
mod sample;
mod tables;

pub use case::Case;
pub use compare::{Comparison, Options, run};
pub use sample::{Effort, Sample, take};
