//! What others remove is put back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use lb_common::DeviceRole;
use lb_userspace::{
    datapath::{Datapath, links, paths::PinPaths},
    devices::Device,
};

use super::{
    attach_all, ids,
    node::{Node, device, on_node, veth},
};

/// The kernel ends a link some time after its last pin: until then its place is taken.
fn attach_in_time(datapath: &mut Datapath, devices: &[Device]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let problems = datapath.attach(devices);
        if problems.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{problems:?}");
        thread::yield_now();
    }
}

/// SYNC-6: pins of maps and links that somebody deleted, and links that somebody detached, are there
/// again after the next look, over the same maps.
#[test]
fn what_others_removed_is_put_back() {
    on_node("heal", |node: &Node| {
        let devices = [device("lo", DeviceRole::Loopback), veth("pod1", DeviceRole::Workload)];
        let mut datapath = Datapath::open(&node.options()).expect("it loads");
        attach_all(&mut datapath, &devices);
        let before = ids(node);
        assert!(datapath.heal().expect("nothing is to be done").is_empty());

        let paths = PinPaths::new(node.pin_dir());
        for dir in [paths.maps(), paths.links()] {
            for pin in links::pins_in(&dir).expect("pins") {
                fs::remove_file(dir.join(pin)).expect("removed");
            }
        }
        assert!(!datapath.heal().expect("it heals").is_empty());
        attach_in_time(&mut datapath, &devices);
        let after = ids(node);
        assert_eq!(after.1, before.1, "the same maps");
        assert!(after.0.keys().eq(before.0.keys()), "{after:?}");
        assert!(datapath.heal().expect("nothing is to be done").is_empty());

        // Detached, while the pin stays.
        let pin = paths.links().join("pod1:tc-in");
        let Ok(links::Pinned::Link(link, _)) = links::open(&pin) else { panic!("a link") };
        lb_userspace::maps::bpf::link_detach(std::os::fd::AsFd::as_fd(&link)).expect("detached");
        drop(link);
        assert_eq!(datapath.heal().expect("it heals"), ["pod1:tc-in"]);
        attach_in_time(&mut datapath, &devices);
        assert!(datapath.heal().expect("nothing is to be done").is_empty());
    });
}
