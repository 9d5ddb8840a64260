//! Whether this machine can hold a lab.

use std::{fs, path::Path};

use super::{Lab, Setup, scope};

/// Why a lab cannot be built here: one reason, or `None` when it can.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root: run the tests as root".to_owned());
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Some("the kernel has no network namespaces".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\tbpf\n")) {
        return Some("the kernel has no bpffs".to_owned());
    }
    scope::cgroup2().err().map(|error| format!("{error}: mount one at /sys/fs/cgroup"))
}

/// Starts a lab; where the machine cannot hold one, says so and returns `None`.
///
/// # Panics
/// When the machine can hold a lab and starting one fails all the same.
pub fn start_or_skip(setup: Setup) -> Option<Lab> {
    if let Some(reason) = missing() {
        println!("SKIPPED: {reason}");
        return None;
    }
    Some(Lab::start(setup).expect("starting a lab"))
}
