//! Frontends: what a client sends to.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr4, Addr6, Address};

/// Key of the frontend maps: one (address, port, protocol) that clients send to.
///
/// The key with port 0 and protocol 0 is the **VIP marker**: it says that the address belongs to
/// Services only, so a packet to any other port of it is refused instead of leaving the node.
/// Addresses of the node itself (NodePort frontends) have no marker.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// Address that the client sends to, network order.
    pub addr: A,
    /// Port that the client sends to, host order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Always zero.
    pub pad: u8,
}

impl<A: Address> FrontendKey<A> {
    /// The key of a frontend.
    #[inline(always)]
    pub const fn new(addr: A, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, pad: 0 }
    }

    /// The key of the marker of a VIP.
    #[inline(always)]
    pub const fn marker(addr: A) -> Self {
        Self::new(addr, 0, 0)
    }
}

/// Value of the frontend maps: where the backends of this frontend stand in the slots array.
///
/// A whole change of a Service becomes visible by replacing this value in one map update.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendValue {
    /// Service id: key of `LB_SERVICES`, shared by all frontends of one Service port and family.
    pub service: u32,
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots; 0 means that the Service has no usable backend (new connections are
    /// refused).
    pub len: u32,
    /// A [`FrontendKind`] by number.
    pub kind: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What sort of address a frontend is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum FrontendKind {
    /// A marker, see [`FrontendKey`].
    Marker = 0,
    /// `spec.clusterIPs` with the Service's port.
    ClusterIp = 1,
    /// An address of this node with the Service's node port.
    NodePort = 2,
}

impl FrontendKind {
    /// The kind with this number.
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Marker),
            1 => Some(Self::ClusterIp),
            2 => Some(Self::NodePort),
            _ => None,
        }
    }

    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Marker => "Marker",
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
        }
    }
}

const _: () = {
    assert!(size_of::<FrontendKey<Addr4>>() == 8 && size_of::<FrontendKey<Addr6>>() == 20);
    assert!(size_of::<FrontendValue>() == 16);
};
