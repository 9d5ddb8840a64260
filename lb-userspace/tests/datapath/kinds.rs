//! Every kind of device that this kernel can make: its role, its programs, XDP on it.

use std::{collections::BTreeMap, sync::mpsc, thread, time::Instant};

use lb_common::{DeviceRole, XDP_DEVICES, XdpDevice, names};
use lb_userspace::{
    config::XdpMode,
    datapath::{Datapath, links, links::XdpFlavour, options::Options, paths::PinPaths, xdp::NoXdp},
    devices::{Device, NodeState, Rules, settle::LASTING, watch::Watcher},
    maps::{bpf::Access, table::Table},
};

use crate::{
    attach_all,
    devices::{find, until},
    ids,
    node::{Node, ip, on_node},
    program_ids,
};

/// Another network namespace, which lives as long as this.
struct Elsewhere {
    /// Thread in it, by which `ip` finds it.
    thread: nix::unistd::Pid,
    _alive: mpsc::Sender<()>,
}

impl Elsewhere {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (alive, end) = mpsc::channel::<()>();
        let _detached = thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
            tell.send(nix::unistd::gettid()).expect("somebody waits");
            // Ends when the sender is dropped.
            let _ended = end.recv();
        });
        Self { thread: told.recv().expect("the thread says where it is"), _alive: alive }
    }

    /// Makes a veth pair whose other end is there.
    fn veth(&self, name: &str) {
        ip(&format!("link add {name} type veth peer name peer netns {}", self.thread));
    }
}

fn watch() -> (Watcher, impl Fn() -> NodeState) {
    let watcher = Watcher::start(Rules::default(), |_| {}).expect("netlink works");
    let states = watcher.states();
    (watcher, move || states.borrow().clone())
}

/// HOST-1.
#[test]
fn each_kind_of_device_has_its_role_and_takes_its_programs() {
    on_node("kinds", |node| {
        let elsewhere = [Elsewhere::new(), Elsewhere::new(), Elsewhere::new()];
        elsewhere[0].veth("pod0");
        elsewhere[1].veth("pod1");
        elsewhere[2].veth("nic1");
        for command in [
            "addr add 10.244.0.1/32 dev pod0",
            "addr add 192.0.2.2/24 dev nic1",
            "link add v0 type veth peer name v1",
            "link add br0 type bridge",
            "link set pod1 master br0",
            "link set v1 master br0",
            "link add vx0 type vxlan id 7 dev v0 dstport 4789",
            "link add mv0 link v0 type macvlan mode bridge",
            "link add ifb7 type ifb",
            "tuntap add tap0 mode tap",
            "tuntap add tun0 mode tun",
            "tuntap add tun1 mode tun",
            "addr add 10.9.0.1/24 dev tun1",
            "link set tun1 up",
        ] {
            ip(command);
        }
        let (_watcher, state) = watch();
        let state = state();
        use DeviceRole::{External, Loopback, Other, Workload};
        let veth = "veth with its peer in another namespace";
        for (name, role, ethernet, why) in [
            ("lo", Loopback, false, "the loopback device"),
            ("pod0", Workload, true, veth),
            ("pod1", Workload, true, veth),
            ("nic1", External, true, "network interface with an address in a network"),
            ("v0", External, true, "link within this namespace"),
            ("v1", External, true, "port of a bridge"),
            ("br0", External, true, "bridge"),
            ("vx0", External, true, "tunnel"),
            ("mv0", External, true, "part of a network interface"),
            ("ifb7", Other, true, "ifb device"),
            ("tap0", Workload, true, "tap device"),
            ("tun0", Workload, false, "tun device that leads to single addresses"),
            ("tun1", External, false, "tun device that leads to networks"),
        ] {
            let device = find(&state, name).expect(name);
            assert_eq!((device.role, device.ethernet, device.why), (role, ethernet, why), "{name}");
        }

        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &state.devices);
        let programs = program_ids(node);
        assert!(!programs.contains_key("ifb7:tc-in"));
        for place in ["tc-in", "tc-out"] {
            let at = |device: &str| programs[&format!("{device}:{place}")];
            for alike in [["v0", "vx0"], ["v0", "br0"], ["v0", "v1"], ["v0", "mv0"], ["v0", "nic1"]]
            {
                assert_eq!(at(alike[0]), at(alike[1]), "{alike:?} {place}");
            }
            assert_eq!(at("pod0"), at("tap0"));
            let kinds = ["v0", "pod0", "tun0", "tun1"].map(at);
            for (n, program) in kinds.iter().enumerate() {
                assert!(!kinds[..n].contains(program), "each has a program of its own: {kinds:?}");
            }
        }
    });
}

