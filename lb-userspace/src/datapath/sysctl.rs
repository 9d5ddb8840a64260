//! The two settings of the loopback device without which host traffic that no socket hook saw
//! cannot reach a node port on a loopback address.
//!
//! Only `lo` is touched: `accept_local` lets the answers of a local backend in again, and
//! `route_localnet` lets packets with loopback addresses be routed.

use std::{fs, io};

const SETTINGS: [&str; 2] = ["net/ipv4/conf/lo/accept_local", "net/ipv4/conf/lo/route_localnet"];

fn path(setting: &str) -> String {
    format!("/proc/sys/{setting}")
}

/// Sets both settings; returns those that could not be set, with the reason.
pub fn apply() -> Vec<(String, io::Error)> {
    let mut failed = Vec::new();
    for setting in SETTINGS {
        let is_set = fs::read_to_string(path(setting)).is_ok_and(|value| value.trim() == "1");
        if is_set {
            continue;
        }
        if let Err(error) = fs::write(path(setting), "1") {
            failed.push((setting.replace('/', "."), error));
        }
    }
    failed
}

/// Those of the settings that are still on, with what to know about them.
pub fn settings_left() -> Vec<(String, &'static str)> {
    SETTINGS
        .into_iter()
        .filter(|setting| fs::read_to_string(path(setting)).is_ok_and(|v| v.trim() == "1"))
        .map(|setting| {
            let name = setting.replace('/', ".");
            (name, "is 1; what it was before lb is not known (the kernel's default is 0)")
        })
        .collect()
}
