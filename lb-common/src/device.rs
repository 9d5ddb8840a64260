//! Devices: what the datapath must know of a network interface.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr4, Addr6};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct MacAddr {
    /// Octets as on the wire.
    pub octets: [u8; 6],
}

/// Value of `LB_DEVICES` (key: interface index, u32): a device that carries our programs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DeviceValue {
    /// IPv4 address that packets translated to leave by this device take as their source, network
    /// order: the primary address of the device, or of the node where the device has none. Zero
    /// when there is none.
    pub snat4: Addr4,
    /// The same for IPv6.
    pub snat6: Addr6,
    /// A [`DeviceRole`] by number.
    pub role: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What a device is to us.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum DeviceRole {
    /// Known to the datapath, carries no program of ours (a bridge, say).
    Other = 0,
    /// Carries a node address or a default route, or tunnels to other nodes.
    External = 1,
    /// The host's end of a pod's link.
    Workload = 2,
    /// The loopback device.
    Loopback = 3,
}

impl DeviceRole {
    /// The role with this number.
    pub const fn from_u8(role: u8) -> Option<Self> {
        match role {
            0 => Some(Self::Other),
            1 => Some(Self::External),
            2 => Some(Self::Workload),
            3 => Some(Self::Loopback),
            _ => None,
        }
    }

    /// The name used in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::External => "external",
            Self::Workload => "workload",
            Self::Loopback => "loopback",
        }
    }
}

const _: () = assert!(size_of::<MacAddr>() == 6 && size_of::<DeviceValue>() == 24);