/// A tun device is told by its routes, which are followed; one that loses them stays what it was
/// until that has lasted.
#[test]
fn a_role_is_gained_at_once_and_lost_after_a_while() {
    on_node("settle", |_node| {
        ip("tuntap add tun0 mode tun");
        ip("link set tun0 up");
        let (_watcher, state) = watch();
        let role = || find(&state(), "tun0").map(|device| device.role);
        assert_eq!(role(), Some(DeviceRole::Workload));
        ip("route add 10.7.0.1/32 dev tun0");
        until("the route", || find(&state(), "tun0").filter(|d| d.routed).map(drop));
        assert_eq!(role(), Some(DeviceRole::Workload), "a single address");
        let start = Instant::now();
        ip("route add 10.8.0.0/16 dev tun0");
        until("the gain", || (role() == Some(DeviceRole::External)).then_some(()));
        assert!(start.elapsed() < LASTING, "at once");

        let start = Instant::now();
        ip("route del 10.8.0.0/16 dev tun0");
        until("the loss", || (role() == Some(DeviceRole::Workload)).then_some(()));
        assert!(start.elapsed() >= LASTING, "after {:?}", start.elapsed());

        ip("route add 10.8.0.0/16 dev tun0");
        until("the gain", || (role() == Some(DeviceRole::External)).then_some(()));
        ip("link del tun0");
        let start = Instant::now();
        until("the end", || role().is_none().then_some(()));
        assert!(start.elapsed() < LASTING, "gone at once");
    });
}

fn entries(datapath: &Datapath) -> BTreeMap<u32, XdpDevice> {
    let table: Table<u32, XdpDevice> =
        Table::open(&datapath.paths().maps(), names::LB_XDP_DEVICES, Access::Read).expect("pinned");
    let mut entries = BTreeMap::new();
    table
        .for_each(|slot, value| {
            if value.ifindex != 0 {
                let _new = entries.insert(*slot, *value);
            }
        })
        .expect("read");
    entries
}

fn native(node: &Node) -> Datapath {
    let options = Options { xdp: XdpMode::Native, ..node.options() };
    Datapath::open(&options).expect("it loads")
}

/// Its entry in `LB_XDP_DEVICES`: address and flags.
fn entry(datapath: &Datapath, device: &Device) -> Option<([u8; 6], u8)> {
    let entry = entries(datapath).remove(&XdpDevice::slot(device.ifindex))?;
    (entry.ifindex == device.ifindex).then_some((entry.mac.octets, entry.flags))
}

