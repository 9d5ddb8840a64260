//! The datapath's decisions, without a kernel.
//!
//! A packet's way through this crate is its module list:
//!
//! ```text
//! frame ── parse ──┬─ flow known ───────────── track ──┬─ pipeline: shortcut or road ── rewrite ── verdict
//!                  ├─ frontend ─ select ─ establish ───┘
//!                  │     └─ nothing to send it to ──── refuse
//!                  ├─ error about a packet ─────────── errors
//!                  └─ later part of a datagram ─────── fragments
//! ```
//!
//! and a socket's is [`socket`]. Everything is generic over the bytes ([`Frame`]), the maps
//! ([`Tables`]), the surroundings ([`Env`]) and the address family ([`Family`]), so the same code
//! runs in the kernel, in tests on the host, and over the live maps in tools.
//!
//! **Invariant:** no pointer, no map, no clock and no `unsafe` in here; the binary beside it holds
//! those and decides nothing.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "host"))]
extern crate std;

mod affinity;
pub mod checksum;
mod crc32c;
mod errors;
mod establish;
mod family;
mod fragments;
pub mod frame;
mod frontend;
pub mod header;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod limit;
mod packet;
mod pipeline;
pub mod refuse;
mod rewrite;
mod select;
pub mod socket;
mod step;
pub mod tables;
mod track;
mod verdict;

pub use family::Family;
pub use frame::Frame;
pub use packet::{Packet, Part, Place, Set, Work};
pub use pipeline::process;
pub use tables::{Env, FlowSlot, InsertError, Route, Tables};
pub use verdict::{Decision, Verdict};
