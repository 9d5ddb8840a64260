//! Where a process runs: a network namespace and a cgroup, or all that makes a node its own machine.

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
    path: PathBuf,
    cgroups: Vec<PathBuf>,
    namespaces: Vec<Arc<File>>,
}

impl Place {
    /// The place of processes in `netns` and `cgroup`.
    pub fn new(netns: &Netns, cgroup: &Path) -> Result<Self> {
        Self::among(&netns.path(), vec![cgroup.to_owned()], &[])
    }

    /// The place of processes in the network namespace named by `netns`, in a cgroup of each
    /// hierarchy (that of version 2 first) and in further namespaces, given by their files. The
    /// order of the files is the order of entering; a mount namespace comes last, because the
    /// files are named as they are seen from here.
    pub fn among(netns: &Path, cgroups: Vec<PathBuf>, further: &[PathBuf]) -> Result<Self> {
        let namespaces = std::iter::once(netns)
            .chain(further.iter().map(PathBuf::as_path))
            .map(|file| {
                let opened = File::open(file);
                opened.map(Arc::new).with_context(|| format!("opening {}", file.display()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { path: netns.to_owned(), cgroups, namespaces })
    }

    /// The network namespace, by its name.
    pub fn netns_path(&self) -> &Path {
        &self.path
    }

    /// The cgroup; of version 2 where there are several.
    pub fn cgroup(&self) -> &Path {
        self.cgroups.first().map_or(Path::new("/"), PathBuf::as_path)
    }

    /// A command that starts in this place.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let namespaces = self.namespaces.clone();
        let procs = self
            .cgroups
            .iter()
            .map(|cgroup| {
                let procs = cgroup.join("cgroup.procs");
                let opened = OpenOptions::new().write(true).open(&procs);
                opened.with_context(|| format!("opening {}", procs.display()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut command = Command::new(program);
        // Ctrl-C at a terminal is for the lab, which then ends its processes in order.
        let _ = command.process_group(0);
        let enter = move || {
            for procs in &procs {
                // SAFETY: an async-signal-safe system call on a descriptor that the closure owns;
                // the buffer is a constant of the length given.
                if unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) } != 1 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            for namespace in &namespaces {
                // SAFETY: an async-signal-safe system call on a descriptor that the closure owns.
                if unsafe { libc::setns(namespace.as_raw_fd(), 0) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: `enter` runs between fork and exec: it makes system calls and allocates
        // nothing (`last_os_error` only reads errno).
        let _ = unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}
