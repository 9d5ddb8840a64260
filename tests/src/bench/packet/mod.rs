//! `lb-bench packet`: nanoseconds per packet, as ratios to something else of the same minute.
//!
//! A sample is one case in one process: its programs run on packets that go nowhere (`rig`), or frames sent through
//! a node (`live`). A comparison alternates samples of two cases, because a
//! shared machine drifts by tens of percent within minutes while neighbours in time agree. What a
//! sample did is proven by the program's own counters; one that did not do what it claims fails the
//! whole run. What is compared is either a program with the reference (`compare`), or two builds of
//! one program (`against`).

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
