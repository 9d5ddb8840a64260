//! Roles do not follow every blink of a device.
//!
//! Pure. Attaching XDP makes some network interfaces lose their carrier, and with it addresses and
//! routes, for a moment; so does a link that flaps, or a daemon that replaces a route in two steps.
//! A device that looked like less for that moment must not lose its programs, and with them the
//! translation of every connection over it; nor may the programs come and go in a circle.
//!
//! Invariant: a device that gains a role has it at once, and one that is gone is gone at once; only
//! a role that takes programs away, or turns a network interface into a pod's link, has to last.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::DeviceRole;

use super::Device;

/// How long a lesser role must last before the device has it.
pub const LASTING: Duration = Duration::from_secs(5);

/// The roles that the devices have, by interface index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Roles(BTreeMap<u32, Held>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    role: DeviceRole,
    why: &'static str,
    /// The role that it looks like instead, and since when.
    instead: Option<(DeviceRole, Instant)>,
}

/// What came of a look at the devices.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settled {
    /// The devices with the roles that they have now.
    pub devices: Vec<Device>,
    /// What to remember for the next look.
    pub roles: Roles,
    /// When to look again although nothing happens.
    pub again: Option<Instant>,
}

/// The roles of devices that look like `found`, and had the roles `before`.
pub fn settle(before: &Roles, found: Vec<Device>, now: Instant) -> Settled {
    let mut settled = Settled { devices: found, roles: Roles::default(), again: None };
    for device in &mut settled.devices {
        let held = hold(before.0.get(&device.ifindex), device, now);
        (device.role, device.why) = (held.role, held.why);
        let due = held.instead.map(|(_, since)| since + LASTING);
        settled.again = settled.again.into_iter().chain(due).min();
        let _new = settled.roles.0.insert(device.ifindex, held);
    }
    settled
}

fn hold(before: Option<&Held>, device: &Device, now: Instant) -> Held {
    let found = Held { role: device.role, why: device.why, instead: None };
    let Some(before) = before else { return found };
    if !is_less(device.role, before.role) {
        return found;
    }
    let since = match before.instead {
        Some((role, since)) if role == device.role => since,
        Some(_) | None => now,
    };
    if now.saturating_duration_since(since) >= LASTING {
        return found;
    }
    Held { instead: Some((device.role, since)), ..*before }
}

/// Whether a device of role `before` that now looks like `found` may only have lost an address or a
/// route for a moment.
fn is_less(found: DeviceRole, before: DeviceRole) -> bool {
    let rank = |role| match role {
        DeviceRole::Other => 0,
        DeviceRole::Workload => 1,
        DeviceRole::External => 2,
        DeviceRole::Loopback => 3,
    };
    rank(found) < rank(before)
}

#[cfg(test)]
mod tests {
    use DeviceRole::{External, Other, Workload};

    use super::*;

    fn device(ifindex: u32, role: DeviceRole) -> Device {
        Device { role, why: role.name(), ..Device::named("x", ifindex) }
    }

    /// One device over time: at each second what it looks like, and what it is.
    fn follow(course: &[(u64, DeviceRole, DeviceRole)]) {
        let start = Instant::now();
        let mut roles = Roles::default();
        for (at, found, expected) in course {
            let now = start + Duration::from_secs(*at);
            let settled = settle(&roles, vec![device(7, *found)], now);
            let device = &settled.devices[0];
            assert_eq!((device.role, device.why), (*expected, expected.name()), "at {at}");
            assert_eq!(settled.again.is_some(), found != expected, "at {at}");
            assert!(settled.again.is_none_or(|again| again > now && again <= now + LASTING));
            roles = settled.roles;
        }
    }

    #[test]
    fn a_device_has_its_first_role_at_once_and_gains_one_at_once() {
        for role in [Other, Workload, External] {
            follow(&[(0, role, role)]);
        }
        follow(&[(0, Other, Other), (1, Workload, Workload), (2, External, External)]);
        follow(&[(0, Other, Other), (1, External, External)]);
    }

    #[test]
    fn a_role_is_kept_until_a_lesser_one_has_lasted() {
        for (before, after) in [(External, Workload), (External, Other), (Workload, Other)] {
            follow(&[
                (0, before, before),
                (10, after, before),
                (12, after, before),
                (14, after, before),
                (15, after, after),
                (16, after, after),
            ]);
        }
    }

    #[test]
    fn what_comes_back_in_time_was_never_away() {
        follow(&[
            (0, External, External),
            (1, Workload, External),
            (5, External, External),
            (6, Workload, External),
            (10, Workload, External),
            (11, Workload, Workload),
            (12, External, External),
        ]);
    }

    #[test]
    fn each_lesser_role_has_to_last_by_itself() {
        follow(&[
            (0, External, External),
            (1, Workload, External),
            (4, Other, External),
            (8, Other, External),
            (9, Other, Other),
        ]);
    }

    #[test]
    fn a_device_that_is_gone_is_gone_at_once_and_forgotten() {
        let now = Instant::now();
        let first = settle(&Roles::default(), vec![device(7, External), device(8, Workload)], now);
        let second = settle(&first.roles, vec![device(8, Workload)], now);
        assert_eq!(second.devices.len(), 1);
        let third = settle(&second.roles, vec![device(7, Workload)], now);
        assert_eq!(third.devices[0].role, Workload, "another device with this index");
    }

    #[test]
    fn the_next_look_is_when_the_first_of_them_is_due() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let both = |a, b| vec![device(7, a), device(8, b)];
        let settled = settle(&Roles::default(), both(External, External), at(0));
        assert_eq!(settled.again, None);
        let settled = settle(&settled.roles, both(Workload, External), at(1));
        assert_eq!(settled.again, Some(at(6)));
        let settled = settle(&settled.roles, both(Workload, Other), at(3));
        assert_eq!(settled.again, Some(at(6)));
        let settled = settle(&settled.roles, both(Workload, Other), at(6));
        assert_eq!(settled.again, Some(at(8)));
        let settled = settle(&settled.roles, both(Workload, Other), at(8));
        assert_eq!((settled.again, settled.devices[1].role), (None, Other));
    }

    /// A network interface of a nested node (a veth) loses its routes for two seconds whenever XDP is
    /// attached to it or detached from it: the programs are attached once, and stay.
    #[test]
    fn a_device_that_blinks_when_xdp_comes_or_goes_makes_no_circle() {
        let start = Instant::now();
        let (mut roles, mut xdp, mut away_until, mut changes) = (Roles::default(), false, 0, 0);
        for second in 0..60 {
            let looks = if second < away_until { Workload } else { External };
            let settled =
                settle(&roles, vec![device(7, looks)], start + Duration::from_secs(second));
            let wanted = settled.devices[0].role == External;
            if wanted != xdp {
                (xdp, away_until, changes) = (wanted, second + 3, changes + 1);
            }
            roles = settled.roles;
        }
        assert_eq!((xdp, changes), (true, 1));
    }
}
