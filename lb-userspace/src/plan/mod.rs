//! What is to be written into the maps, in which order.

mod op;

pub use op::{Backend, BackendId, Frontend, Op, ProtoName, ServiceId};
