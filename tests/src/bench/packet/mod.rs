//! `lb-bench packet`: nanoseconds per packet, as ratios to something else of the same minute.
//!
//! A sample is one case in one process: its programs run on packets that go nowhere (`rig`), or frames are
//! sent through a node (`live`). A comparison alternates samples of two cases, because a shared machine
//! drifts by tens of percent within minutes while neighbours in time agree. What a sample did is proven by
//! the programs' own counters; one that did not do what it claims fails the whole run. What is compared is
//! a case with a reference (`compare`), or two builds in one case (`against`).

mod against;
mod build;
mod case;
mod compare;
mod frames;
mod ground;
mod live;
mod object;
mod report;
mod rig;
mod sample;
mod selection;
mod table;
mod tables;
mod verdict;

pub use against::{Against, cases as cases_of_two_builds, run as run_against};
pub use case::Case;
pub use compare::{Comparison, Options, cases, run};
pub use sample::{Effort, Sample, take};
pub use selection::Selection;
