//! The command line: what people type, and what they are shown.
//!
//! Data goes to stdout and logs to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.

pub mod args;
pub mod backends;
pub mod describe;
pub mod dump;
pub mod flows;
#[cfg(test)]
mod sample;
pub mod service_ref;
pub mod services;
pub mod snapshot;
pub mod status;
pub mod table;
