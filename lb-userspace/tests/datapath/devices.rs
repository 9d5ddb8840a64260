//! The watcher of devices in a real network namespace.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::{DeviceRole, DeviceValue, Runtime, names};
use lb_userspace::{
    datapath::Datapath,
    devices::{
        Device, NodeState, Rules, runtime::RuntimeTable, table::DeviceTable, watch::Watcher,
    },
    maps::{bpf::Access, table::Table},
};

use crate::node::{ip, on_node};

/// Waits until `condition` holds; what it found.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn find(state: &NodeState, name: &str) -> Option<Device> {
    state.devices.iter().find(|device| device.name == name).cloned()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn devices_addresses_and_routes_are_followed() {
    on_node("watch", |_node| {
        let renewals = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&renewals);
        let watcher = Watcher::start(Rules::default(), move |_routing| {
            let _before = counted.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        let states = watcher.states();
        let state = || states.borrow().clone();
        let lo = find(&state(), "lo").expect("the first state is there at once");
        assert_eq!(lo.role, DeviceRole::Loopback);
        assert_eq!(state().addresses, [address("127.0.0.1"), address("::1")]);

        ip("link add up0 type veth peer name up0-p");
        let up = until("the device", || find(&state(), "up0"));
        assert_eq!((up.role, up.why), (DeviceRole::External, "link within this namespace"));
        assert!(up.mac.is_some() && !up.physical);
        ip("link set up0 up");
        ip("link set up0-p up");
        ip("addr add 192.0.2.2/24 dev up0");
        ip("addr add 192.0.2.3/24 dev up0");
        ip("addr add 2001:db8::2/64 dev up0 nodad");
        ip("route add default via 192.0.2.1");
        let up = until("the route", || {
            find(&state(), "up0").filter(|device| device.why == "carries a default route")
        });
        assert_eq!(up.primary4(), Some([192, 0, 2, 2].into()));
        until("the primary addresses", || {
            let state = state();
            let v6 = "2001:db8::2".parse().ok();
            (state.primary4 == Some([192, 0, 2, 2].into()) && state.primary6 == v6).then_some(())
        });

        watcher.set_node_ips(vec![address("192.0.2.3")]);
        until("the given address", || {
            (state().primary4 == Some([192, 0, 2, 3].into())).then_some(())
        });

        let renewed = |what: &str, command: &str| {
            // Earlier changes have settled when nothing was renewed for a while.
            let mut last = (renewals.load(Ordering::Relaxed), Instant::now());
            until("quiet", || {
                let now = renewals.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, Instant::now());
                }
                (last.1.elapsed() > Duration::from_millis(100)).then_some(())
            });
            let (before, start) = (renewals.load(Ordering::Relaxed), Instant::now());
            ip(command);
            until(what, || (renewals.load(Ordering::Relaxed) > before).then_some(()));
            println!("{what}: renewed after {:?}", start.elapsed());
        };
        renewed("new neighbour", "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0");
        renewed("other address", "neigh change 192.0.2.9 lladdr 02:00:00:00:00:0a dev up0");
        renewed("neighbour gone", "neigh del 192.0.2.9 dev up0");
        renewed("new route", "route add 198.51.100.0/24 via 192.0.2.7");
        renewed("route gone", "route del 198.51.100.0/24");

        ip("link del up0");
        until("the end of the device", || find(&state(), "up0").is_none().then_some(()));
        until("the end of its addresses", || {
            (!state().addresses.contains(&address("192.0.2.2"))).then_some(())
        });
    });
}

#[test]
fn a_burst_of_devices_is_not_missed() {
    on_node("burst", |_node| {
        let watcher = Watcher::start(Rules::default(), |_routing| {}).unwrap();
        let states = watcher.states();
        let batch: String =
            (0..150).map(|n| format!("link add b{n} type veth peer name p{n}\n")).collect();
        let file = std::env::temp_dir().join(format!("lb-burst-{}", std::process::id()));
        std::fs::write(&file, batch).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        until("all devices", || (states.borrow().devices.len() >= 300).then_some(()));
    });
}

#[test]
fn the_device_map_follows_the_node() {
    on_node("device map", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let maps = datapath.paths().maps();
        let map: Table<u32, DeviceValue> =
            Table::open(&maps, names::LB_DEVICES, Access::Read).unwrap();
        let device = |ifindex, address: IpAddr| Device {
            role: DeviceRole::External,
            addresses: vec![address],
            ..Device::named("x", ifindex)
        };
        let mut state = NodeState {
            devices: vec![device(2, address("192.0.2.2")), device(3, address("192.0.2.3"))],
            ..NodeState::default()
        };
        let mut table = DeviceTable::open(&maps).unwrap();
        assert_eq!(table.sync(&state).unwrap(), 2);
        assert_eq!(map.get(&2).unwrap().unwrap().snat4.octets, [192, 0, 2, 2]);
        assert_eq!(table.sync(&state).unwrap(), 0);
        let _gone = state.devices.remove(0);
        // A new agent adopts what is there.
        let mut table = DeviceTable::open(&maps).unwrap();
        assert_eq!(table.sync(&state).unwrap(), 1);
        assert_eq!(map.get(&2).unwrap(), None);
        assert!(map.get(&3).unwrap().is_some());
    });
}

#[test]
fn generations_are_counted_on_and_never_zero() {
    on_node("generations", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let maps = datapath.paths().maps();
        let map: Table<u32, Runtime> =
            Table::open(&maps, names::LB_RUNTIME, Access::ReadWrite).unwrap();
        let runtime = || {
            let runtime = map.get(&0).unwrap().unwrap();
            (runtime.generation, runtime.flags)
        };
        assert_eq!(runtime(), (1, 0), "nothing is redirected before the agent allows it");
        RuntimeTable::open(&maps).unwrap().renew(Runtime::SHORTCUT).unwrap();
        assert_eq!(runtime(), (2, Runtime::SHORTCUT));
        // A new agent goes on from there.
        RuntimeTable::open(&maps).unwrap().renew(0).unwrap();
        assert_eq!(runtime(), (3, 0));
        map.put(&0, &Runtime { generation: u16::MAX, ..Runtime::default() }).unwrap();
        RuntimeTable::open(&maps).unwrap().renew(0).unwrap();
        assert_eq!(runtime(), (1, 0));
    });
}
