//! What a decision may ask and change: the maps, and the node around them.

use lb_common::{
    Address, AffinityKey, AffinityValue, BackendValue, DeviceValue, FlowKey, FlowValue,
    FragmentKey, FragmentValue, FrontendKey, FrontendValue, Hook, NextHop, Reason, Settings,
    SockKey, SockValue,
};

/// The maps, as far as one address family needs them.
///
/// Nothing here can fail except for want of an entry or of room, so a decision has no error path
/// besides its reasons.
pub trait Tables<A: Address> {
    /// A flow entry that was found, to be read and touched in place.
    type Flow: FlowSlot<A>;

    /// The flow of packets with this key.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Flow>;

    /// Adds a flow, never replacing one.
    ///
    /// # Errors
    /// [`InsertError::Exists`] when the key is taken, [`InsertError::Full`] when the map is full.
    fn insert_flow(&self, key: &FlowKey<A>, value: &FlowValue<A>) -> Result<(), InsertError>;

    /// Removes a flow, if it exists.
    fn remove_flow(&self, key: &FlowKey<A>);

    /// A word of the VIP filter.
    fn vip_filter(&self, word: u32) -> u64;

    /// A frontend, or a VIP marker.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendValue>;

    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;

    /// A backend.
    fn backend(&self, id: u32) -> Option<BackendValue<A>>;

    /// Adds to the counters of a backend; `bytes` from the IP header on.
    fn count_backend(&self, id: u32, flows: u64, packets: u64, bytes: u64);

    /// What was made of the first fragment of a datagram.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentValue<A>>;

    /// Remembers what was made of a first fragment, replacing an older one; the map makes room by itself.
    fn put_fragment(&self, key: &FragmentKey<A>, value: &FragmentValue<A>);

    /// Forgets a first fragment.
    fn remove_fragment(&self, key: &FragmentKey<A>);

    /// The backend that a client had last.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<AffinityValue>;

    /// Remembers the backend of a client, replacing an older one; the map makes room by itself.
    fn put_affinity(&self, key: &AffinityKey<A>, value: &AffinityValue);

    /// Whether a client is in one of the ranges of a set.
    fn in_range(&self, set: u32, client: &A) -> bool;

    /// The translation of a socket.
    fn sock(&self, key: &SockKey<A>) -> Option<SockValue<A>>;

    /// Stores the translation of a socket, replacing an older one; the map makes room by itself.
    fn put_sock(&self, key: &SockKey<A>, value: &SockValue<A>);
}

/// One flow entry in place.
pub trait FlowSlot<A: Address> {
    /// The entry as it is now.
    fn value(&self) -> FlowValue<A>;

    /// Accounts one packet of `bytes` and stores what it showed.
    fn touch(&self, seen: u8, last_seen: u32, bytes: u64);

    /// Replaces the cached next hop.
    fn set_next_hop(&self, next_hop: NextHop);

    /// Says that the flow has second legs now, under this port of the client.
    fn set_road_port(&self, port: u16);
}

/// Why a flow was not added.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertError {
    /// The key is taken.
    Exists,
    /// The map has no room.
    Full,
}

/// The node around the packet.
pub trait Env<A: Address> {
    /// Low 32 bits of the kernel's jiffies.
    fn now(&self) -> u32;

    /// A random number.
    fn random(&self) -> u32;

    /// The constants that the agent set.
    fn settings(&self) -> Settings;

    /// The current generation of next hops; never 0.
    fn generation(&self) -> u16;

    /// Whether packets may be redirected past the stack, as the agent last said.
    fn may_redirect(&self) -> bool;

    /// Whether the node has routing rules that look at the source address.
    fn routes_by_source(&self) -> bool;

    /// The way to `tuple.dst` for a packet that is seen on device `ifindex`.
    fn route(&self, ifindex: u32, tuple: &FlowKey<A>) -> Route;

    /// Whether XDP may send frames out of another device than that which they came in by: whether its driver
    /// transmits them.
    fn transmits(&self, ifindex: u32) -> bool;

    /// What is known of a device; all zero for one that is not known.
    fn device(&self, ifindex: u32) -> DeviceValue;

    /// Whether a UDP socket of the node is connected to the sender of `tuple`, so that the packet is
    /// its answer.
    fn is_awaited(&self, tuple: &FlowKey<A>) -> bool;

    /// Takes one of the refusals that this CPU may send now; `false` when there is none.
    fn may_refuse(&self) -> bool;

    /// Told once for each packet that had a tuple what became of it, with the entry that it was
    /// rewritten by.
    fn observe(&self, hook: Hook, tuple: &FlowKey<A>, reason: Reason, flow: Option<&FlowValue<A>>);
}

/// Where the node would send a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// To itself.
    Local,
    /// By this device to this neighbour.
    Via(NextHop),
    /// By this device; the neighbour is not known yet.
    Unresolved(u32),
    /// The look-up does not say: there is no route, forwarding is off, or the route has an encapsulation.
    /// Only the stack knows.
    Unknown,
}

impl Route {
    /// The device, or 0 when there is none.
    #[inline(always)]
    pub const fn ifindex(&self) -> u32 {
        match self {
            Self::Via(hop) => hop.ifindex,
            Self::Unresolved(ifindex) => *ifindex,
            Self::Local | Self::Unknown => 0,
        }
    }
}
