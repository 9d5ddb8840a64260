//! Session affinity: which backend a client had last.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr4, Addr6};

/// Key of the affinity maps: one client of one Service port in one family, whatever frontend of it
/// the client uses.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// Service id.
    pub service: u32,
    /// Address of the client as seen where the flow starts, network order; the unspecified address
    /// for all processes of this node together, whose sockets have no address yet when they connect.
    pub client: A,
}

/// Value of the affinity maps (LRU hash).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityValue {
    /// Backend id. It counts only while the backend is a member of the set that is chosen from.
    pub backend: u32,
    /// Low 32 bits of the kernel's jiffies at the last new flow.
    pub last_used: u32,
}

const _: () = {
    assert!(size_of::<AffinityKey<Addr4>>() == 8 && size_of::<AffinityKey<Addr6>>() == 20);
    assert!(size_of::<AffinityValue>() == 8);
};
