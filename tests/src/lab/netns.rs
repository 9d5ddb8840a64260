//! Network namespaces with a name under `/run/netns`, entered by `setns`.
//!
//! Entering changes one thread and nothing else: bpffs and cgroup2 stay visible, which
//! `ip netns exec` would hide. Dropping a [`Netns`] takes its name away; the kernel removes the
//! namespace, and every device in it, once no process is inside.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::netlink::Netlink;

/// Where namespaces have their names, as `ip netns` and `nsenter --net=…` expect.
pub(crate) const NAMES: &str = "/run/netns";

/// A network namespace with loopback up.
pub struct Netns {
    name: String,
    file: File,
    netlink: Netlink,
    /// Whether the name goes away with this value.
    owned: bool,
}

impl Netns {
    /// Creates a namespace whose devices need no waiting: addresses are usable at once, and no
    /// router is listened to.
    pub fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(NAMES).with_context(|| format!("creating {NAMES}"))?;
        let path = path(name);
        let _ = File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let made = thread::scope(|scope| scope.spawn(|| make(&path)).join()).map_err(panicked)?;
        match made {
            Ok((file, netlink)) => Ok(Self { name: name.to_owned(), file, netlink, owned: true }),
            Err(error) => {
                remove_name(&path);
                Err(error.context(format!("creating the network namespace {name}")))
            }
        }
    }

    /// Leaves the namespace behind when this value is dropped, for whoever has recorded its name.
    pub fn leave(mut self) {
        self.owned = false;
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Links, addresses and routes of this namespace.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("entering {}", self.name))?;
                    work()
                })
                .join()
        })
        .map_err(panicked)?
    }

    /// Writes values under `/proc/sys/net` of this namespace: pairs of path and value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| settings.iter().try_for_each(|(key, value)| write_sysctl(key, value)))
    }

    /// The cookie-independent identity of the namespace: inode of its file.
    pub fn try_clone_fd(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            remove_name(&path(&self.name));
        }
    }
}

/// Takes a name under `/run/netns` away; what is not there is no error.
pub(crate) fn remove_name(path: &Path) {
    // Nothing can be done about a failure here, and the next sweep tries again.
    let _ = umount2(path, MntFlags::MNT_DETACH).ok();
    let _ = fs::remove_file(path).ok();
}

fn make(path: &Path) -> Result<(File, Netlink)> {
    unshare(CloneFlags::CLONE_NEWNET).context("unsharing the network namespace")?;
    let own = "/proc/thread-self/ns/net";
    mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting the namespace at {}", path.display()))?;
    for family in ["ipv4", "ipv6"] {
        // What a new namespace starts with depends on the machine; tests must not.
        let common = [("rp_filter", "0"), ("accept_redirects", "0"), ("send_redirects", "0")];
        let v6 = [("accept_dad", "0"), ("accept_ra", "0"), ("accept_redirects", "0")];
        for (key, value) in if family == "ipv4" { &common } else { &v6 } {
            for scope in ["all", "default"] {
                write_sysctl(&format!("{family}/conf/{scope}/{key}"), value)?;
            }
        }
    }
    let netlink = Netlink::open()?;
    netlink.up("lo")?;
    Ok((File::open(path)?, netlink))
}

fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> anyhow::Error {
    anyhow!("a thread inside a network namespace panicked")
}
