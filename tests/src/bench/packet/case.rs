//! Cases: one program, one sort of packet, one size of the tables.

use std::fmt;

use lb_common::{Hook, Reason, names};
use serde::{Deserialize, Serialize};

/// Whose program is measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Subject {
    /// The product's.
    Ours,
    /// The least that a stateful balancer must do.
    Floor,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum At {
    /// XDP of an external device.
    Xdp,
    /// tc ingress of an external device.
    External,
    /// tc ingress of a pod's device.
    Pod,
}

/// What the packets are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Traffic {
    /// Any of so many established TCP connections (a power of two).
    Established(u32),
    /// A SYN, each of a new connection.
    New,
    /// TCP to an address of no Service.
    Unrelated,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Case {
    /// Whose program.
    pub subject: Subject,
    /// Where it runs.
    pub at: At,
    /// IPv6 in place of IPv4.
    pub ipv6: bool,
    /// What the packets are.
    pub traffic: Traffic,
    /// Number of Services, of five endpoints each.
    pub services: u32,
}

impl Case {
    /// The name of the program in its object.
    #[must_use]
    pub fn program(&self) -> &'static str {
        match (self.subject, self.at) {
            (Subject::Floor, At::Xdp) => "floor_xdp",
            (Subject::Floor, At::External | At::Pod) => "floor_tc",
            (Subject::Ours, At::Xdp) => names::LB_XDP_IN,
            (Subject::Ours, At::External) => names::LB_EXT_IN,
            (Subject::Ours, At::Pod) => names::LB_POD_IN,
        }
    }

    /// The hook under which our program counts.
    #[must_use]
    pub fn hook(&self) -> Hook {
        match self.at {
            At::Xdp => Hook::Xdp,
            At::External => Hook::ExternalIn,
            At::Pod => Hook::PodIn,
        }
    }

    /// The reason that our program must count for each packet.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self.traffic {
            Traffic::Established(_) => Reason::Forward,
            Traffic::New => Reason::NewFlow,
            Traffic::Unrelated => Reason::NotService,
        }
    }

    /// How many connections there are to choose from.
    #[must_use]
    pub fn flows(&self) -> u32 {
        match self.traffic {
            Traffic::Established(flows) => flows,
            Traffic::New => 1 << 18,
            Traffic::Unrelated => 1,
        }
    }

    /// Whether main memory decides: the tables are larger than the caches.
    #[must_use]
    pub fn is_memory_bound(&self) -> bool {
        self.flows() > 1024
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match self.at {
            At::Xdp => "xdp",
            At::External => "tc",
            At::Pod => "tc pod",
        };
        let subject = if self.subject == Subject::Floor { "floor " } else { "" };
        let family = if self.ipv6 { "v6" } else { "v4" };
        write!(f, "{subject}{at} {family} ")?;
        match self.traffic {
            Traffic::Established(1) => write!(f, "established, 1 flow")?,
            Traffic::Established(flows) => write!(f, "established, {flows} flows")?,
            Traffic::New => write!(f, "new flow each")?,
            Traffic::Unrelated => write!(f, "unrelated")?,
        }
        if self.services == 1 { Ok(()) } else { write!(f, ", {} services", self.services) }
    }
}
