//! A parsed packet.

use lb_common::{Address, AffinityKey, FlowKey, FlowValue, FrontendValue, Hook, Seen, proto};

use crate::header::{sctp_chunk, tcp_flags};

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Place {
    /// The device.
    pub ifindex: u32,
    /// The hook.
    pub hook: Hook,
    /// Whether a bridge of the node passes the frame on by its Ethernet address: the node itself neither
    /// sent nor routed it.
    pub bridged: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self::new(Hook::PodIn, 0)
    }
}

impl Place {
    /// At `hook` of the device `ifindex`.
    #[inline(always)]
    pub const fn new(hook: Hook, ifindex: u32) -> Self {
        Self { ifindex, hook, bridged: false }
    }

    /// The hook by the name that flow entries give it: XDP and tc serve the same flows.
    #[inline(always)]
    pub(crate) const fn flow_hook(&self) -> Hook {
        match self.hook {
            Hook::Xdp => Hook::ExternalIn,
            Hook::PodIn
            | Hook::PodOut
            | Hook::ExternalIn
            | Hook::ExternalOut
            | Hook::LoopbackOut
            | Hook::Socket => self.hook,
        }
    }

    #[inline(always)]
    pub(crate) const fn is_xdp(&self) -> bool {
        matches!(self.hook, Hook::Xdp)
    }

    /// Whether packets that are seen here may take the shortcut: only what comes from outside. What pods
    /// send goes by the stack, where policies see it.
    #[inline(always)]
    pub(crate) const fn has_shortcut(&self) -> bool {
        matches!(self.hook, Hook::ExternalIn | Hook::Xdp)
    }
}

/// Memory for one run of the pipeline, reused from packet to packet: nothing in it outlives one.
///
/// It is a parameter because the kernel's stack (512 bytes) is too small for it with IPv6.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Work<A> {
    /// Where the packet is seen.
    pub place: Place,
    /// The packet.
    pub packet: Packet<A>,
    /// Its flow entry, or the forward entry that is being made.
    pub flow: FlowValue<A>,
    /// The reverse entry that is being made.
    pub reverse: FlowValue<A>,
    /// The key of the other entry of the pair.
    pub other: FlowKey<A>,
    /// The key of an entry that is removed.
    pub scratch: FlowKey<A>,
    /// The addresses of an error that quotes the packet.
    pub outer: FlowKey<A>,
    /// The frontend of a packet that starts a flow.
    pub frontend: FrontendValue,
    /// The slots from which its backend is chosen.
    pub set: Set,
    /// Who sent it, where the Service has session affinity.
    pub client: AffinityKey<A>,
}

/// A range of slots, one set of backends of a Service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Set {
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots.
    pub len: u32,
    /// The bit of the set, see [`lb_common::BackendSets`].
    pub bit: u8,
}

/// What the datapath needs to know of a packet; the rest stays in the frame.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Packet<A> {
    /// Addresses, ports and protocol.
    pub tuple: FlowKey<A>,
    /// Control bits of TCP; 0 for other protocols.
    pub tcp_flags: u8,
    /// Type of the first chunk of SCTP; 0 for other protocols.
    pub chunk: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Length in bytes, from the IP header on.
    pub len: u32,
    /// Identification of the datagram that this is a fragment of, host order.
    pub id: u32,
    /// Which part of a datagram it is.
    pub part: Part,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// Its first fragment, which has the ports.
    First,
    /// Another fragment.
    Later,
}

impl<A: Address> Packet<A> {
    /// Whether this asks for a new TCP connection or SCTP association.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
            || self.chunk == sctp_chunk::INIT
    }

    /// Whether this is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.tuple.proto == proto::TCP
    }

    /// Whether this is UDP, which neither opens nor ends a flow.
    #[inline(always)]
    pub const fn is_udp(&self) -> bool {
        self.tuple.proto == proto::UDP
    }

    /// Whether this is SCTP.
    #[inline(always)]
    pub const fn is_sctp(&self) -> bool {
        self.tuple.proto == proto::SCTP
    }

    /// Whether this ends its flow at once, and so is never answered: a TCP reset, an SCTP ABORT or
    /// SHUTDOWN COMPLETE.
    #[inline(always)]
    pub const fn is_reset(&self) -> bool {
        self.tcp_flags & tcp_flags::RST != 0
            || matches!(self.chunk, sctp_chunk::ABORT | sctp_chunk::SHUTDOWN_COMPLETE)
    }

    /// What this packet shows of its direction, in the bits of [`Seen`].
    #[inline(always)]
    pub const fn shows(&self) -> u8 {
        if self.is_sctp() {
            return Seen::PACKET
                | match self.chunk {
                    sctp_chunk::INIT | sctp_chunk::INIT_ACK | sctp_chunk::COOKIE_ECHO => 0,
                    sctp_chunk::SHUTDOWN | sctp_chunk::SHUTDOWN_ACK => Seen::FIN,
                    sctp_chunk::ABORT | sctp_chunk::SHUTDOWN_COMPLETE => Seen::RST,
                    _ => Seen::ACK,
                };
        }
        let mut seen = Seen::PACKET;
        if self.tcp_flags & tcp_flags::FIN != 0 {
            seen |= Seen::FIN;
        }
        if self.tcp_flags & tcp_flags::RST != 0 {
            seen |= Seen::RST;
        }
        if self.tcp_flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) == 0 {
            seen |= Seen::ACK;
        }
        seen
    }
}
