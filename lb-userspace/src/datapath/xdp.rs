//! On which devices XDP runs, and the map that tells it about them.
//!
//! Nothing depends on XDP: what it does not take, tc serves. Invariant: an entry says that a device
//! receives only while our program is attached to it, and names the address that it has now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::Path,
};

use lb_common::{DeviceRole, XdpDevice, names};

use super::links::{LinkError, XdpFlavour};
use crate::{
    config::XdpMode,
    devices::Device,
    maps::{
        bpf::Access,
        table::{Table, TableError},
    },
};

/// Why XDP does not run on an external device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NoXdp {
    /// `--xdp=off`.
    Off,
    /// Only physical devices have it where the operator does not say otherwise.
    NotPhysical,
    /// The program reads Ethernet frames.
    NoEthernet,
    /// Its entry in `LB_XDP_DEVICES` belongs to another device, of this name.
    SameEntry(String),
    /// It could not be attached.
    Refused(String),
}

impl fmt::Display for NoXdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::NotPhysical => f.write_str("not physical"),
            Self::NoEthernet => f.write_str("no Ethernet header"),
            Self::SameEntry(name) => write!(f, "shares its entry with {name}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// The kernel's refusal to attach XDP.
pub(super) fn refused(error: &LinkError) -> NoXdp {
    NoXdp::Refused(match error.source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is there".to_owned(),
        Some(libc::EOPNOTSUPP) => "the driver cannot run it".to_owned(),
        Some(libc::ERANGE) => "the MTU is too large for it".to_owned(),
        _ => error.source.to_string(),
    })
}

/// How XDP shall run on a device that is external, or why not.
///
/// # Errors
///
/// Why not.
pub fn flavour(device: &Device, mode: XdpMode) -> Result<XdpFlavour, NoXdp> {
    let flavour = match mode {
        XdpMode::Off => return Err(NoXdp::Off),
        XdpMode::Auto if !device.physical => return Err(NoXdp::NotPhysical),
        XdpMode::Auto | XdpMode::Native => XdpFlavour::Native,
        XdpMode::Generic => XdpFlavour::Generic,
    };
    if !device.ethernet {
        return Err(NoXdp::NoEthernet);
    }
    Ok(flavour)
}

/// What becomes of each external device: where XDP shall run on it, or why not. Of those that fall
/// on one entry of `LB_XDP_DEVICES` the one with the lowest index has it.
pub fn choose(devices: &[Device], mode: XdpMode) -> BTreeMap<u32, Result<XdpFlavour, NoXdp>> {
    let holders = holders(devices, mode);
    let external = devices.iter().filter(|device| device.role == DeviceRole::External);
    external
        .map(|device| {
            let holder = holders.get(&XdpDevice::slot(device.ifindex));
            let choice = flavour(device, mode).and_then(|flavour| match holder {
                Some(holder) if holder.ifindex != device.ifindex => {
                    Err(NoXdp::SameEntry(holder.name.clone()))
                }
                Some(_) | None => Ok(flavour),
            });
            (device.ifindex, choice)
        })
        .collect()
}

/// The device that has each entry.
fn holders(devices: &[Device], mode: XdpMode) -> BTreeMap<u32, &Device> {
    let mut holders: BTreeMap<u32, &Device> = BTreeMap::new();
    for device in devices {
        let runs = flavour(device, mode).is_ok();
        let concerned = mode != XdpMode::Off && (runs || device.transmits);
        if device.role == DeviceRole::External && device.ethernet && concerned {
            let holder = holders.entry(XdpDevice::slot(device.ifindex)).or_insert(device);
            if device.ifindex < holder.ifindex {
                *holder = device;
            }
        }
    }
    holders
}

/// The entries for these devices, of which those in `receiving` carry our program.
pub fn entries(
    devices: &[Device],
    mode: XdpMode,
    receiving: &BTreeSet<u32>,
) -> BTreeMap<u32, XdpDevice> {
    let mut entries = BTreeMap::new();
    for (slot, device) in holders(devices, mode) {
        let Some(mac) = device.mac else { continue };
        let receives = if receiving.contains(&device.ifindex) { XdpDevice::RECEIVES } else { 0 };
        let transmits = if device.transmits { XdpDevice::TRANSMITS } else { 0 };
        let flags = receives | transmits;
        if flags != 0 {
            let entry = XdpDevice { ifindex: device.ifindex, mac, flags, pad: 0 };
            let _new = entries.insert(slot, entry);
        }
    }
    entries
}

/// Writes `LB_XDP_DEVICES`.
#[derive(Debug)]
pub struct XdpTable {
    table: Table<u32, XdpDevice>,
    written: BTreeMap<u32, XdpDevice>,
}

