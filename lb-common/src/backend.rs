//! Backends: what answers.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr4, Addr6, Address};

/// The backend id that no backend has; index 0 of the backend maps stays zero.
pub const NO_BACKEND: u32 = 0;

/// Value of the backend maps (arrays, index = backend id): one address and port that serves one
/// Service port.
///
/// Ids are numbered over both families together, so an id means one backend everywhere.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct BackendValue<A> {
    /// Address of the backend, network order.
    pub addr: A,
    /// Port of the backend, host order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// A [`BackendState`] by number.
    pub state: u8,
    /// Service id that the backend belongs to.
    pub service: u32,
    /// Bits of [`BackendSets`]: in which sets of its Service the backend stands. Session affinity
    /// leads only to members; 0 for one that merely keeps its old flows.
    pub sets: u8,
    /// A [`Location`] by number. The datapath masquerades by it: what a client outside sends to a
    /// backend on another node takes an address of this node as its source, so that the replies
    /// come back here.
    pub location: u8,
    /// Always zero.
    pub pad: u16,
}

impl<A: Address> BackendValue<A> {
    /// Whether flows of connectionless protocols may still go here.
    #[inline(always)]
    pub const fn is_serving(&self) -> bool {
        self.state == BackendState::Serving as u8
    }
}

/// The sets that new flows select from: bits of [`BackendValue::sets`].
pub struct BackendSets;

impl BackendSets {
    /// The cluster set.
    pub const CLUSTER: u8 = 1;
    /// The local set, kept whether or not a policy asks for it.
    pub const LOCAL: u8 = 2;
}

/// Whether a backend may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum BackendState {
    /// The id is free, or no longer names anything.
    Free = 0,
    /// Member of the serving set: selected by new flows when a slot names it, and kept by old ones.
    Serving = 1,
    /// Left the serving set: UDP and SCTP flows select again at their next packet, TCP flows stay.
    Gone = 2,
}

impl BackendState {
    /// The state with this number.
    pub const fn from_u8(state: u8) -> Option<Self> {
        match state {
            0 => Some(Self::Free),
            1 => Some(Self::Serving),
            2 => Some(Self::Gone),
            _ => None,
        }
    }

    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Serving => "serving",
            Self::Gone => "gone",
        }
    }
}

/// Where a backend is, as its slice says (`nodeName`). An address alone does not tell: the pods of
/// several nodes may lie in one flat network.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Location {
    /// The slice names no node, as those written by hand do, or the agent does not know its own.
    #[default]
    Unknown = 0,
    /// On the agent's node.
    Here = 1,
    /// On another node.
    Elsewhere = 2,
}

impl Location {
    /// The location with this number.
    pub const fn from_u8(location: u8) -> Option<Self> {
        match location {
            0 => Some(Self::Unknown),
            1 => Some(Self::Here),
            2 => Some(Self::Elsewhere),
            _ => None,
        }
    }

    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// Value of `LB_BACKEND_STAT` (per-CPU array, index = backend id).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendStats {
    /// Flows that selected this backend.
    pub flows: u64,
    /// Packets translated towards or from this backend at devices (not those of sockets that a
    /// cgroup hook connected directly).
    pub packets: u64,
    /// Bytes of those packets, from the IP header on.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<BackendValue<Addr4>>() == 16 && size_of::<BackendValue<Addr6>>() == 28);
    assert!(size_of::<BackendStats>() == 24);
};
