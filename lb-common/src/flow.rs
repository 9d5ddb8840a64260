//! Flows: what an established connection does to its packets.

use bytemuck::{Pod, Zeroable};

use crate::{
    addr::{Addr4, Addr6, Address},
    device::MacAddr,
    hook::Hook,
};

/// Key of the flow maps: the addresses and ports of a packet **as it arrives at the hook**, and the hook.
///
/// The hook is part of the key because the same addresses and ports mean different things at different
/// edges of the node: what a pod sends is not what somebody outside sends in its name.
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
    /// The [`crate::Hook`] by number at which packets with these addresses and ports are translated so.
    pub hook: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

impl<A: Address> FlowKey<A> {
    /// Addresses and ports of packets in the opposite direction, at the same hook.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            hook: self.hook,
            pad: [0; 2],
        }
    }

    /// Writes the key of packets in the opposite direction, as they meet the [`crate::Hook`] with the number
    /// `hook`, into `key`, in place as [`FlowValue::write_other_key`] does.
    #[inline(always)]
    pub const fn write_reversed(&self, hook: u8, key: &mut Self) {
        key.src = self.dst;
        key.dst = self.src;
        key.sport = self.dport;
        key.dport = self.sport;
        key.proto = self.proto;
        key.hook = hook;
        key.pad = [0; 2];
    }
}

/// Value of the flow maps: what to make of a packet with this key.
///
/// Flows come in pairs. The *forward* entry is keyed by what the client sends; the *reverse* entry
/// by the forward entry's translated tuple turned round, so each key can be computed from the other
/// entry. A pair is created reverse first and removed together.
///
/// A flow that is balanced *and* masqueraded ([`Action::Masquerade`]) does both at once where its packets
/// take the shortcut, and that is what its pair says. On the road each direction is translated in two
/// legs: the destination where the packet enters, by the pair itself, which leaves the source alone then;
/// the source where it leaves, by an entry of its own, the *second leg*. Both second legs are made
/// when the flow takes the road for the first time; [`FlowValue::road_port`] tells that they are there.
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
    /// Where to send the packet when the [`Action`] is not `Stack`. With `Masquerade`: the shortcut; device
    /// 0 means that there is none in this generation.
    pub next_hop: NextHop,
    /// Backend id; the backend names the Service.
    pub backend: u32,
    /// What the new addresses add to a checksum that covers them: the one's complement sum of the
    /// complemented old and the new ones, folded, 0 when that changes nothing (RFC 1624).
    pub address_delta: u16,
    /// The same for the ports.
    pub port_delta: u16,
    /// Low 32 bits of the kernel's jiffies when the last packet passed, or up to
    /// [`LAST_SEEN_GRAIN`] before. Of second legs: when they were made.
    pub last_seen: u32,
    /// Bits of [`Seen`]; 0 in second legs.
    pub seen: u8,
    /// An [`Action`] by number.
    pub action: u8,
    /// 1 when packets of the backend have this key, 0 when those of the client have.
    pub reverse: u8,
    /// The [`crate::Hook`] by number in the key of the other entry of the pair.
    pub other_hook: u8,
    /// Packets that used this entry; starts again from 0 after 2^32. 0 in second legs.
    pub packets: u32,
    /// The client's port between the two legs of the road, host order: its own, where no other flow between
    /// the same ends has it. 0 when there are no second legs.
    pub road_port: u16,
    /// 1 in an entry that is the second leg of its direction, else 0.
    pub second: u8,
    /// Always zero.
    pub pad: u8,
    /// Bytes of those packets, from the IP header on.
    pub bytes: u64,
}

/// Jiffies within which a flow entry's [`FlowValue::last_seen`] is written once: a busy flow would
/// otherwise have its cache line bounce between the CPUs with every tick.
pub const LAST_SEEN_GRAIN: u32 = 256;

impl<A: Address> FlowValue<A> {
    /// The tuple of a packet after translation, as the hook of the other entry of the pair.
    #[inline(always)]
    pub const fn translated(&self, proto: u8) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto,
            hook: self.other_hook,
            pad: [0; 2],
        }
    }

    /// The key of the other entry of the pair; of a second leg, that of the entry whose packets it
    /// translates back.
    pub const fn other_key(&self, proto: u8) -> FlowKey<A> {
        self.translated(proto).reversed()
    }

    /// The keys of both second legs, in the direction of this forward entry, whose key is `key`, and of its
    /// replies; `None` where the flow has none.
    #[inline(always)]
    pub const fn second_legs(&self, key: &FlowKey<A>) -> Option<[FlowKey<A>; 2]> {
        if self.road_port == 0 {
            return None;
        }
        let on = FlowKey {
            src: key.src,
            dst: self.dst,
            sport: self.road_port,
            dport: self.dport,
            proto: key.proto,
            hook: Hook::opposite_of(self.other_hook),
            pad: [0; 2],
        };
        let mut back = on.reversed();
        back.hook = Hook::opposite_of(key.hook);
        Some([on, back])
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
        key.hook = self.other_hook;
        key.pad = [0; 2];
    }
}

/// A resolved next hop on an Ethernet device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct NextHop {
    /// Device to send by; 0 when there is none.
    pub ifindex: u32,
    /// The [`crate::Runtime`] generation in which this was resolved; any other means look again, and 0 that
    /// nobody has looked yet.
    pub generation: u16,
    /// Largest packet that fits, in bytes from the IP header on.
    pub mtu: u16,
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
    /// By the shortcut, out of the device of the next hop past the stack, or by the road: up into the stack
    /// with its own source address, which is replaced where it leaves.
    Masquerade = 1,
    /// Into the ingress of the device of the next hop, for a process of this node.
    ToHost = 2,
    /// Out of the device of the next hop: the node itself sent it, and its stack has routed it already.
    Redirect = 3,
}

impl Action {
    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::Masquerade => "masquerade",
            Self::ToHost => "to-host",
            Self::Redirect => "redirect",
        }
    }

    /// The action with this number.
    pub const fn from_u8(action: u8) -> Option<Self> {
        match action {
            0 => Some(Self::Stack),
            1 => Some(Self::Masquerade),
            2 => Some(Self::ToHost),
            3 => Some(Self::Redirect),
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
