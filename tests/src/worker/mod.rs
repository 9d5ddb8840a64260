//! Workers: one small process in each namespace and cgroup of the lab that serves and probes.
//!
//! A worker reads requests as JSON lines and answers each with one line; it ends when its input
//! does, so none outlives a lab, however that ended. It must be a process because the cgroup hooks
//! know sockets by the cgroup of their process.

mod capture;
mod dns;
mod handle;
mod monitor;
mod probe;
mod protocol;
mod run;
mod sctp;
mod serve;

pub use handle::{Running, Worker};
pub use protocol::{
    Answer, Bulk, Capture, Failure, Frame, MonitorKind, MonitorReport, Outcome, Proto, Share, Shot,
    Transition, UdpStyle,
};
pub use run::run;
pub(crate) use serve::{Host, Server};
