//! The devices and addresses of this node, as they come and go.
//!
//! Invariant: everything downstream sees one consistent [`NodeState`] at a time; what a device is
//! to us is decided by [`role::classify`], a pure function, and nowhere else.

use std::net::IpAddr;

use lb_common::{DeviceRole, MacAddr};

/// A network device and what it is to us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// What it is to us.
    pub role: DeviceRole,
    /// Its addresses, in the order of the kernel, which begins with the primary one.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address; `None` when it has none.
    pub mac: Option<MacAddr>,
    /// Whether it is a physical device (or a virtual machine's): it hangs on a bus.
    pub physical: bool,
    /// Why it has its role, for people.
    pub why: &'static str,
}

impl Device {
    /// A device of which nothing but the name is known.
    pub fn named(name: &str, ifindex: u32) -> Self {
        Self {
            ifindex,
            name: name.to_owned(),
            role: DeviceRole::Other,
            addresses: Vec::new(),
            mac: None,
            physical: false,
            why: "",
        }
    }
}

/// The devices and addresses of this node at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeState {
    /// Devices that are up or have a role, by interface index.
    pub devices: Vec<Device>,
    /// All addresses of the node, loopback included; no multicast and no tentative ones.
    pub addresses: Vec<IpAddr>,
    /// The device of the best IPv4 default route.
    pub default4: Option<u32>,
    /// The device of the best IPv6 default route.
    pub default6: Option<u32>,
}
