//! Fragments: what became of a datagram's first one, for the others to follow.

use crate::{
    addr::{Addr4, Addr6},
    flow::NextHop,
};

/// Key of the fragment maps: a datagram that was cut (RFC 791 §3.2), as its fragments arrive at the hook.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address, network order.
    pub src: A,
    /// Destination address, network order.
    pub dst: A,
    /// Identification, host order.
    pub id: u32,
    /// IANA protocol number.
    pub proto: u8,
    /// The [`crate::Hook`] by number.
    pub hook: u8,
    /// Always zero.
    pub pad: u16,
}

/// Value of the fragment maps (LRU hash): what was made of the first fragment, apart from its ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FragmentValue<A> {
    /// Source address after translation, network order.
    pub src: A,
    /// Destination address after translation, network order.
    pub dst: A,
    /// Where it went, as in [`crate::FlowValue`].
    pub next_hop: NextHop,
    /// Low 32 bits of the kernel's jiffies when the first fragment passed.
    pub seen_at: u32,
    /// What the new addresses add to a checksum, as in [`crate::FlowValue`].
    pub address_delta: u16,
    /// An [`crate::Action`] by number.
    pub action: u8,
    /// Always zero.
    pub pad: u8,
}

/// Seconds for which fragments follow their first one: longer than receivers wait for the last
/// (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_SECONDS: u32 = 30;

const _: () = {
    assert!(size_of::<FragmentKey<Addr4>>() == 16 && size_of::<FragmentKey<Addr6>>() == 40);
    assert!(size_of::<FragmentValue<Addr4>>() == 36 && size_of::<FragmentValue<Addr6>>() == 60);
};
