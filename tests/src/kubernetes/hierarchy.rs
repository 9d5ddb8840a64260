//! The cluster's cgroups, in the hierarchy of version 2 and in every one of version 1.
//!
//! Only directories below the cluster's own are ever written to. Each process of a cluster is in
//! one of them before it executes anything, and so is whatever it starts, pods included; that is
//! how `down` finds all of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// `cgroup` or `cgroup2`.
    pub(super) kind: String,
    /// The controllers of one of version 1, as mount options.
    pub(super) options: String,
}

/// All hierarchies, that of version 2 first.
pub(super) fn all() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, root, kind @ ("cgroup" | "cgroup2"), options, ..] = words[..] else { continue };
        if found.iter().any(|known| known.root == Path::new(root)) {
            continue;
        }
        // What is left names the controllers, or the hierarchy itself.
        let ours =
            |option: &&str| !["rw", "ro", "nosuid", "nodev", "noexec", "relatime"].contains(option);
        let options: Vec<&str> = options.split(',').filter(ours).collect();
        found.push(Hierarchy {
            root: root.into(),
            kind: kind.to_owned(),
            options: if kind == "cgroup" { options.join(",") } else { String::new() },
        });
    }
    found.sort_by_key(|hierarchy| hierarchy.kind != "cgroup2");
    ensure!(
        found.first().is_some_and(|first| first.kind == "cgroup2"),
        "no cgroup v2 hierarchy is mounted: mount one, as at /sys/fs/cgroup/unified"
    );
    Ok(found)
}

impl Hierarchy {
    /// Creates `below` and every directory above it that is missing, and returns its path.
    pub(super) fn create(&self, below: &Path) -> Result<PathBuf> {
        let mut dir = self.root.clone();
        for part in below.components() {
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("creating {}", dir.display()));
                }
            }
            if self.kind == "cgroup" {
                // A cpuset of version 1 begins empty, and takes no process before it has both.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let Ok(value) = fs::read_to_string(parent.join(file)) else { continue };
                    let path = dir.join(file);
                    fs::write(&path, value)
                        .with_context(|| format!("writing {}", path.display()))?;
                }
            } else {
                delegate(&dir);
            }
        }
        Ok(dir)
    }
}

/// Lets the groups below have the controllers of this one: the kubelet wants them on a machine
/// without version 1. Where version 1 has them there are none here.
fn delegate(dir: &Path) {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One that cannot be had is missed, if at all, by the kubelet, which names it.
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).ok();
    }
}

/// Kills every process in these cgroups and below, and removes the cgroups.
///
/// A process that was about to join is killed in a later round, or does not find the cgroup any
/// more and ends by itself.
pub(super) fn end(cgroups: &[PathBuf], patience: Duration) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut left = Vec::new();
        for cgroup in cgroups {
            // Only version 2 has this file. It takes all at once, those just being forked too.
            let _ = fs::write(cgroup.join("cgroup.kill"), "1").ok();
            processes(cgroup, &mut left);
        }
        for pid in &left {
            // It may have ended since; the next round looks again.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        // The kernel keeps a cgroup a little longer than it shows the last process in it.
        let removed = match &left[..] {
            [] => cgroups.iter().try_for_each(|cgroup| remove(cgroup)),
            left => Err(anyhow!("processes {left:?} do not die")),
        };
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > patience => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Adds the processes in a cgroup and below it.
pub(super) fn processes(cgroup: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // A zero is a process that cannot be seen from this pid namespace.
    found.extend(text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid: &i32| *pid > 0));
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found);
        }
    }
}

/// Removes a cgroup with everything below it; one that is not there is no error.
fn remove(cgroup: &Path) -> Result<()> {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the cgroup {}", cgroup.display()))
        }
        _ => Ok(()),
    }
}
