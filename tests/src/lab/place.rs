//! Where a process of the lab runs: a network namespace and a cgroup.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};

use super::netns::Netns;

/// A network namespace and a cgroup in which commands start.
#[derive(Clone)]
pub struct Place {
    netns: Arc<File>,
    path: PathBuf,
    cgroup: PathBuf,
}

impl Place {
    /// The place of processes in `netns` and `cgroup`.
    pub fn new(netns: &Netns, cgroup: &Path) -> Result<Self> {
        let netns_file = netns.try_clone_fd().context("keeping the namespace open")?;
        Ok(Self { netns: Arc::new(netns_file), path: netns.path(), cgroup: cgroup.to_owned() })
    }

    /// The network namespace, by its name.
    pub fn netns_path(&self) -> &Path {
        &self.path
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that starts in this place.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let netns = Arc::clone(&self.netns);
        let procs = self.cgroup.join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("opening {}", procs.display()))?;
        let mut command = Command::new(program);
        // Ctrl-C at a terminal is for the lab, which then ends its processes in order.
        let _ = command.process_group(0);
        let enter = move || {
            // SAFETY: both calls are async-signal-safe system calls on descriptors that the
            // closure owns; the buffer is a constant of the length given.
            let (joined, moved) = unsafe {
                (
                    libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1),
                    libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET),
                )
            };
            if joined == 1 && moved == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: `enter` runs between fork and exec: it makes two system calls and allocates
        // nothing (`last_os_error` only reads errno).
        let _ = unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}
