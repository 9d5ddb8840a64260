//! Kinds of network: what joins pods to their node, nodes' pods to each other, and nodes to the world.
//!
//! A kind is a row of [`Network::parts`]; the tests that go over [`Network::ALL`] then go over it too.

/// A kind of network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Network {
    /// A host route to each pod and no IPv4 address on the node's end of its link, as by Calico.
    Routed,
    /// A bridge on each node that is the gateway of its pods, as by the bridge plugin.
    Bridged,
    /// One flat network of all pods: a bridge on each node, and a vxlan device as a port of it that leads
    /// to the bridges of the others, as by Weave.
    Flat,
    /// Routed pods and a vxlan device by which the other nodes' pods are reached, as by flannel.
    Vxlan,
    /// Routed pods, and a device without Ethernet header to the other nodes' pods, as by `WireGuard`.
    Tun,
    /// Pods whose links have no Ethernet header.
    TunPods,
    /// The node's only way to anybody is a device without Ethernet header.
    TunUplink,
    /// The node's address is on its loopback device, its uplink has link-local addresses only, as with
    /// BGP unnumbered.
    Unnumbered,
    /// Two NICs in two networks, and a routing rule that sends what has the second's address by the second.
    TwoNics,
    /// The node's address is on a bridge of which its NIC is a port, and every pod's link another.
    UplinkBridge,
}

/// How pods are joined to their node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pods {
    /// By host routes.
    Routes,
    /// By a bridge with a network of the node's own.
    Bridge,
    /// By a bridge with the network of all pods.
    Flat,
    /// By the bridge of the uplink, with addresses of the underlay.
    Uplink,
    /// By tun devices with host routes.
    Tun,
}

/// How the pods of one node reach those of another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Between {
    /// As the nodes reach each other.
    Underlay,
    /// By a vxlan device with routes over it.
    Vxlan,
    /// By a vxlan device that is a port of the pods' bridge.
    Port,
    /// By a tun device.
    Tun,
}

/// How a node is joined to the underlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Uplink {
    /// `eth0`, with the node's address.
    Nic,
    /// The same, and `eth1` in another network.
    TwoNics,
    /// `br0`, with `eth0` as a port.
    Bridge,
    /// `tun0`.
    Tun,
    /// `eth0` without an address that anybody else knows.
    Unnumbered,
}

/// What a kind is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) pods: Pods,
    pub(super) between: Between,
    pub(super) uplink: Uplink,
}

impl Network {
    /// Each of them.
    pub const ALL: [Self; 10] = [
        Self::Routed,
        Self::Bridged,
        Self::Flat,
        Self::Vxlan,
        Self::Tun,
        Self::TunPods,
        Self::TunUplink,
        Self::Unnumbered,
        Self::TwoNics,
        Self::UplinkBridge,
    ];

    /// The table of kinds.
    pub(super) const fn parts(self) -> Parts {
        let (pods, between, uplink) = match self {
            Self::Routed => (Pods::Routes, Between::Underlay, Uplink::Nic),
            Self::Bridged => (Pods::Bridge, Between::Underlay, Uplink::Nic),
            Self::Flat => (Pods::Flat, Between::Port, Uplink::Nic),
            Self::Vxlan => (Pods::Routes, Between::Vxlan, Uplink::Nic),
            Self::Tun => (Pods::Routes, Between::Tun, Uplink::Nic),
            Self::TunPods => (Pods::Tun, Between::Underlay, Uplink::Nic),
            Self::TunUplink => (Pods::Routes, Between::Underlay, Uplink::Tun),
            Self::Unnumbered => (Pods::Routes, Between::Underlay, Uplink::Unnumbered),
            Self::TwoNics => (Pods::Routes, Between::Underlay, Uplink::TwoNics),
            Self::UplinkBridge => (Pods::Uplink, Between::Underlay, Uplink::Bridge),
        };
        Parts { pods, between, uplink }
    }

    /// Whether the node's NICs are Ethernet devices, so that XDP programs find frames on them.
    pub const fn has_ethernet(self) -> bool {
        !matches!(self.parts().uplink, Uplink::Tun)
    }

    /// What the agents of such nodes must be told: an uplink that is a veth, as only in a lab, looks like a
    /// pod's link where it has neither address nor route.
    pub const fn agent_flags(self) -> &'static [&'static str] {
        match self.parts().uplink {
            Uplink::Bridge => &["--workload-devices=veth*"],
            Uplink::Nic | Uplink::TwoNics | Uplink::Tun | Uplink::Unnumbered => &[],
        }
    }

    /// The MTU of pods, as a CNI sets it: what one packet between nodes can carry.
    pub(super) const fn pod_mtu(self) -> u32 {
        let parts = self.parts();
        match (parts.between, parts.uplink) {
            (Between::Vxlan | Between::Port, _) => VXLAN_MTU,
            (Between::Tun, _) | (_, Uplink::Tun) => TUN_MTU,
            (Between::Underlay, _) => 1500,
        }
    }
}

impl Uplink {
    /// The device that has the way to everybody.
    pub(super) const fn device(self) -> &'static str {
        match self {
            Self::Nic | Self::TwoNics | Self::Unnumbered => "eth0",
            Self::Bridge => "br0",
            Self::Tun => "tun0",
        }
    }

    /// Whether everybody reaches the node by the gateway only, even from the same network.
    pub(super) const fn behind_gateway(self) -> bool {
        matches!(self, Self::Tun | Self::Unnumbered)
    }
}

/// 1500 less the headers of IPv4, UDP, VXLAN and Ethernet.
pub(super) const VXLAN_MTU: u32 = 1450;
/// What `WireGuard` sets, which leaves room for IPv6 outside.
pub(super) const TUN_MTU: u32 = 1420;
