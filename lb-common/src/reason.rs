//! Reasons: why a packet was passed, translated, refused or dropped.

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Left untouched.
    Pass,
    /// Rewritten and sent on its way.
    Translate,
    /// Answered with a TCP reset or an ICMP error.
    Refuse,
    /// Ours and wrong: discarded.
    Drop,
}

/// Slots per hook in `LB_REASONS` (per-CPU array of u64, index = hook × [`REASON_SLOTS`] + reason).
pub const REASON_SLOTS: u32 = 64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $class:ident, $text:literal;)*) => {
        /// Why a packet, or a socket call, met its fate: index into `LB_REASONS`, metric label, and
        /// word in every trace line.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name used in tables, JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What became of the packet.
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }
        }
    };
}

reasons! {
    /// Neither a flow of ours nor addressed to a frontend.
    NotService = 0, Pass, "not-service";
    /// Neither IPv4 nor IPv6: ARP, VLAN-tagged frames, anything else.
    NotIp = 1, Pass, "not-ip";
    /// None of TCP, UDP and SCTP.
    OtherProtocol = 2, Pass, "other-protocol";
    /// Shorter than its headers say.
    Truncated = 3, Pass, "truncated";
    /// A fragment of which nobody knows whose it is: it came before the first, which alone has ports, or its
    /// datagram is not ours; any fragment of IPv6 or SCTP.
    Fragment = 4, Pass, "fragment";
    /// An IPv4 header with options.
    Ipv4Options = 5, Pass, "ipv4-options";
    /// An IPv6 packet with extension headers.
    Ipv6Extension = 6, Pass, "ipv6-extension";
    /// An ICMP or ICMPv6 message.
    Icmp = 7, Pass, "icmp";
    /// A frame for another machine, or for many, that a switch or bridge showed to this node too.
    OtherHost = 8, Pass, "other-host";
    /// A malformed header: wrong version, a length below the minimum, an SCTP INIT under a tag.
    Malformed = 9, Pass, "malformed";
    /// XDP leaves the packet to the tc hook of the same device: it is for the stack, or needs what
    /// only tc can do.
    LeftToTc = 11, Pass, "left-to-tc";
    /// A TCP or SCTP packet that neither belongs to a flow of ours nor starts one: perhaps a connection of
    /// the node itself, or one that another Service proxy translates.
    NoFlow = 13, Pass, "no-flow";
    /// A datagram to a NodePort that answers a socket of the node: the node sent first, from a port
    /// that happens to be a node port too.
    HostSocket = 14, Pass, "host-socket";
    /// A socket names a frontend whose verdict depends on the source address, which a socket has not
    /// yet: its packets are judged at the device.
    LeftToDevice = 15, Pass, "left-to-device";
    /// First packet of a flow.
    NewFlow = 16, Translate, "new-flow";
    /// Later packet, client to backend.
    Forward = 17, Translate, "forward";
    /// Packet of a reply.
    Reply = 18, Translate, "reply";
    /// A socket's destination was rewritten.
    SocketConnect = 19, Translate, "socket-connect";
    /// The address that a socket reports was rewritten back.
    SocketReply = 20, Translate, "socket-reply";
    /// An ICMP error about a packet of a flow, translated back.
    Error = 21, Translate, "icmp-error";
    /// A fragment that followed the first one of its datagram.
    Following = 22, Translate, "fragment-following";
    /// The Service has no usable backend.
    NoBackend = 32, Refuse, "no-backend";
    /// The address belongs to Services, none of which has this port.
    UnknownPort = 33, Refuse, "unknown-port";
    /// A TCP or SCTP packet of no known flow is about to leave the node for a Service's address.
    StrayPacket = 34, Refuse, "stray-packet";
    /// A protocol that Services do not have (a ping, say) to the address of Services.
    UnknownProtocol = 35, Refuse, "unknown-protocol";
    /// The flow map is full (`--max-flows`).
    FlowTableFull = 48, Drop, "flow-table-full";
    /// No free source port towards this backend (`--snat-ports`).
    SnatPortsExhausted = 49, Drop, "snat-ports-exhausted";
    /// A TCP reset, or the end of an SCTP association, for a flow that we do not know.
    StrayReset = 51, Drop, "stray-reset";
    /// A slot or a backend that a frontend names is missing: a defect, never expected.
    Inconsistent = 52, Drop, "inconsistent";
    /// The packet could not be rewritten: a helper refused.
    RewriteFailed = 53, Drop, "rewrite-failed";
    /// No answer could be built for a packet that must be refused.
    RefuseFailed = 54, Drop, "refuse-failed";
    /// A flow of ours that cannot leave: no route for what the node itself sent, or no address to
    /// translate to.
    NoRoute = 55, Drop, "no-route";
    /// The policy is Local and no backend is on this node, though there are some elsewhere.
    NoLocalBackend = 56, Drop, "no-local-backend";
    /// The client is in none of the Service's source ranges.
    SourceRange = 57, Drop, "source-range";
    /// More was to be refused than is answered per second.
    RefuseLimit = 58, Drop, "refuse-limit";
    /// A source that no honest sender has: of a group, of loopback, or the node's own from outside.
    BadSource = 59, Drop, "bad-source";
}

impl Reason {
    /// The reason with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u8 == number)
    }
}
