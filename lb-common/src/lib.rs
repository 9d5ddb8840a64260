//! The ABI between the eBPF programs and the agent: what lies in the maps, byte for byte.
//!
//! Plain old data and no decisions. Rules that every type here keeps:
//! - **Addresses** are octets in network order, as on the wire.
//! - **Ports and all other numbers** are in host order, so that `bpftool map dump` prints them as
//!   people write them; the datapath swaps once while parsing.
//! - **No implicit padding**: every byte is a named field (the kernel hashes keys as bytes), proven
//!   by the size assertions beside each type.
//! - A change of any layout, name or meaning increments [`ABI_VERSION`].
#![no_std]

#[cfg(any(test, feature = "user"))]
extern crate std;

mod addr;
mod affinity;
mod backend;
mod device;
mod filter;
mod flow;
mod fragment;
mod frontend;
mod hook;
pub mod names;
mod pod;
mod range;
mod reason;
mod schema;
mod service;
mod sock;

pub use addr::{Addr4, Addr6, Address, Family};
pub use affinity::{AffinityKey, AffinityValue};
pub use backend::{BackendSets, BackendState, BackendStats, BackendValue, Location, NO_BACKEND};
pub use device::{DeviceRole, DeviceValue, MacAddr, XDP_DEVICES, XdpDevice};
pub use filter::{VIP_FILTER_WORDS, VipBit, vip_bit};
pub use flow::{Action, FlowKey, FlowValue, LAST_SEEN_GRAIN, NextHop, Seen};
pub use fragment::{FRAGMENT_SECONDS, FragmentKey, FragmentValue};
pub use frontend::{FrontendKey, FrontendKind, FrontendValue};
pub use hook::{HOOKS, Hook};
pub use range::{RANGE_SET_BITS, RangeKey};
pub use reason::{Class, REASON_SLOTS, Reason};
pub use schema::{ABI_VERSION, Runtime, Schema, Settings};
pub use service::ServiceInfo;
pub use sock::{SockDirection, SockKey, SockValue};

/// Transport protocol numbers (IANA), the values of every `proto` field.
pub mod proto {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}
