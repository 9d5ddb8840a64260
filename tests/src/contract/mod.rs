//! Tables of the Service contract: objects in, probes out.
//!
//! A [`Scene`] is a lab with an agent on each of two nodes, pods and processes that serve, and clients
//! of every kind. A [`Table`] holds objects and rows; a row says who asks what, and what must come of
//! it. [`Table::check`] asks every row in both families and every protocol: once with endpoints
//! arriving before their Services, once after the agents were killed and started again, and once more
//! with everything removed and arriving in the opposite order.
//!
//! **Invariant:** whatever leaves a node for an address of a Service is answered by the gateway of the
//! underlay, so that a packet that was dropped and a packet that was let go can be told apart.

mod objects;
mod row;
mod scene;
mod table;

pub use row::{From, Is, Row, Seen, To};
pub use scene::Scene;
pub use table::Table;
