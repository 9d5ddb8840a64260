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
    /// The hook with this number.
    pub const fn from_u8(hook: u8) -> Option<Self> {
        if (hook as usize) < HOOKS.len() { Some(HOOKS[hook as usize]) } else { None }
    }

    /// Where replies pass to what is seen at this hook: the other side of the same device. What the node
    /// sends to itself has one side only.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::PodIn => Self::PodOut,
            Self::PodOut => Self::PodIn,
            Self::ExternalIn | Self::Xdp => Self::ExternalOut,
            Self::ExternalOut => Self::ExternalIn,
            Self::LoopbackOut | Self::Socket => self,
        }
    }

    /// [`opposite`](Self::opposite) by numbers.
    #[inline(always)]
    pub const fn opposite_of(hook: u8) -> u8 {
        // The two sides of a device have numbers that differ in the last bit.
        if hook < Self::LoopbackOut as u8 { hook ^ 1 } else { hook }
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
