//! The datapath's life in a real kernel: load, pin, attach, restart, upgrade, leave.

mod devices;
mod heal;
mod housekeeper;
mod kinds;
mod maps;
mod node;
mod order;
mod shortcut;
mod versions;

use std::{collections::BTreeMap, fs, os::fd::AsFd as _, path::Path};

use lb_common::{ABI_VERSION, DeviceRole, names};
use lb_userspace::{
    config::{SocketLb, TcMode, XdpMode},
    datapath::{
        Datapath, DatapathError, attach,
        cleanup::{self, WhileRunning},
        links::{self, Pinned},
        lock::LockError,
        paths::PinPaths,
    },
    devices::Device,
    maps::bpf::{self, Access},
};
use node::{Node, device, ip, on_node, veth};

/// Ids of everything that is pinned: links by name, maps by name.
fn ids(node: &Node) -> (BTreeMap<String, u32>, BTreeMap<String, u32>) {
    let paths = PinPaths::new(node.pin_dir());
    let link = |pin: &String| match links::open(&paths.links().join(pin)) {
        Ok(Pinned::Link(_, info)) => info.id,
        Ok(Pinned::Filter) => 0,
        Err(error) => panic!("{pin}: {error}"),
    };
    let map = |pin: &String| {
        let map = bpf::obj_get(&paths.maps().join(pin), Access::Read).and_then(bpf::Map::new);
        map.expect("a map is pinned").info().id
    };
    let named = |dir: &Path, id: &dyn Fn(&String) -> u32| {
        links::pins_in(dir)
            .expect("listing pins")
            .into_iter()
            .map(|pin| (pin.clone(), id(&pin)))
            .collect()
    };
    (named(&paths.links(), &link), named(&paths.maps(), &map))
}

fn program_ids(node: &Node) -> BTreeMap<String, u32> {
    let dir = PinPaths::new(node.pin_dir()).links();
    let program = |pin: &str| match links::open(&dir.join(pin)) {
        Ok(Pinned::Link(_, info)) => info.program,
        other => panic!("{pin}: {other:?}"),
    };
    links::pins_in(&dir)
        .expect("listing pins")
        .into_iter()
        .map(|pin| (pin.clone(), program(&pin)))
        .collect()
}

fn three_devices() -> Vec<Device> {
    vec![
        device("lo", DeviceRole::Loopback),
        veth("ext0.5", DeviceRole::External),
        veth("pod1", DeviceRole::Workload),
    ]
}

fn attach_all(datapath: &mut Datapath, devices: &[Device]) {
    let problems = datapath.attach(devices);
    assert!(problems.is_empty(), "{problems:?}");
}

const DEVICE_PINS: [&str; 5] =
    ["ext0%2e5:tc-in", "ext0%2e5:tc-out", "lo:tc-out", "pod1:tc-in", "pod1:tc-out"];

#[test]
fn everything_is_pinned_and_a_restart_adopts_it() {
    on_node("restart", |node| {
        let devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        drop(datapath);

        let before = ids(node);
        let device_pins: Vec<_> =
            before.0.keys().filter(|pin| !pin.starts_with("cgroup:")).collect();
        assert_eq!(device_pins, DEVICE_PINS);
        assert_eq!(before.0.len(), DEVICE_PINS.len() + names::CGROUP_PROGRAMS.len());
        assert_eq!(before.1.len(), names::MAPS.len());
        let programs = program_ids(node);

        let mut datapath = Datapath::open(&node.options()).unwrap();
        assert_eq!(program_ids(node), programs, "nothing changes before the programs are attached");
        attach_all(&mut datapath, &devices);
        assert_eq!(ids(node), before, "links and maps are the same");
        let replaced = program_ids(node);
        assert!(programs.iter().all(|(pin, id)| replaced[pin] != *id), "programs are new");
    });
}

#[test]
fn a_second_agent_is_refused_by_the_pid_of_the_first() {
    on_node("second agent", |node| {
        let first = Datapath::open(&node.options()).unwrap();
        let error = Datapath::open(&node.options()).expect_err("the directory is in use");
        assert!(matches!(error, DatapathError::Lock(LockError::Held { .. })), "{error:?}");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert!(
            cleanup::cleanup(&node.pin_dir(), WhileRunning::Refuse).is_err(),
            "nothing is removed under an agent"
        );
        drop(first);
        let _second = Datapath::open(&node.options()).unwrap();
    });
}