impl XdpTable {
    /// Opens the map in the directory `maps` and adopts what it says.
    ///
    /// # Errors
    ///
    /// When the map cannot be opened or read.
    pub fn open(maps: &Path) -> Result<Self, TableError> {
        let table = Table::open(maps, names::LB_XDP_DEVICES, Access::ReadWrite)?;
        let mut written = BTreeMap::new();
        table.for_each(|slot: &u32, value: &XdpDevice| {
            if *value != XdpDevice::default() {
                let _new = written.insert(*slot, *value);
            }
        })?;
        Ok(Self { table, written })
    }

    /// Brings the map to these entries.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an entry; what was written before it stays.
    pub fn sync(&mut self, wanted: &BTreeMap<u32, XdpDevice>) -> io::Result<()> {
        let slots: BTreeSet<u32> = self.written.keys().chain(wanted.keys()).copied().collect();
        for slot in slots {
            let value = wanted.get(&slot).copied().unwrap_or_default();
            if self.written.get(&slot).copied().unwrap_or_default() == value {
                continue;
            }
            self.table.put(&slot, &value).map_err(|error| io::Error::other(error.at(slot)))?;
            let _before = match wanted.contains_key(&slot) {
                true => self.written.insert(slot, value),
                false => self.written.remove(&slot),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{MacAddr, XDP_DEVICES};

    use super::*;

    fn device(ifindex: u32) -> Device {
        let mac = u8::try_from(ifindex % 256).expect("below 256");
        Device {
            role: DeviceRole::External,
            mac: Some(MacAddr { octets: [2, 0, 0, 0, 0, mac] }),
            ..Device::named(&format!("d{ifindex}"), ifindex)
        }
    }

    #[test]
    fn auto_is_for_physical_devices_and_the_others_for_all_with_ethernet_header() {
        let nic = Device { physical: true, ..device(2) };
        let tun = Device { ethernet: false, ..device(3) };
        let cases = [
            (&nic, XdpMode::Auto, Ok(XdpFlavour::Native)),
            (&nic, XdpMode::Native, Ok(XdpFlavour::Native)),
            (&nic, XdpMode::Generic, Ok(XdpFlavour::Generic)),
            (&nic, XdpMode::Off, Err(NoXdp::Off)),
            (&device(2), XdpMode::Auto, Err(NoXdp::NotPhysical)),
            (&device(2), XdpMode::Native, Ok(XdpFlavour::Native)),
            (&tun, XdpMode::Auto, Err(NoXdp::NotPhysical)),
            (&tun, XdpMode::Generic, Err(NoXdp::NoEthernet)),
        ];
        for (device, mode, expected) in cases {
            assert_eq!(flavour(device, mode), expected, "{device:?} {mode:?}");
        }
    }

    #[test]
    fn of_two_devices_on_one_entry_the_first_has_it() {
        let devices = [device(5 + XDP_DEVICES), device(5), device(6)];
        let choice = choose(&devices, XdpMode::Native);
        assert_eq!(choice[&5], Ok(XdpFlavour::Native));
        assert_eq!(choice[&6], Ok(XdpFlavour::Native));
        assert_eq!(choice[&(5 + XDP_DEVICES)], Err(NoXdp::SameEntry("d5".to_owned())));
        let all = BTreeSet::from([5, 6, 5 + XDP_DEVICES]);
        let entries = entries(&devices, XdpMode::Native, &all);
        assert_eq!(
            entries.iter().map(|(slot, e)| (*slot, e.ifindex)).collect::<Vec<_>>(),
            [(5, 5), (6, 6)]
        );
    }

    #[test]
    fn entries_say_who_receives_and_who_transmits() {
        let sender = Device { transmits: true, ..device(3) };
        let pod = Device { role: DeviceRole::Workload, transmits: true, ..device(4) };
        let tunnel = Device { ethernet: false, transmits: true, ..device(7) };
        let devices = [device(2), sender, pod, device(5), tunnel];
        let receiving = BTreeSet::from([2]);
        let entries = entries(&devices, XdpMode::Native, &receiving);
        let flags: Vec<_> = entries.values().map(|e| (e.ifindex, e.flags)).collect();
        assert_eq!(flags, [(2, XdpDevice::RECEIVES), (3, XdpDevice::TRANSMITS)]);
        assert_eq!(entries[&2].mac.octets, [2, 0, 0, 0, 0, 2]);
        assert!(super::entries(&devices, XdpMode::Off, &BTreeSet::new()).is_empty());
    }
}
