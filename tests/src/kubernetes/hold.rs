//! What makes a node a machine of its own: the process that holds its namespaces.
//!
//! It is started in the node's network namespace and cgroups, takes a mount, a cgroup and a host
//! name namespace of its own, and arranges that in there `/run`, `/var/log`, `/sys/fs/bpf` and
//! `/sys/fs/cgroup` are the node's. So manifests for real nodes hold for it word for word, the
//! top of its cgroup hierarchies is the node's group, and every mount of the node (its pods'
//! included) is gone from the kernel as soon as its processes are.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

use super::hierarchy::{self, Hierarchy};

/// The cgroup of the node's own processes, below the node's.
pub(super) const HOST: &str = "host";

/// Kernel settings that the kubelet would change on the machine were they not what it wants.
/// The node sees these values in place of the machine's.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Holds the namespaces of a node until killed: `lb-cluster hold NODE DIR STATE`.
///
/// # Errors
///
/// A namespace or a mount could not be made. Nothing is left behind then.
pub fn hold(node: &str, dir: &Path, state: &Path) -> Result<()> {
    let hierarchies = hierarchy::all()?;
    let apart = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWUTS;
    unshare(apart).context("taking namespaces apart from the machine's")?;
    sethostname(node).context("setting the host name")?;
    // From here on no mount is seen outside, and none made outside is seen here.
    change("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    cgroups(&hierarchies)?;
    directories(dir, state)?;
    tunables(dir)?;
    // Inside of the node mounts spread, as they do on a machine run by systemd: pods may ask for it.
    change("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    let mut out = std::io::stdout();
    out.write_all(b"held\n").and_then(|()| out.flush()).context("saying that all is there")?;
    loop {
        nix::unistd::pause();
    }
}

/// A `/sys` that shows this network namespace, with the node's cgroups and a bpffs of its own.
fn cgroups(hierarchies: &[Hierarchy]) -> Result<()> {
    umount2("/sys", MntFlags::MNT_DETACH).context("unmounting the machine's /sys")?;
    attach("sysfs", Path::new("/sys"), "sysfs", "")?;
    attach("bpf", Path::new("/sys/fs/bpf"), "bpf", "mode=700")?;
    let top = Path::new("/sys/fs/cgroup");
    if hierarchies.iter().all(|hierarchy| hierarchy.root != top) {
        attach("tmpfs", top, "tmpfs", "mode=755")?;
    }
    for Hierarchy { root, kind, options } in hierarchies {
        make(root)?;
        // In this cgroup namespace, a new mount shows the node's group as the top.
        attach(kind, root, kind, options)?;
        let own = root.join(HOST).join("cgroup.procs");
        fs::write(&own, "0").with_context(|| format!("joining {}", own.display()))?;
    }
    Ok(())
}

/// The node's own `/run`, in which the cluster's state directory is seen too, and `/var/log`.
fn directories(dir: &Path, state: &Path) -> Result<()> {
    let (run, log) = (dir.join("run"), dir.join("log"));
    let below = state.strip_prefix("/run").context("the state directory is below /run")?;
    let seen = run.join(below);
    for dir in [&run, &log, &seen, &run.join("netns"), &run.join("lock")] {
        make(dir)?;
    }
    bind(state, &seen)?;
    bind(&run, Path::new("/run"))?;
    bind(&log, Path::new("/var/log"))
}

fn tunables(dir: &Path) -> Result<()> {
    let values = dir.join("sysctl");
    make(&values)?;
    for (key, value) in TUNABLES {
        let file = values.join(key.replace('/', "."));
        fs::write(&file, format!("{value}\n"))
            .with_context(|| format!("writing {}", file.display()))?;
        bind(&file, &Path::new("/proc/sys").join(key))?;
    }
    Ok(())
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

fn attach(source: &str, at: &Path, kind: &str, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(source), at, Some(kind), flags, Some(options))
        .with_context(|| format!("mounting {kind} at {}", at.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("mounting {} at {}", from.display(), to.display()))
}

fn change(at: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).context("changing how mounts spread")
}

/// Where the namespaces of the holding process are found, in the order of entering.
pub(super) fn namespaces(pid: i32) -> Vec<PathBuf> {
    ["uts", "cgroup", "mnt"].map(|kind| format!("/proc/{pid}/ns/{kind}").into()).to_vec()
}
