//! What an engine leaves on the machine when it is gone: one directory and cgroups, under one unique name.
//!
//! A lock tells whether the owner lives; the next engine removes what belongs to nobody.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

use crate::lab::until;

const RUN: &str = "/run/lb-kind";

/// The directory and the cgroups of one engine; removed on drop.
pub(super) struct Traces {
    name: String,
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Traces {
    /// Removes what dead owners left, then takes a new name.
    pub(super) fn create() -> Result<Self> {
        fs::create_dir_all(RUN).with_context(|| format!("creating {RUN}"))?;
        sweep();
        let name = format!("lb-kind-{}", std::process::id());
        let dir = Path::new(RUN).join(&name);
        // Locked before it has a name that a sweep looks at.
        let unborn = Path::new(RUN).join(format!(".{name}"));
        fs::create_dir_all(&unborn).with_context(|| format!("creating {}", unborn.display()))?;
        let lock = lock(&unborn).with_context(|| format!("locking {}", unborn.display()))?;
        fs::rename(&unborn, &dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self { name, dir, _lock: lock })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        remove(&self.name, &self.dir);
    }
}

fn lock(dir: &Path) -> Result<Flock<File>> {
    let file = File::create(dir.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow!(error).context("the lock is held"))
}

/// Removes what is left of owners that no longer hold their lock.
pub(super) fn sweep() {
    for entry in fs::read_dir(RUN).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with("lb-kind-") && lock(&entry.path()).is_ok() {
            remove(&name, &entry.path());
        }
    }
}

fn remove(name: &str, dir: &Path) {
    for cgroup in cgroups(name) {
        // The last processes leave a moment after they were killed.
        drop(until("a cgroup to be empty", Duration::from_secs(10), || {
            Ok(remove_tree(&cgroup).is_ok().then_some(()))
        }));
    }
    drop(fs::remove_dir_all(dir));
}

/// Cgroups of anybody dead or alive.
pub(super) fn left() -> Vec<PathBuf> {
    let tops = hierarchies().into_iter().flat_map(|top| fs::read_dir(top).into_iter().flatten());
    let names = tops.flatten().map(|entry| entry.path());
    names
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lb-kind-"))
        })
        .collect()
}

/// The cgroups with this name at the top of every hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|top| top.join(name)).filter(|path| path.is_dir()).collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let tops = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(path))
    });
    tops.collect()
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