#[test]
fn a_device_that_comes_back_is_attached_again() {
    on_node("device", |node| {
        let mut devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        let before = ids(node).0;
        ip("link del pod1");
        let _gone = devices.pop();
        attach_all(&mut datapath, &devices);
        assert!(ids(node).0.keys().all(|pin| !pin.starts_with("pod1:")));
        devices.push(veth("pod1", DeviceRole::Workload));
        attach_all(&mut datapath, &devices);
        let after = ids(node).0;
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert_ne!(after["pod1:tc-in"], before["pod1:tc-in"]);
        assert_eq!(after["lo:tc-out"], before["lo:tc-out"]);
    });
}

#[test]
fn a_device_remade_while_no_agent_ran_is_attached_again() {
    on_node("remade device", |node| {
        let devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        drop(datapath);
        ip("link del pod1");
        let devices = [devices[0].clone(), devices[1].clone(), veth("pod1", DeviceRole::Workload)];
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        assert_eq!(ids(node).0.len(), DEVICE_PINS.len() + names::CGROUP_PROGRAMS.len());
    });
}

#[test]
fn a_role_change_swaps_the_program_of_the_same_link() {
    on_node("role", |node| {
        let mut devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        let (before, programs) = (ids(node).0, program_ids(node));
        devices[2].role = DeviceRole::External;
        attach_all(&mut datapath, &devices);
        assert_eq!(ids(node).0, before);
        let swapped = program_ids(node);
        assert_ne!(swapped["pod1:tc-in"], programs["pod1:tc-in"]);
        assert_eq!(swapped["pod1:tc-in"], programs["ext0%2e5:tc-in"]);
        devices[2].role = DeviceRole::Other;
        attach_all(&mut datapath, &devices);
        assert!(ids(node).0.keys().all(|pin| !pin.starts_with("pod1:")));
    });
}

#[test]
fn a_renamed_device_keeps_its_links() {
    on_node("rename", |node| {
        let mut devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        let before = ids(node).0;
        ip("link set pod1 down");
        ip("link set pod1 name pod2");
        devices[2] = device("pod2", DeviceRole::Workload);
        attach_all(&mut datapath, &devices);
        let after = ids(node).0;
        assert_eq!(after.get("pod2:tc-in"), before.get("pod1:tc-in"));
        assert_eq!(after.len(), before.len());
    });
}

#[test]
fn xdp_modes_exclude_each_other_and_off_removes_them() {
    on_node("xdp", |node| {
        let devices = three_devices();
        let xdp_pins = |node: &Node| -> Vec<String> {
            ids(node).0.into_keys().filter(|pin| pin.contains(":xdp")).collect()
        };
        for (mode, pins) in [
            (XdpMode::Native, vec!["ext0%2e5:xdp-native"]),
            (XdpMode::Generic, vec!["ext0%2e5:xdp-generic"]),
            (XdpMode::Native, vec!["ext0%2e5:xdp-native"]),
            (XdpMode::Auto, vec![]),
        ] {
            let options = lb_userspace::datapath::options::Options { xdp: mode, ..node.options() };
            let mut datapath = Datapath::open(&options).unwrap();
            attach_all(&mut datapath, &devices);
            assert_eq!(xdp_pins(node), pins, "{mode:?}");
        }
    });
}

#[test]
fn clsact_serves_where_tcx_is_not_wanted_and_both_can_be_exchanged() {
    on_node("clsact", |node| {
        let devices = three_devices();
        let open = |tc| {
            let options = lb_userspace::datapath::options::Options { tc, ..node.options() };
            let mut datapath = Datapath::open(&options).unwrap();
            attach_all(&mut datapath, &devices);
        };
        let filters = || {
            let shown = std::process::Command::new("tc")
                .args(["filter", "show", "dev", "pod1", "ingress"])
                .output()
                .expect("running tc");
            String::from_utf8(shown.stdout).unwrap().matches("handle 0x6c62").count()
        };
        open(TcMode::Clsact);
        assert_eq!(filters(), 1);
        assert_eq!(ids(node).0["pod1:tc-in"], 0, "the pin is the mark of a filter");
        open(TcMode::Clsact);
        assert_eq!(filters(), 1, "a restart replaces the filter");
        open(TcMode::Tcx);
        assert_eq!(filters(), 0);
        assert_ne!(ids(node).0["pod1:tc-in"], 0);
        open(TcMode::Clsact);
        assert_eq!(filters(), 1);
        let report = cleanup::cleanup(&node.pin_dir(), WhileRunning::Refuse).unwrap();
        assert_eq!(filters(), 0, "{report}");
    });
}