/// A driver that cannot run XDP, or a device that is none, is no problem; those that run it are told
/// to the program with the address that they have.
#[test]
fn xdp_is_optional_and_told_which_devices_receive_and_transmit() {
    on_node("xdp devices", |node| {
        for command in [
            "link add v0 address 02:00:00:00:00:10 type veth peer name v1 address 02:00:00:00:00:11",
            "link set v0 up",
            "link set v1 up",
            "link add mv0 link v0 type macvlan mode bridge",
            "link add br0 type bridge",
            "link add vx0 type vxlan id 7 dstport 4789",
            "tuntap add tun1 mode tun",
            "addr add 10.9.0.1/24 dev tun1",
            "link set tun1 up",
        ] {
            ip(command);
        }
        let (_watcher, state) = watch();
        let device = |name: &str| find(&state(), name).expect(name);
        let transmits = |name: &str| device(name).transmits;
        assert!(!transmits("v0") && !transmits("v1"), "no XDP, no offload at the other end");

        let mut datapath = native(node);
        attach_all(&mut datapath, &state().devices);
        for name in ["v0", "v1"] {
            assert_eq!(datapath.xdp()[&device(name).ifindex], Ok(XdpFlavour::Native), "{name}");
        }
        let refused = NoXdp::Refused("the driver cannot run it".to_owned());
        for name in ["mv0", "br0", "vx0"] {
            assert_eq!(datapath.xdp()[&device(name).ifindex], Err(refused.clone()), "{name}");
            assert_eq!(entry(&datapath, &device(name)), None, "{name}");
        }
        assert_eq!(datapath.xdp()[&device("tun1").ifindex], Err(NoXdp::NoEthernet));
        assert!(!datapath.xdp().contains_key(&device("lo").ifindex));
        let pins = ids(node).0;
        let xdp: Vec<_> = pins.keys().filter(|pin| pin.contains(":xdp")).collect();
        assert_eq!(xdp, ["v0:xdp-native", "v1:xdp-native"]);

        // A veth transmits what XDP sends to it since XDP runs at the other end.
        until("the drivers' change", || (transmits("v0") && transmits("v1")).then_some(()));
        attach_all(&mut datapath, &state().devices);
        let both = XdpDevice::RECEIVES | XdpDevice::TRANSMITS;
        assert_eq!(entry(&datapath, &device("v0")), Some(([2, 0, 0, 0, 0, 0x10], both)));
        assert_eq!(entry(&datapath, &device("v1")), Some(([2, 0, 0, 0, 0, 0x11], both)));

        ip("link set v0 address 02:00:00:00:00:12");
        let mac = [2, 0, 0, 0, 0, 0x12];
        until("the address", || {
            device("v0").mac.is_some_and(|found| found.octets == mac).then_some(())
        });
        attach_all(&mut datapath, &state().devices);
        assert_eq!(entry(&datapath, &device("v0")), Some((mac, both)));

        // What an agent without XDP finds is removed.
        drop(datapath);
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        assert_eq!(entries(&datapath).len(), 2);
        attach_all(&mut datapath, &state().devices);
        assert!(entries(&datapath).is_empty());
        assert_eq!(datapath.xdp()[&device("v0").ifindex], Err(NoXdp::Off));
        let dir = PinPaths::new(node.pin_dir()).links();
        assert!(links::pins_in(&dir).expect("pins").iter().all(|pin| !pin.contains(":xdp")));
    });
}

#[test]
fn of_two_devices_with_one_entry_the_first_has_xdp_until_it_is_gone() {
    on_node("xdp entry", |node| {
        let far = 2000 + XDP_DEVICES;
        ip("link add a0 index 2000 type veth peer name a1 index 2001");
        ip(&format!("link add b0 index {far} type veth peer name b1 index 2002"));
        let (_watcher, state) = watch();
        let mut datapath = native(node);
        attach_all(&mut datapath, &state().devices);
        assert_eq!(datapath.xdp()[&2000], Ok(XdpFlavour::Native));
        assert_eq!(datapath.xdp()[&2002], Ok(XdpFlavour::Native));
        assert_eq!(datapath.xdp()[&far], Err(NoXdp::SameEntry("a0".to_owned())));
        let holder = |datapath: &Datapath| entries(datapath)[&XdpDevice::slot(far)].ifindex;
        assert_eq!(holder(&datapath), 2000);

        ip("link del a0");
        until("the end of the first", || find(&state(), "a0").is_none().then_some(()));
        attach_all(&mut datapath, &state().devices);
        assert_eq!(datapath.xdp()[&far], Ok(XdpFlavour::Native));
        assert_eq!(holder(&datapath), far);
    });
}
