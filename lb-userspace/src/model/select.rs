//! Which endpoints of a Service's slices serve one of its ports, and whom.
//!
//! Invariant: the result depends on the set of slices only, not on the order in which they or their
//! endpoints come.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use lb_common::{Family, Location};

use super::{
    desired::DesiredBackend,
    object::{Conditions, Endpoint, Slice},
};

/// Where the agent is.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    /// The name of its node; empty when the agent does not know it.
    pub(super) node: Arc<str>,
    /// The zone of its node, if that says so.
    pub(super) zone: Option<Arc<str>>,
}

/// What the slices of a Service say of one of its ports in one family: each address and port once,
/// sorted by them.
pub(super) struct Candidates(Vec<Candidate>);

/// An endpoint that may serve a port.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) addr: IpAddr,
    pub(super) port: u16,
    pub(super) conditions: Conditions,
    place: Place,
}

/// How near an endpoint is. The greater, the nearer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    on_node: bool,
    by_node: Hint,
    by_zone: Hint,
    /// Whether it is known to be on another node. Last, for it makes nothing nearer: of entries
    /// that are alike otherwise, the one that says where counts.
    elsewhere: bool,
}

/// What a hint says to the clients of this node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Hint {
    /// There is none.
    None,
    /// It is meant for others.
    Others,
    /// It is meant for them.
    Ours,
}

impl Candidates {
    /// Joins the ports of slices with `name` and `proto`; their numbers may differ.
    ///
    /// Of several entries for one address and port the best condition counts: a pod that runs wins
    /// over one that terminates and had the same address. Of those alike, the nearest counts.
    pub(super) fn new(
        name: &str,
        proto: u8,
        family: Family,
        slices: &[Arc<Slice>],
        here: &Here,
    ) -> Self {
        let mut found = Vec::new();
        for slice in slices.iter().filter(|slice| is_used(slice) && slice.family == Some(family)) {
            for joined in slice.ports.iter().filter(|p| &*p.name == name && p.proto == proto) {
                found.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                    addr: endpoint.addr,
                    port: joined.port,
                    conditions: endpoint.conditions,
                    place: here.place(endpoint),
                }));
            }
        }
        found.sort_unstable_by_key(|c| (c.addr, c.port, Reverse((rank(c.conditions), c.place))));
        found.dedup_by_key(|c| (c.addr, c.port));
        Self(found)
    }

    /// Those on this node that are ready.
    pub(super) fn ready_here(&self) -> impl Iterator<Item = &Candidate> {
        self.0.iter().filter(|c| c.place.on_node && c.conditions.ready)
    }

    /// All that serve, with the sets that they are members of.
    ///
    /// Each set has its ready endpoints, or where it has none, those that still serve while they
    /// terminate: the cluster set of all endpoints, the local set of those on this node. Only the
    /// ready ones of the cluster set are chosen by hints.
    pub(super) fn sets(&self) -> Vec<DesiredBackend> {
        let any_ready = self.0.iter().any(|c| c.conditions.ready);
        let any_ready_here = self.ready_here().next().is_some();
        let meant = self.meant();
        let member = |c: &Candidate, any_ready| match any_ready {
            true => c.conditions.ready,
            false => c.conditions.serving && c.conditions.terminating,
        };
        self.0
            .iter()
            .filter(|c| c.conditions.ready || c.conditions.serving)
            .map(|c| DesiredBackend {
                addr: c.addr,
                port: c.port,
                location: c.place.location(),
                cluster: member(c, any_ready) && (!any_ready || meant(c)),
                local: c.place.on_node && member(c, any_ready_here),
            })
            .collect()
    }

    /// Which ready endpoints the hints leave to the clients of this node. They must be complete to
    /// count: hints of nodes, or else hints of zones, on each ready endpoint, one of them ours.
    fn meant(&self) -> fn(&Candidate) -> bool {
        let complete = |hint: fn(&Candidate) -> Hint| {
            let mut hints = self.0.iter().filter(|c| c.conditions.ready).map(hint);
            let mut ours = false;
            hints.all(|hint| {
                ours |= hint == Hint::Ours;
                hint != Hint::None
            }) && ours
        };
        if complete(|c| c.place.by_node) {
            |c| c.place.by_node == Hint::Ours
        } else if complete(|c| c.place.by_zone) {
            |c| c.place.by_zone == Hint::Ours
        } else {
            |_| true
        }
    }
}

impl Place {
    const fn location(self) -> Location {
        match self {
            Self { on_node: true, .. } => Location::Here,
            Self { elsewhere: true, .. } => Location::Elsewhere,
            Self { .. } => Location::Unknown,
        }
    }
}

impl Here {
    fn place(&self, endpoint: &Endpoint) -> Place {
        let hint = |names: &[Arc<str>], ours: Option<&Arc<str>>| match names {
            [] => Hint::None,
            names if ours.is_some_and(|ours| names.contains(ours)) => Hint::Ours,
            _ => Hint::Others,
        };
        let (nodes, zones) = match &endpoint.hints {
            Some(hints) => (&*hints.nodes, &*hints.zones),
            None => (&[][..], &[][..]),
        };
        let named = endpoint.node.as_ref().filter(|_| !self.node.is_empty());
        Place {
            on_node: named.is_some_and(|node| *node == self.node),
            by_node: hint(nodes, Some(&self.node)),
            by_zone: hint(zones, self.zone.as_ref()),
            elsewhere: named.is_some_and(|node| *node != self.node),
        }
    }
}

/// Whether anything of a slice is used.
pub(super) fn is_used(slice: &Slice) -> bool {
    !slice.headless
}

/// Whether the zone of the node may decide who gets endpoints of a slice.
pub(super) fn has_zones(slice: &Slice) -> bool {
    let hints = |endpoint: &Endpoint| endpoint.hints.as_ref().is_some_and(|h| !h.zones.is_empty());
    is_used(slice) && slice.endpoints.iter().any(hints)
}

fn rank(conditions: Conditions) -> (bool, bool, bool) {
    (!conditions.terminating, conditions.ready, conditions.serving)
}