#[test]
fn sockets_off_detaches_the_socket_programs() {
    on_node("sockets off", |node| {
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &[]);
        assert_eq!(ids(node).0.len(), names::CGROUP_PROGRAMS.len());
        drop(datapath);
        let off =
            lb_userspace::datapath::options::Options { socket_lb: SocketLb::Off, ..node.options() };
        let mut datapath = Datapath::open(&off).unwrap();
        attach_all(&mut datapath, &[]);
        assert_eq!(ids(node).0.len(), 0);
    });
}

#[test]
fn cleanup_leaves_nothing_and_may_be_repeated() {
    on_node("cleanup", |node| {
        let devices = three_devices();
        let foreign = node.bpffs.join("foreign");
        fs::create_dir(&foreign).unwrap();
        let options =
            lb_userspace::datapath::options::Options { xdp: XdpMode::Generic, ..node.options() };
        let mut datapath = Datapath::open(&options).unwrap();
        attach_all(&mut datapath, &devices);
        // Somebody holds a link open: it must be detached all the same.
        let link = PinPaths::new(node.pin_dir()).links().join("lo:tc-out");
        let held = bpf::obj_get(&link, Access::ReadWrite).unwrap();
        drop(datapath);
        let report = cleanup::cleanup(&node.pin_dir(), WhileRunning::Refuse).unwrap();
        assert_eq!(report.links.len(), DEVICE_PINS.len() + 1 + names::CGROUP_PROGRAMS.len());
        assert_eq!(report.maps.len(), names::MAPS.len());
        assert_eq!(bpf::link_info(held.as_fd()).unwrap().target, 0, "detached");
        assert!(!node.pin_dir().exists());
        assert!(foreign.exists());
        let again = cleanup::cleanup(&node.pin_dir(), WhileRunning::Refuse).unwrap();
        assert!(again.links.is_empty() && again.maps.is_empty() && again.directories.is_empty());
    });
}

/// An agent that is killed leaves a prefix of its steps; the next one completes them.
#[test]
fn what_a_killed_agent_left_half_done_is_completed() {
    on_node("killed", |node| {
        let devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        drop(datapath);
        let whole = ids(node);
        let paths = PinPaths::new(node.pin_dir());
        // Killed while making maps, before anything was attached.
        for pin in whole.0.keys() {
            links::remove_link(&paths.links().join(pin)).unwrap();
        }
        for name in &names::MAPS[9..] {
            fs::remove_file(paths.maps().join(name)).unwrap();
        }
        // Killed while attaching.
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices[..1]);
        drop(datapath);
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        drop(datapath);
        let again = ids(node);
        assert!(again.0.keys().eq(whole.0.keys()) && again.1.keys().eq(whole.1.keys()));

        // Killed while taking over the links of another version: pinned in both places.
        let old = node.pin_dir().join(format!("v{}", ABI_VERSION + 1));
        fs::create_dir_all(old.join("links")).unwrap();
        fs::create_dir_all(old.join("maps")).unwrap();
        let link = bpf::obj_get(&paths.links().join("lo:tc-out"), Access::ReadWrite).unwrap();
        bpf::obj_pin(link.as_fd(), &old.join("links/lo:tc-out")).unwrap();
        drop(link);
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        assert!(!old.exists());
        assert!(ids(node).0.keys().eq(whole.0.keys()));
        let Pinned::Link(_, info) = links::open(&paths.links().join("lo:tc-out")).unwrap() else {
            panic!("no link");
        };
        assert_ne!(info.target, 0, "still attached");
    });
}

#[test]
fn one_bad_device_does_not_keep_the_others_from_being_served() {
    on_node("bad device", |node| {
        let mut devices = three_devices();
        devices.insert(0, Device { role: DeviceRole::Workload, ..Device::named("ghost", 9999) });
        let mut datapath = Datapath::open(&node.options()).unwrap();
        let problems = datapath.attach(&devices);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.device == "ghost"));
        let pins = ids(node).0;
        assert!(DEVICE_PINS.iter().all(|pin| pins.contains_key(*pin)));
        let _unused = attach::CGROUP;
    });
}
