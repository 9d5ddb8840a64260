//! Services by name, so that whoever reads the maps can say which Service an entry belongs to.

use bytemuck::{Pod, Zeroable};

use crate::addr::Family;

/// Value of `LB_SERVICES` (hash, key: service id, u32): one port of one Service in one family.
///
/// Written by the agent for itself and for readers; the datapath never looks here.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceInfo {
    /// Namespace, UTF-8, filled with zeros (a DNS label: at most 63 bytes).
    pub namespace: [u8; 64],
    /// Name, UTF-8, filled with zeros (a DNS label: at most 63 bytes).
    pub name: [u8; 64],
    /// Name of the port, UTF-8, filled with zeros; empty when the port has none.
    pub port_name: [u8; 64],
    /// IANA protocol number.
    pub proto: u8,
    /// A [`Family`] by number (4 or 6).
    pub family: u8,
    /// Always zero.
    pub pad: u16,
}

impl ServiceInfo {
    /// The value for a Service port; `None` when a name is longer than 63 bytes or contains a NUL.
    pub fn new(ns: &str, name: &str, port_name: &str, proto: u8, family: Family) -> Option<Self> {
        Some(Self {
            namespace: padded(ns)?,
            name: padded(name)?,
            port_name: padded(port_name)?,
            proto,
            family: family as u8,
            pad: 0,
        })
    }

    /// The namespace; empty when it is not UTF-8.
    pub fn namespace(&self) -> &str {
        text(&self.namespace)
    }

    /// The name; empty when it is not UTF-8.
    pub fn name(&self) -> &str {
        text(&self.name)
    }

    /// The name of the port; empty when it has none or it is not UTF-8.
    pub fn port_name(&self) -> &str {
        text(&self.port_name)
    }
}

fn padded(text: &str) -> Option<[u8; 64]> {
    let mut out = [0; 64];
    if text.len() >= out.len() || text.as_bytes().contains(&0) {
        return None;
    }
    out[..text.len()].copy_from_slice(text.as_bytes());
    Some(out)
}

fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or("")
}

const _: () = assert!(size_of::<ServiceInfo>() == 196);
