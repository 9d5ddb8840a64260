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
    /// Any of so many established TCP connections (a power of two), at the first program alone.
    Established(u32),
    /// A SYN, each of a new connection.
    New,
    /// TCP to an address of no Service.
    Unrelated,
    /// Established connections to another node, in every program that the shortcut leads through.
    Shortcut(u32),
    /// The same by the road: where redirecting is not allowed. The stack between is not measured.
    Road(u32),
    /// Frames of so many of these connections, sent through a node: all that is done for a packet.
    Live(Way, u32),
}

/// How a node forwards.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Way {
    /// Past the stack.
    Shortcut,
    /// Through the stack.
    Road,
    /// Through the stack, by rules of nftables that do the same.
    Rules,
}

/// A program that packets of a case meet, and what it must make of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    /// Its name in its object.
    pub(super) program: &'static str,
    /// The hook under which it counts.
    pub(super) hook: Hook,
    /// What it must count.
    pub(super) reason: Reason,
    /// To whom its packets are.
    pub(super) to: To,
}

/// To whom a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum To {
    /// A Service.
    Service,
    /// An address of no Service.
    Nobody,
    /// The only backend of the Service.
    Backend,
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
    /// The programs that a packet meets, in this order. Nobody's where there are rules instead.
    #[must_use]
    pub(super) fn legs(&self) -> Vec<Leg> {
        let program = match (self.subject, self.at) {
            (Subject::Floor, At::Xdp) => "floor_xdp",
            (Subject::Floor, At::External | At::Pod) => "floor_tc",
            (Subject::Ours, At::Xdp) => names::LB_XDP_IN,
            (Subject::Ours, At::External) => names::LB_EXT_IN,
            (Subject::Ours, At::Pod) => names::LB_POD_IN,
        };
        let leg = |program, hook, reason, to| Leg { program, hook, reason, to };
        let first = |reason, to| leg(program, self.hook(), reason, to);
        let entering = leg(names::LB_EXT_IN, Hook::ExternalIn, Reason::Forward, To::Service);
        let leaving = |reason| leg(names::LB_EXT_OUT, Hook::ExternalOut, reason, To::Backend);
        let way = match self.traffic {
            Traffic::Established(_) => return vec![first(Reason::Forward, To::Service)],
            Traffic::New => return vec![first(Reason::NewFlow, To::Service)],
            Traffic::Unrelated => return vec![first(Reason::NotService, To::Nobody)],
            Traffic::Shortcut(_) => Way::Shortcut,
            Traffic::Road(_) => Way::Road,
            Traffic::Live(way, _) => way,
        };
        match (way, self.at) {
            (Way::Shortcut, At::Xdp) => vec![first(Reason::Forward, To::Service)],
            // tc redirects to where the device's own program still looks at the packet.
            (Way::Shortcut, At::External | At::Pod) => {
                vec![entering, leaving(Reason::NotService)]
            }
            (Way::Road, At::Xdp) => {
                let left = first(Reason::LeftToTc, To::Service);
                vec![left, entering, leaving(Reason::Forward)]
            }
            (Way::Road, At::External | At::Pod) => vec![entering, leaving(Reason::Forward)],
            (Way::Rules, _) => Vec::new(),
        }
    }

    /// The program that makes the flows before they are measured: XDP makes none.
    #[must_use]
    pub(super) fn opener(&self) -> Leg {
        let (program, hook) = match (self.subject, self.at) {
            (Subject::Floor, At::Xdp) => ("floor_xdp", Hook::Xdp),
            (Subject::Floor, At::External | At::Pod) => ("floor_tc", Hook::ExternalIn),
            (Subject::Ours, At::Xdp | At::External) => (names::LB_EXT_IN, Hook::ExternalIn),
            (Subject::Ours, At::Pod) => (names::LB_POD_IN, Hook::PodIn),
        };
        Leg { program, hook, reason: Reason::NewFlow, to: To::Service }
    }

    /// The hook of the first program.
    const fn hook(&self) -> Hook {
        match self.at {
            At::Xdp => Hook::Xdp,
            At::External => Hook::ExternalIn,
            At::Pod => Hook::PodIn,
        }
    }

    /// Whether packets may be redirected.
    #[must_use]
    pub(super) const fn may_redirect(&self) -> bool {
        !matches!(self.traffic, Traffic::Road(_) | Traffic::Live(Way::Road, _))
    }

    /// Endpoints of each Service: one where a later program must be given packets to the backend.
    #[must_use]
    pub(super) const fn endpoints(&self) -> u32 {
        match self.traffic {
            Traffic::Established(_) | Traffic::New | Traffic::Unrelated => 5,
            Traffic::Shortcut(_) | Traffic::Road(_) | Traffic::Live(..) => 1,
        }
    }

    /// How many connections there are to choose from.
    #[must_use]
    pub fn flows(&self) -> u32 {
        match self.traffic {
            Traffic::Established(flows)
            | Traffic::Shortcut(flows)
            | Traffic::Road(flows)
            | Traffic::Live(_, flows) => flows,
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
        let live = if matches!(self.traffic, Traffic::Live(..)) { "live " } else { "" };
        let traffic = match self.traffic {
            Traffic::Established(_) => "established",
            Traffic::New => "new flow each",
            Traffic::Unrelated => "unrelated",
            Traffic::Shortcut(_) | Traffic::Live(Way::Shortcut, _) => "shortcut",
            Traffic::Road(_) | Traffic::Live(Way::Road, _) => "road",
            Traffic::Live(Way::Rules, _) => "nftables",
        };
        write!(f, "{live}{subject}{at} {family} {traffic}")?;
        match (self.traffic, self.flows()) {
            (Traffic::New | Traffic::Unrelated, _) => {}
            (_, 1) => write!(f, ", 1 flow")?,
            (_, flows) => write!(f, ", {flows} flows")?,
        }
        if self.services == 1 { Ok(()) } else { write!(f, ", {} services", self.services) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(at: At, traffic: Traffic) -> Vec<&'static str> {
        let case = Case { subject: Subject::Ours, at, ipv6: false, traffic, services: 1 };
        case.legs().iter().map(|leg| leg.program).collect()
    }

    #[test]
    fn the_road_leads_through_both_edges_and_the_shortcut_of_xdp_through_one_program() {
        let [xdp, entering, leaving] = [names::LB_XDP_IN, names::LB_EXT_IN, names::LB_EXT_OUT];
        for (shortcut, road) in [
            (Traffic::Shortcut(1), Traffic::Road(1)),
            (Traffic::Live(Way::Shortcut, 1), Traffic::Live(Way::Road, 1)),
        ] {
            assert_eq!(programs(At::Xdp, shortcut), [xdp]);
            assert_eq!(programs(At::Xdp, road), [xdp, entering, leaving]);
            assert_eq!(programs(At::External, shortcut), [entering, leaving]);
            assert_eq!(programs(At::External, road), [entering, leaving]);
        }
        assert_eq!(programs(At::Xdp, Traffic::Established(1)), [xdp]);
        assert!(programs(At::Xdp, Traffic::Live(Way::Rules, 1)).is_empty());
    }

    /// Builds of other revisions are asked by these lines.
    #[test]
    fn a_case_is_written_as_older_builds_read_it() {
        let traffic = Traffic::Established(1);
        let case =
            Case { subject: Subject::Ours, at: At::External, ipv6: true, traffic, services: 1 };
        assert_eq!(
            serde_json::to_string(&case).unwrap(),
            r#"{"subject":"Ours","at":"External","ipv6":true,"traffic":{"Established":1},"services":1}"#
        );
    }
}
