//! What a lab owns on the machine, under one unique name, and the sweep of what dead labs left.
//!
//! A lab owns `/run/lb-lab/<id>` (with a bpffs of its own mounted below), the cgroup
//! `lb-lab-<id>`, and the network namespaces `lb-<id>-…`. It holds a lock while it lives, so that
//! a later lab knows whose owner died, even one killed with -9, and removes those things first.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::netns;

const RUN: &str = "/run/lb-lab";

/// The machine-wide possessions of one lab; removed on drop.
pub(super) struct Scope {
    id: String,
    dir: PathBuf,
    cgroup: PathBuf,
    _lock: Flock<File>,
}

impl Scope {
    /// Sweeps leftovers of dead labs, then takes a new unique name and everything under it.
    pub(super) fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let hierarchy = cgroup2()?;
        fs::create_dir_all(RUN).with_context(|| format!("creating {RUN}"))?;
        sweep(&hierarchy);

        let id = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(RUN).join(&id);
        // The lock must be held before the directory has a name that a sweep looks at.
        let unborn = Path::new(RUN).join(format!(".{id}"));
        fs::create_dir_all(&unborn).with_context(|| format!("creating {}", unborn.display()))?;
        let lock = lock(&unborn).with_context(|| format!("locking {}", unborn.display()))?;
        fs::rename(&unborn, &dir).with_context(|| format!("creating {}", dir.display()))?;

        let scope = Self { cgroup: hierarchy.join(format!("lb-lab-{id}")), id, dir, _lock: lock };
        fs::create_dir(&scope.cgroup)
            .with_context(|| format!("creating the cgroup {}", scope.cgroup.display()))?;
        let bpf = scope.dir.join("bpf");
        fs::create_dir(&bpf).with_context(|| format!("creating {}", bpf.display()))?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting a bpffs at {}", bpf.display()))?;
        Ok(scope)
    }

    /// A network namespace's name, unique on the machine.
    pub(super) fn netns_name(&self, what: &str) -> String {
        format!("lb-{}-{what}", self.id)
    }

    /// The directory for files of this lab.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bpffs directory of one node, created.
    pub(super) fn bpffs(&self, node: &str) -> Result<PathBuf> {
        let dir = self.dir.join("bpf").join(node);
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// A cgroup below the lab's own, created.
    pub(super) fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cgroup.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        remove(&self.id, &self.dir, &self.cgroup);
    }
}

/// Where the cgroup v2 hierarchy is mounted.
pub(crate) fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .ok_or_else(|| anyhow!("no cgroup v2 hierarchy is mounted"))
}

fn lock(dir: &Path) -> Result<Flock<File>> {
    let file = File::create(dir.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow!(error).context("the lock is held"))
}

/// Removes what labs left whose owner no longer holds its lock.
fn sweep(hierarchy: &Path) {
    let Ok(entries) = fs::read_dir(RUN) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if !id.starts_with('.') && lock(&entry.path()).is_ok() {
            remove(&id, &entry.path(), &hierarchy.join(format!("lb-lab-{id}")));
        }
    }
}

/// Removes everything that carries `id`. Failures are left to the next sweep.
fn remove(id: &str, dir: &Path, cgroup: &Path) {
    kill_all(cgroup);
    let prefix = format!("lb-{id}-");
    for entry in fs::read_dir(netns::NAMES).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            netns::remove_name(&entry.path());
        }
    }
    let _ = umount2(&dir.join("bpf"), MntFlags::MNT_DETACH).ok();
    let _ = fs::remove_dir_all(dir).ok();
}

/// Kills every process in a cgroup of ours and removes it with its children.
fn kill_all(cgroup: &Path) {
    if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
        return;
    }
    // The kernel refuses to remove a cgroup until the last process in it is gone.
    let deadline = Instant::now() + Duration::from_secs(5);
    while remove_tree(cgroup).is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
