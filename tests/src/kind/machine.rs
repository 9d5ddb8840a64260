//! What of the machine must be the same afterwards: sysctls that a node would change, mounts, cgroups and
//! processes with our name.

use std::fs;

use super::{checks::Checks, traces};

/// Sysctls of the whole machine that kubelets, systemd and engines write.
const SYSCTLS: [&str; 10] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/file-max",
    "fs/nr_open",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
];

/// The machine at one moment.
pub(super) struct Machine {
    sysctls: Vec<(&'static str, String)>,
    links: String,
    etc_docker: bool,
    lib_modules: bool,
}

impl Machine {
    /// Takes a look.
    pub(super) fn look() -> Self {
        let read = |key: &'static str| {
            (key, fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default())
        };
        Self {
            sysctls: SYSCTLS.map(read).to_vec(),
            links: links(),
            etc_docker: fs::exists("/etc/docker").unwrap_or_default(),
            lib_modules: fs::exists("/lib/modules").unwrap_or_default(),
        }
    }

    /// Looks again.
    pub(super) fn is_unchanged(&self, checks: &mut Checks) {
        checks.step("the machine afterwards");
        let now = Self::look();
        for ((key, before), (_, after)) in self.sysctls.iter().zip(&now.sysctls) {
            if before != after {
                checks.check(&format!("sysctl {key} was {before} and is {after}"), false);
            }
        }
        checks.check("no sysctl of the machine has changed", self.sysctls == now.sysctls);
        let is_new = |link: &&str| !self.links.contains(*link);
        let new = now.links.lines().any(|link| {
            ["docker", "br-"].iter().any(|ours| link.starts_with(ours)) && is_new(&link)
        });
        checks.check("no link of the engine is there", !new);
        let files = (self.etc_docker, self.lib_modules) == (now.etc_docker, now.lib_modules);
        checks.check("no directory of the engine is there", files);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        checks.check("no mount is left", !mounts.contains("lb-kind"));
        checks.check("no cgroup is left", traces::left().is_empty());
        checks.check("no process is left", processes() == 0);
    }
}

fn links() -> String {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    names.map(|name| format!("{}\n", name.file_name().to_string_lossy())).collect()
}

/// Processes that were started for an engine of ours and are in another PID namespace than this one.
fn processes() -> usize {
    let own = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let other = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|link| link != own);
            let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            other && cgroups.contains("/lb-kind-")
        })
        .count()
}
