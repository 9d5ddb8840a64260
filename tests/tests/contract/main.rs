//! The Service contract in tables: objects in, probes out, against real agents in the lab.
//!
//! To add a case, add a Service and its rows to the table of its section, name the ids in both, and
//! name the test in `docs/parity.md`.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

mod endpoints;
mod external;
mod on_the_link;
mod ranges;
mod topology;

use lb_tests::{cluster::Service, worker::Proto};

/// A Service of TCP and UDP at port 80, without node ports.
pub(crate) fn service(name: &str, number: u8) -> Service {
    Service::new(name, number).port("tcp", Proto::Tcp, 80, 8080, None).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        None,
    )
}

/// The same with a node port, 30000 and its number.
pub(crate) fn with_node_port(name: &str, number: u8) -> Service {
    let node_port = Some(30000 + u16::from(number));
    Service::new(name, number).port("tcp", Proto::Tcp, 80, 8080, node_port).port(
        "udp",
        Proto::Udp,
        80,
        8080,
        node_port,
    )
}
