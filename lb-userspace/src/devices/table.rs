//! What the programs must know of devices: the map `LB_DEVICES`.

use std::{collections::BTreeMap, path::Path};

use lb_common::{Addr4, Addr6, DeviceRole, DeviceValue, names};

use super::{Device, NodeState};
use crate::maps::{
    bpf::Access,
    table::{Table, TableError},
};

/// Writes `LB_DEVICES`.
#[derive(Debug)]
pub struct DeviceTable {
    table: Table<u32, DeviceValue>,
    written: BTreeMap<u32, DeviceValue>,
}

impl DeviceTable {
    /// Opens the map in the directory `maps` and adopts what it says.
    ///
    /// # Errors
    ///
    /// When the map cannot be opened or read.
    pub fn open(maps: &Path) -> Result<Self, TableError> {
        let table = Table::open(maps, names::LB_DEVICES, Access::ReadWrite)?;
        let mut written = BTreeMap::new();
        table.for_each(|ifindex: &u32, value: &DeviceValue| {
            let _new = written.insert(*ifindex, *value);
        })?;
        Ok(Self { table, written })
    }

    /// Brings the map to this state of the node; returns how many entries changed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an entry; what was written before it stays.
    pub fn sync(&mut self, state: &NodeState) -> Result<usize, TableError> {
        let wanted = values(state);
        let mut changes = 0;
        for (ifindex, value) in &wanted {
            if self.written.get(ifindex) != Some(value) {
                self.table.put(ifindex, value).map_err(|error| error.at(ifindex))?;
                let _before = self.written.insert(*ifindex, *value);
                changes += 1;
            }
        }
        let gone: Vec<u32> =
            self.written.keys().filter(|ifindex| !wanted.contains_key(ifindex)).copied().collect();
        for ifindex in gone {
            let _there = self.table.delete(&ifindex).map_err(|error| error.at(ifindex))?;
            let _before = self.written.remove(&ifindex);
            changes += 1;
        }
        Ok(changes)
    }
}

/// The entries of `LB_DEVICES` for this state of the node.
pub fn values(state: &NodeState) -> BTreeMap<u32, DeviceValue> {
    state.devices.iter().map(|device| (device.ifindex, value(device, state))).collect()
}

/// Where the node is known by no address of an uplink, as with BGP unnumbered, the kernel masquerades with one
/// of the loopback device, or with any.
fn loopback_first(state: &NodeState) -> impl Iterator<Item = &Device> {
    let is_loopback = |device: &&Device| device.role == DeviceRole::Loopback;
    state.devices.iter().filter(is_loopback).chain(&state.devices)
}

fn value(device: &Device, state: &NodeState) -> DeviceValue {
    // Addresses of the loopback device say nothing about how others reach us.
    let own = device.role != DeviceRole::Loopback;
    // Where the node's address is on this device, it comes before the device's others.
    let snat4 = state
        .primary4
        .filter(|ip| device.addresses.contains(&(*ip).into()))
        .or_else(|| device.primary4().filter(|_| own))
        .or(state.primary4)
        .or_else(|| loopback_first(state).find_map(Device::primary4));
    let snat6 = state
        .primary6
        .filter(|ip| device.addresses.contains(&(*ip).into()))
        .or_else(|| device.primary6().filter(|_| own))
        .or(state.primary6)
        .or_else(|| loopback_first(state).find_map(Device::primary6));
    DeviceValue {
        snat4: snat4.map(Addr4::from).unwrap_or_default(),
        snat6: snat6.map(Addr6::from).unwrap_or_default(),
        role: device.role as u8,
        ethernet: u8::from(device.ethernet),
        pad: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn device(ifindex: u32, role: DeviceRole, addresses: &[&str]) -> Device {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        Device { role, addresses, ..Device::named("x", ifindex) }
    }

    fn snat(state: &NodeState, ifindex: u32) -> (String, String) {
        let value = values(state)[&ifindex];
        (value.snat4.to_string(), value.snat6.to_string())
    }

    #[test]
    fn packets_leave_with_an_address_of_their_device_or_else_of_the_node() {
        let state = NodeState {
            devices: vec![
                device(1, DeviceRole::Loopback, &["127.0.0.1", "::1", "203.0.113.1"]),
                device(
                    2,
                    DeviceRole::External,
                    &["192.0.2.9", "192.0.2.2", "fe80::2", "2001:db8::2"],
                ),
                device(3, DeviceRole::Workload, &["169.254.1.1", "fe80::3"]),
                device(4, DeviceRole::Other, &["10.0.0.1"]),
            ],
            addresses: Vec::<IpAddr>::new(),
            primary4: Some([192, 0, 2, 2].into()),
            primary6: Some("2001:db8::2".parse().expect("an address")),
        };
        let node = ("192.0.2.2".to_owned(), "2001:db8::2".to_owned());
        assert_eq!(snat(&state, 1), node);
        assert_eq!(snat(&state, 2), node, "the node's address comes before the device's first");
        assert_eq!(snat(&state, 3), node);
        assert_eq!(snat(&state, 4), ("10.0.0.1".to_owned(), node.1));
        let none = NodeState { primary4: None, primary6: None, ..state };
        assert_eq!(snat(&none, 3), ("203.0.113.1".to_owned(), "2001:db8::2".to_owned()));
    }
}
