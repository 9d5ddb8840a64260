//! The Service contract in tables: objects in, probes out, against real agents in the lab.
//!
//! To add a case, add a Service and its rows to the table of its section, name the ids in both, and
//! name the test in `docs/parity.md`.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

mod changes;
mod endpoints;
mod external;
mod on_the_link;
mod one_way;
mod ranges;
mod topology;

use lb_tests::{cluster::Service, worker::Proto};

/// A Service of every protocol at port 80, without node ports.
pub(crate) fn service(name: &str, number: u8) -> Service {
    ports(Service::new(name, number), 80, None)
}

/// The same with a node port, 30000 and its number.
pub(crate) fn with_node_port(name: &str, number: u8) -> Service {
    ports(Service::new(name, number), 80, Some(30000 + u16::from(number)))
}

/// Adds a port of every protocol.
pub(crate) fn ports(service: Service, port: u16, node_port: Option<u16>) -> Service {
    Proto::ALL.into_iter().fold(service, |service, proto| {
        service.port(&proto.name().to_lowercase(), proto, port, 8080, node_port)
    })
}
