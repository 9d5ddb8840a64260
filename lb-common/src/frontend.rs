//! Frontends: what a client sends to.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr4, Addr6, Address};

/// Key of the frontend maps: one (address, port, protocol) that clients send to.
///
/// The key with port 0 and protocol 0 is the **VIP marker**: it says that the address belongs to
/// Services only, so a packet to any other port of it is refused instead of leaving the node.
/// Cluster IPs have one; addresses of nodes, external IPs and those of load balancers may serve
/// others too and have none.
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

/// Value of the frontend maps: where the backends of this frontend stand in the slots array, and
/// who may choose among them.
///
/// A whole change of a Service becomes visible by replacing this value in one map update. So what
/// it leads to (slots, source ranges) is never changed while a frontend names it, but written anew.
///
/// The **cluster set** is the slots `base .. base + len`, the **local set** the `local_len` slots
/// after those. A backend on this node may stand in both.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendValue {
    /// Service id: key of `LB_SERVICES`, shared by all frontends of one Service port and family.
    pub service: u32,
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots of the cluster set; 0 means that the Service has no usable backend anywhere
    /// (new connections are refused).
    pub len: u32,
    /// Number of slots of the local set, 0 too where no policy asks for it. Where the local set
    /// counts and is empty although `len` is not 0, new connections are dropped.
    pub local_len: u32,
    /// Id of the set of source ranges that a new connection must come from, see [`RangeKey`]; 0 when
    /// it may come from anywhere.
    ///
    /// [`RangeKey`]: crate::RangeKey
    pub ranges: u32,
    /// Seconds for which a client keeps its backend after its last new connection
    /// (`sessionAffinity: ClientIP`); 0 without affinity.
    pub affinity: u32,
    /// A [`FrontendKind`] by number.
    pub kind: u8,
    /// 1 when the policy that governs this kind of frontend is Local, else 0: `internalTrafficPolicy`
    /// for a cluster IP, and then for every client; `externalTrafficPolicy` for all others, and then
    /// for clients outside the node only.
    pub local: u8,
    /// Always zero.
    pub pad: u16,
}

impl FrontendValue {
    /// Number of slots of both sets together.
    #[inline(always)]
    pub const fn slots(&self) -> u32 {
        self.len.saturating_add(self.local_len)
    }

    /// Whether the policy of this frontend is Local.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.local != 0
    }

    /// Whether this frontend is one of those that `externalTrafficPolicy` governs.
    #[inline(always)]
    pub const fn is_external(&self) -> bool {
        self.kind > FrontendKind::ClusterIp as u8
    }
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
    /// `spec.externalIPs` with the Service's port.
    ExternalIp = 3,
    /// An address in `status.loadBalancer.ingress` of mode VIP, with the Service's port.
    LoadBalancer = 4,
}

impl FrontendKind {
    /// The kind with this number.
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Marker),
            1 => Some(Self::ClusterIp),
            2 => Some(Self::NodePort),
            3 => Some(Self::ExternalIp),
            4 => Some(Self::LoadBalancer),
            _ => None,
        }
    }

    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Marker => "Marker",
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

const _: () = {
    assert!(size_of::<FrontendKey<Addr4>>() == 8 && size_of::<FrontendKey<Addr6>>() == 20);
    assert!(size_of::<FrontendValue>() == 28);
};
