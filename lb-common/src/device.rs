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
    /// 1 when its frames have an Ethernet header, else 0.
    pub ethernet: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

impl DeviceValue {
    /// Whether frames of the device have an Ethernet header.
    #[inline(always)]
    pub const fn is_ethernet(&self) -> bool {
        self.ethernet != 0
    }
}

/// What a device is to us.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum DeviceRole {
    /// Known to the datapath, carries no program of ours: no packet of a Service passes it, or
    /// another device carries the programs in its place.
    Other = 0,
    /// Every device that is neither a pod's nor the loopback device and can carry IP: network
    /// interfaces, bridges, tunnels.
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

/// Number of entries of `LB_XDP_DEVICES`.
pub const XDP_DEVICES: u32 = 1024;

/// Value of `LB_XDP_DEVICES` (array; index: interface index modulo [`XDP_DEVICES`]): what XDP may do
/// at a device. A reader compares `ifindex` with the device that it asks for; 0 is an empty entry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct XdpDevice {
    /// Interface index of the device that has this entry.
    pub ifindex: u32,
    /// Its Ethernet address: frames to another one are not for this node.
    pub mac: MacAddr,
    /// Bits of [`XdpDevice::RECEIVES`] and [`XdpDevice::TRANSMITS`].
    pub flags: u8,
    /// Always zero.
    pub pad: u8,
}

impl XdpDevice {
    /// Our XDP program is attached, and may take frames to `mac` that arrive here.
    pub const RECEIVES: u8 = 1;
    /// The driver transmits frames that XDP redirects to the device (`NETDEV_XDP_ACT_NDO_XMIT`).
    pub const TRANSMITS: u8 = 2;

    /// The index of the entry for a device.
    #[inline(always)]
    pub const fn slot(ifindex: u32) -> u32 {
        ifindex % XDP_DEVICES
    }
}

const _: () = {
    assert!(size_of::<MacAddr>() == 6 && size_of::<DeviceValue>() == 24);
    assert!(size_of::<XdpDevice>() == 12);
};
