//! Which program runs at which hook, by the role of the device.

use lb_common::{DeviceRole, names};

use super::links::{Direction, XdpFlavour};
use crate::devices::Device;

/// A hook of a device.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// tc.
    Tc(Direction),
    /// XDP.
    Xdp(XdpFlavour),
}

impl Place {
    /// The name in pins, tables and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tc(Direction::Ingress) => "tc-in",
            Self::Tc(Direction::Egress) => "tc-out",
            Self::Xdp(XdpFlavour::Native) => "xdp-native",
            Self::Xdp(XdpFlavour::Generic) => "xdp-generic",
        }
    }
}

/// A program that shall run at a hook of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The hook.
    pub place: Place,
    /// Name of the program.
    pub program: &'static str,
}

/// What shall run on a device, in the order in which it is to be attached; `xdp` says how XDP runs,
/// if it does.
pub fn wanted(device: &Device, xdp: Option<XdpFlavour>) -> Vec<Wanted> {
    let tc = |direction, program| Wanted { place: Place::Tc(direction), program };
    // What undoes a translation comes first: a node that already carries traffic would lose the
    // first answers.
    let both = |outgoing, incoming| {
        vec![tc(Direction::Egress, outgoing), tc(Direction::Ingress, incoming)]
    };
    match (device.role, device.ethernet) {
        (DeviceRole::Other, _) => Vec::new(),
        (DeviceRole::Loopback, _) => vec![tc(Direction::Egress, names::LB_LO_OUT)],
        (DeviceRole::Workload, true) => both(names::LB_POD_OUT, names::LB_POD_IN),
        (DeviceRole::Workload, false) => both(names::LB_POD_OUT_L3, names::LB_POD_IN_L3),
        (DeviceRole::External, false) => both(names::LB_EXT_OUT_L3, names::LB_EXT_IN_L3),
        (DeviceRole::External, true) => {
            let mut wanted = both(names::LB_EXT_OUT, names::LB_EXT_IN);
            wanted.extend(
                xdp.map(|flavour| Wanted { place: Place::Xdp(flavour), program: names::LB_XDP_IN }),
            );
            wanted
        }
    }
}

/// `BPF_CGROUP_…` of a socket program.
pub(super) fn cgroup_attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "lb_connect4" => 10,
        "lb_connect6" => 11,
        "lb_sendmsg4" => 14,
        "lb_sendmsg6" => 15,
        "lb_recvmsg4" => 19,
        "lb_recvmsg6" => 20,
        "lb_getpeer4" => 29,
        "lb_getpeer6" => 30,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(role: DeviceRole, ethernet: bool) -> Vec<(&'static str, &'static str)> {
        let device = Device { role, ethernet, ..Device::named("x", 1) };
        let wanted = wanted(&device, Some(XdpFlavour::Native));
        wanted.iter().map(|w| (w.place.name(), w.program)).collect()
    }

    #[test]
    fn each_role_has_its_programs() {
        use DeviceRole::{External, Loopback, Other, Workload};
        assert_eq!(places(Other, true), []);
        assert_eq!(places(Loopback, false), [("tc-out", names::LB_LO_OUT)]);
        let workload = [("tc-out", names::LB_POD_OUT), ("tc-in", names::LB_POD_IN)];
        assert_eq!(places(Workload, true), workload);
        let external = [
            ("tc-out", names::LB_EXT_OUT),
            ("tc-in", names::LB_EXT_IN),
            ("xdp-native", names::LB_XDP_IN),
        ];
        assert_eq!(places(External, true), external);
    }

    #[test]
    fn devices_without_ethernet_header_have_programs_of_their_own_and_no_xdp() {
        use DeviceRole::{External, Workload};
        let workload = [("tc-out", names::LB_POD_OUT_L3), ("tc-in", names::LB_POD_IN_L3)];
        assert_eq!(places(Workload, false), workload);
        let external = [("tc-out", names::LB_EXT_OUT_L3), ("tc-in", names::LB_EXT_IN_L3)];
        assert_eq!(places(External, false), external);
    }

    #[test]
    fn every_socket_program_has_a_hook() {
        for program in names::CGROUP_PROGRAMS {
            assert!(cgroup_attach_type(program).is_some(), "{program}");
        }
    }
}
