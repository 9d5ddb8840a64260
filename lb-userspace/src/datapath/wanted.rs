//! Which program runs at which hook, by the role of the device.

use lb_common::{DeviceRole, names};

use super::links::{Direction, XdpFlavour};
use crate::{config::XdpMode, devices::Device};

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
    /// Whether the datapath works without it, only slower.
    pub optional: bool,
}

/// What shall run on a device.
pub fn wanted(device: &Device, xdp: XdpMode) -> Vec<Wanted> {
    let tc = |direction, program| Wanted { place: Place::Tc(direction), program, optional: false };
    match device.role {
        DeviceRole::Other => Vec::new(),
        DeviceRole::Loopback => vec![tc(Direction::Egress, names::LB_LO_OUT)],
        DeviceRole::Workload => {
            // What undoes a translation comes first: a node that already carries traffic would lose
            // the first answers.
            vec![tc(Direction::Egress, names::LB_POD_OUT), tc(Direction::Ingress, names::LB_POD_IN)]
        }
        DeviceRole::External => {
            let mut wanted = vec![
                tc(Direction::Egress, names::LB_EXT_OUT),
                tc(Direction::Ingress, names::LB_EXT_IN),
            ];
            let flavour = match xdp {
                XdpMode::Off => None,
                XdpMode::Auto => device.physical.then_some((XdpFlavour::Native, true)),
                XdpMode::Native => Some((XdpFlavour::Native, false)),
                XdpMode::Generic => Some((XdpFlavour::Generic, false)),
            };
            wanted.extend(flavour.map(|(flavour, optional)| Wanted {
                place: Place::Xdp(flavour),
                program: names::LB_XDP_IN,
                optional,
            }));
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

    fn places(role: DeviceRole, physical: bool, xdp: XdpMode) -> Vec<(&'static str, &'static str)> {
        let device = Device { role, physical, ..Device::named("x", 1) };
        wanted(&device, xdp).iter().map(|w| (w.place.name(), w.program)).collect()
    }

    #[test]
    fn each_role_has_its_programs() {
        use DeviceRole::{External, Loopback, Other, Workload};
        assert_eq!(places(Other, true, XdpMode::Native), []);
        assert_eq!(places(Loopback, false, XdpMode::Native), [("tc-out", names::LB_LO_OUT)]);
        let workload = [("tc-out", names::LB_POD_OUT), ("tc-in", names::LB_POD_IN)];
        assert_eq!(places(Workload, false, XdpMode::Generic), workload);
        let external = [("tc-out", names::LB_EXT_OUT), ("tc-in", names::LB_EXT_IN)];
        assert_eq!(places(External, true, XdpMode::Off), external);
    }

    #[test]
    fn auto_attaches_xdp_to_physical_devices_only() {
        let xdp = |physical, mode| {
            let places = places(DeviceRole::External, physical, mode);
            places.get(2).map(|place| place.0)
        };
        assert_eq!(xdp(true, XdpMode::Auto), Some("xdp-native"));
        assert_eq!(xdp(false, XdpMode::Auto), None);
        assert_eq!(xdp(false, XdpMode::Native), Some("xdp-native"));
        assert_eq!(xdp(false, XdpMode::Generic), Some("xdp-generic"));
        assert_eq!(xdp(true, XdpMode::Off), None);
    }

    #[test]
    fn every_socket_program_has_a_hook() {
        for program in names::CGROUP_PROGRAMS {
            assert!(cgroup_attach_type(program).is_some(), "{program}");
        }
    }
}
