//! A node for one test: network namespace, BPF file system and cgroup of its own.
//!
//! The namespaces belong to the thread of the test and vanish with it, whatever happens; only the
//! cgroup has to be removed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use lb_userspace::{
    config::{Capacity, SocketLb, TcMode, XdpMode},
    datapath::{object::Object, options::Options},
    devices::Device,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const CGROUPS: &str = "/sys/fs/cgroup/unified";

pub(crate) struct Node {
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _removed = fs::remove_dir(&self.cgroup);
    }
}

/// Runs `test` on a node of its own, or says aloud why it cannot.
pub(crate) fn on_node(name: &str, test: impl FnOnce(&Node) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: not root: namespaces and BPF need it");
        return;
    }
    if !Object::Normal.is_embedded() {
        println!("SKIPPED: built without the eBPF objects, run `cargo xtask build`");
        return;
    }
    let result = thread::Builder::new()
        .name(name.to_owned())
        .spawn(|| test(&Node::enter()))
        .expect("a thread");
    if let Err(panic) = result.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Node {
    fn enter() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may unshare");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
            .expect("private mounts");
        let bpffs = Path::new("/mnt").to_owned();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).expect("mounting bpffs");
        let cgroup = Path::new(CGROUPS).join(format!(
            "lb-datapath-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&cgroup).expect("making a cgroup");
        ip("link set lo up");
        Self { bpffs, cgroup }
    }

    pub(crate) fn pin_dir(&self) -> PathBuf {
        self.bpffs.join("lb")
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            pin_dir: self.pin_dir(),
            object: Object::Normal,
            capacity: Capacity { flows: 4096, services: 1024, frontends: 1024, backends: 1024 },
            xdp: XdpMode::Off,
            tc: TcMode::Auto,
            socket_lb: SocketLb::Host,
            cgroup_root: Some(self.cgroup.clone()),
            snat_first: 16384,
            snat_count: 16384,
            udp_unreplied: 30,
            udp_replied: 120,
        }
    }
}

/// Runs `ip` in the namespace of this thread.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("running ip");
    assert!(status.success(), "ip {arguments}");
}

/// Makes a veth pair and returns its first end as a device of this role.
pub(crate) fn veth(name: &str, role: lb_common::DeviceRole) -> Device {
    ip(&format!("link add {name} type veth peer name {name}-p"));
    ip(&format!("link set {name} up"));
    device(name, role)
}

pub(crate) fn device(name: &str, role: lb_common::DeviceRole) -> Device {
    let ifindex = nix::net::if_::if_nametoindex(name).expect("the device is there");
    Device { role, ..Device::named(name, ifindex) }
}
