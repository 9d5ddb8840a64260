//! Which layout the pinned maps have, and the few values that concern the whole datapath.

use bytemuck::{Pod, Zeroable};

/// Version of every layout and meaning in this crate. Pins of another version are never used.
pub const ABI_VERSION: u32 = 3;

/// Value of `LB_SCHEMA` (array of one): who made these maps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Schema {
    /// [`ABI_VERSION`] of the agent that created the maps.
    pub abi_version: u32,
    /// Address families by number of bits set: always 3 (IPv4 and IPv6).
    pub families: u32,
    /// Hash of the eBPF object that was loaded last, for `lb status`.
    pub object_hash: u64,
}

/// Value of `LB_RUNTIME` (array of one): what the agent changes while the datapath runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Runtime {
    /// Changes whenever a route, rule, neighbour, address or device changed, and with the flags:
    /// cached next hops of another generation are looked up again. Never 0; after 65535 comes 1.
    pub generation: u16,
    /// Bits: [`Runtime::SHORTCUT`], [`Runtime::SOURCE_RULES`].
    pub flags: u8,
    /// Always zero.
    pub pad: [u8; 5],
}

impl Runtime {
    /// Packets for another node may be redirected there past the stack. Without it they take the
    /// way of all packets, where the operator's filters, routing rules and IPsec see them.
    pub const SHORTCUT: u8 = 1;
    /// The node has routing rules that look at the source address: where a packet goes must be
    /// asked with the source that it will have.
    pub const SOURCE_RULES: u8 = 2;
}

/// Constants that the agent patches into the programs when it loads them (global `SETTINGS`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// Jiffies per second of this kernel.
    pub hz: u32,
    /// Seconds after which a UDP flow without reply is over.
    pub udp_unreplied: u32,
    /// Seconds after which a UDP flow with replies is over.
    pub udp_replied: u32,
    /// First source port for SNAT, host order.
    pub snat_first: u16,
    /// Number of source ports for SNAT, from `snat_first` on.
    pub snat_count: u16,
    /// 1 when the cgroup hooks serve every cgroup, 0 when only sockets of `host_netns_cookie`.
    pub socket_all: u32,
    /// Always zero.
    pub pad: u32,
    /// Cookie of the network namespace whose sockets the cgroup hooks serve.
    pub host_netns_cookie: u64,
}

const _: () = {
    assert!(size_of::<Schema>() == 16 && size_of::<Runtime>() == 8);
    assert!(size_of::<Settings>() == 32);
};
