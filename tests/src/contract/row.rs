//! A row of a table: who asks, what for, and what comes of it.

use std::net::SocketAddr;

use crate::{
    cluster::Service,
    lab::{Addresses, FAMILIES, Family},
    worker::Proto,
};

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum From {
    /// `pod1-1`, a pod of node 1.
    Pod,
    /// A process of node 1.
    Host,
    /// A process of node 1 that no socket hook sees.
    Unhooked,
    /// The machine outside, whose way to Services leads over node 1.
    Outside,
    /// The same machine by its second address.
    OutsideToo,
    /// `pod2-1`, a pod of node 2.
    Pod2,
    /// A process of node 2.
    Host2,
}

impl From {
    /// A client of each kind at node 1.
    pub const EVERY: [Self; 4] = [Self::Pod, Self::Host, Self::Unhooked, Self::Outside];
    /// Those that are processes of node 1 itself.
    pub const NODE: [Self; 2] = [Self::Host, Self::Unhooked];

    /// Whether it is a pod.
    pub(super) const fn is_pod(self) -> bool {
        matches!(self, Self::Pod | Self::Pod2)
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct To {
    what: String,
    addresses: Addresses,
    port: u16,
}

impl To {
    /// An address and port of a Service.
    pub fn at(what: &str, addresses: Addresses, port: u16) -> Self {
        Self { what: what.to_owned(), addresses, port }
    }

    /// The cluster addresses of a Service, at its first port.
    pub fn cluster(service: &Service) -> Self {
        Self::at(&format!("{} ClusterIP", service.name), service.addresses, first(service))
    }

    /// The node port of the first port of a Service, at a node's addresses.
    ///
    /// # Panics
    /// When the port has no node port.
    pub fn node_port(service: &Service, node: Addresses) -> Self {
        let port = service.ports.first().and_then(|port| port.node_port);
        Self::at(&format!("{} NodePort", service.name), node, port.expect("it has a node port"))
    }

    /// The same addresses at another port.
    #[must_use]
    pub fn port(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// Its address in a family.
    pub const fn socket(&self, family: Family) -> SocketAddr {
        self.addresses.at(family, self.port)
    }

    /// What it is called.
    pub fn what(&self) -> &str {
        &self.what
    }
}

fn first(service: &Service) -> u16 {
    service.ports.first().expect("a Service has ports").port
}

/// Which address the backend sees as the client's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// The client's own.
    Client,
    /// Node 1's.
    Node1,
    /// Node 2's.
    Node2,
    /// Node 1's, except that a pod keeps its own.
    Masqueraded,
    /// Whatever: another table asks for it.
    Any,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub enum Is {
    /// Each of these answers some of the requests, and nobody else any.
    By(Vec<String>, Seen),
    /// Refused at once.
    Refused,
    /// Refused at once by a packet that comes back, of which an unconnected socket does not hear.
    RefusedByPacket,
    /// No answer, and nothing left the node.
    Dropped,
    /// It leaves the node as it is, with the client's address.
    Untouched,
}

impl Is {
    /// One backend answers.
    pub fn by(name: &str, seen: Seen) -> Self {
        Self::By(vec![name.to_owned()], seen)
    }

    /// Several backends answer.
    pub fn among(names: &[&str], seen: Seen) -> Self {
        Self::By(names.iter().map(|name| (*name).to_owned()).collect(), seen)
    }
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// The ids of the contract, or a word on what it is about.
    pub about: String,
    /// Who asks.
    pub from: From,
    /// What for.
    pub to: To,
    /// What comes of it.
    pub is: Is,
    /// By which protocols.
    pub protos: Vec<Proto>,
    /// In which families.
    pub families: Vec<Family>,
}

impl Row {
    /// A row of both families and every protocol.
    pub fn new(about: &str, from: From, to: &To, is: &Is) -> Self {
        Self {
            about: about.to_owned(),
            from,
            to: to.clone(),
            is: is.clone(),
            protos: Proto::ALL.to_vec(),
            families: FAMILIES.to_vec(),
        }
    }

    /// How often it is asked: often enough that each of several backends answers.
    pub(super) fn times(&self) -> usize {
        match &self.is {
            Is::By(names, _) if names.len() > 1 => 16 * names.len(),
            Is::By(..) => 4,
            Is::Refused | Is::RefusedByPacket | Is::Dropped | Is::Untouched => 1,
        }
    }
}
