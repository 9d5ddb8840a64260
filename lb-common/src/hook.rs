//! Hooks: where a packet or a socket call meets us.

/// A place in the kernel where one of our programs runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Hook {
    /// tc ingress of a workload device: what a pod sends.
    PodIn = 0,
    /// tc egress of a workload device: what a pod is sent.
    PodOut = 1,
    /// Ingress of an external device, tc or XDP: what arrives from outside.
    ExternalIn = 2,
    /// tc egress of an external device: what leaves the node.
    ExternalOut = 3,
    /// tc egress of the loopback device: what the node sends to its own addresses.
    LoopbackOut = 4,
    /// XDP ingress of an external device. Flow entries name [`Hook::ExternalIn`] for both.
    Xdp = 5,
    /// The cgroup hooks of sockets.
    Socket = 6,
}

/// Every hook, in the order of their numbers.
pub const HOOKS: [Hook; 7] = [
    Hook::PodIn,
    Hook::PodOut,
    Hook::ExternalIn,
    Hook::ExternalOut,
    Hook::LoopbackOut,
    Hook::Xdp,
    Hook::Socket,
];

impl Hook {
    /// The bit of this hook in [`crate::FlowValue::hooks`].
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The name used in tables, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodIn => "pod-in",
            Self::PodOut => "pod-out",
            Self::ExternalIn => "external-in",
            Self::ExternalOut => "external-out",
            Self::LoopbackOut => "loopback-out",
            Self::Xdp => "xdp",
            Self::Socket => "socket",
        }
    }
}
