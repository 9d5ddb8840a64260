//! The agent as a library: `source → model → plan → maps → datapath`, one module each.
//!
//! Invariant: `model` and `plan` are pure: they do no I/O, read no clock, and no input makes them
//! fail. Kubernetes types stop at `source`; BPF types start at `maps`.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod devices;
pub mod foreign;
pub mod housekeeper;
pub mod maps;
pub mod model;
pub mod nodeport;
pub mod plan;
pub mod privileges;
pub mod source;
pub mod status;
pub mod telemetry;
