//! Flows: what an established connection does to its packets.

use bytemuck::{Pod, Zeroable};

use crate::{
    addr::{Addr4, Addr6, Address},
    device::MacAddr,
    hook::Hook,
};

/// Key of the flow maps: the addresses and ports of a packet **as it arrives at the hook**.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address, network order.
    pub src: A,
    /// Destination address, network order.
    pub dst: A,
    /// Source port, host order.
    pub sport: u16,
    /// Destination port, host order.
    pub dport: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl<A: Address> FlowKey<A> {
    /// The key of packets in the opposite direction.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            pad: [0; 3],
        }
    }

    /// Writes the key of packets in the opposite direction into `key`, in place as
    /// [`FlowValue::write_other_key`] does.
    #[inline(always)]
    pub const fn write_reversed(&self, key: &mut Self) {
        key.src = self.dst;
        key.dst = self.src;
        key.sport = self.dport;
        key.dport = self.sport;
        key.proto = self.proto;
        key.pad = [0; 3];
    }
}

/// Value of the flow maps: what to make of a packet with this key.
///
/// Flows come in pairs. The *forward* entry is keyed by what the client sends; the *reverse* entry
/// by the forward entry's translated tuple turned round, so each key can be computed from the other
/// entry. A pair is created reverse first and removed together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FlowValue<A> {
    /// Source address after translation, network order.
    pub src: A,
    /// Destination address after translation, network order.
    pub dst: A,
    /// Source port after translation, host order.
    pub sport: u16,
    /// Destination port after translation, host order.
    pub dport: u16,
    /// Where to send the packet when [`Action::Forward`] or [`Action::ToHost`].
    pub next_hop: NextHop,
    /// Backend id; the backend names the Service.
    pub backend: u32,
    /// What the new addresses add to a checksum that covers them: the one's complement sum of the
    /// complemented old and the new ones, folded, 0 when that changes nothing (RFC 1624).
    pub address_delta: u16,
    /// The same for the ports.
    pub port_delta: u16,
    /// Low 32 bits of the kernel's jiffies when the last packet passed, or up to
    /// [`LAST_SEEN_GRAIN`] before.
    pub last_seen: u32,
    /// Bits of [`Seen`].
    pub seen: u8,
    /// Bit set of the hooks (`1 << Hook`) at which this entry applies; elsewhere the packet passes.
    pub hooks: u8,
    /// An [`Action`] by number.
    pub action: u8,
    /// 1 on the reverse entry of a pair, else 0.
    pub reverse: u8,
    /// Packets that used this entry.
    pub packets: u64,
    /// Bytes of those packets, from the IP header on.
    pub bytes: u64,
}

/// Jiffies within which a flow entry's [`FlowValue::last_seen`] is written once: a busy flow would
/// otherwise have its cache line bounce between the CPUs with every tick.
pub const LAST_SEEN_GRAIN: u32 = 256;

impl<A: Address> FlowValue<A> {
    /// The tuple of a packet after translation.
    #[inline(always)]
    pub const fn translated(&self, proto: u8) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto,
            pad: [0; 3],
        }
    }

    /// Writes the key of the other entry of the pair into `key`.
    ///
    /// In place, field by field: with IPv6 a key in passing is a twelfth of the kernel's stack.
    #[inline(always)]
    pub const fn write_other_key(&self, proto: u8, key: &mut FlowKey<A>) {
        key.src = self.dst;
        key.dst = self.src;
        key.sport = self.dport;
        key.dport = self.sport;
        key.proto = proto;
        key.pad = [0; 3];
    }

    /// Whether the entry applies at `hook`.
    #[inline(always)]
    pub const fn applies_at(&self, hook: Hook) -> bool {
        self.hooks & hook.bit() != 0
    }
}

/// A resolved next hop on an Ethernet device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct NextHop {
    /// Device to send by; 0 when there is none.
    pub ifindex: u32,
    /// The [`crate::Runtime`] generation in which this was resolved; any other means look again.
    pub generation: u32,
    /// Destination MAC address; first, so that both lie as in the Ethernet header.
    pub dmac: MacAddr,
    /// Source MAC address.
    pub smac: MacAddr,
}

/// Where a translated packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Action {
    /// On its way: up into the stack at ingress, out of the device at egress.
    Stack = 0,
    /// Out of the device of the next hop, past the stack.
    Forward = 1,
    /// Into the ingress of the device of the next hop, for a process of this node.
    ToHost = 2,
}

impl Action {
    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::Forward => "forward",
            Self::ToHost => "to-host",
        }
    }

    /// The action with this number.
    pub const fn from_u8(action: u8) -> Option<Self> {
        match action {
            0 => Some(Self::Stack),
            1 => Some(Self::Forward),
            2 => Some(Self::ToHost),
            _ => None,
        }
    }
}

/// What packets of one direction have shown so far: bits of [`FlowValue::seen`].
///
/// The life time of connections follows from both directions of a pair together; each direction writes only its
/// own bits.
pub struct Seen;

impl Seen {
    /// Any packet.
    pub const PACKET: u8 = 1;
    /// TCP: a packet with neither SYN, FIN nor RST. SCTP: a chunk that only an established association
    /// has, so from the backend a sign that the client answered from where it says it is.
    pub const ACK: u8 = 2;
    /// TCP: FIN. SCTP: SHUTDOWN or SHUTDOWN ACK.
    pub const FIN: u8 = 4;
    /// TCP: RST. SCTP: ABORT or SHUTDOWN COMPLETE.
    pub const RST: u8 = 8;
}

const _: () = {
    assert!(size_of::<FlowKey<Addr4>>() == 16 && size_of::<FlowKey<Addr6>>() == 40);
    assert!(size_of::<NextHop>() == 20);
    assert!(size_of::<FlowValue<Addr4>>() == 64 && size_of::<FlowValue<Addr6>>() == 88);
};
