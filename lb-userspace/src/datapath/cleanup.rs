//! Removes what lb left in the kernel: exactly what is ours, and says what that was.
//!
//! Invariant: only pins below the pin directory are touched, and of those only BPF objects in the
//! places where an agent puts them; whatever else lies there stays and is reported. Running it
//! twice is no error.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{
    attach, links,
    lock::{Lock, LockError},
    paths::PinPaths,
    sysctl,
};
use crate::maps::bpf::{self, Access, ObjectKind};

/// What was removed, and what was not.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// Names of the removed links: device (or `cgroup`) and direction.
    pub links: Vec<String>,
    /// Names of the removed maps.
    pub maps: Vec<String>,
    /// Directories that were removed.
    pub directories: Vec<PathBuf>,
    /// What stays, and why.
    pub kept: Vec<Kept>,
}

/// Something that stays.
#[derive(Debug, serde::Serialize)]
pub struct Kept {
    /// A path, or the name of a setting.
    pub what: String,
    /// Why it stays.
    pub why: String,
}

/// Cleaning up was not possible.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent is running on the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The pin directory cannot be read.
    #[error("reading {dir}")]
    Read {
        /// The pin directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What to do when an agent runs on the directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhileRunning {
    /// Leave everything as it is.
    Refuse,
    /// Remove what is there; the agent goes on without its datapath.
    Proceed,
}

/// Removes all that agents of any ABI version left below `pin_dir`.
///
/// # Errors
///
/// When an agent runs on the directory and that is to be respected, or it cannot be read.
pub fn cleanup(pin_dir: &Path, while_running: WhileRunning) -> Result<Report, CleanupError> {
    let mut report = Report::default();
    if !pin_dir.exists() {
        return Ok(report);
    }
    let lock = match (Lock::take(pin_dir), while_running) {
        (Err(LockError::Held { .. }), WhileRunning::Proceed) => None,
        (lock, _) => Some(lock?),
    };
    let paths = PinPaths::new(pin_dir);
    let versions = paths
        .versions()
        .map_err(|source| CleanupError::Read { dir: pin_dir.to_owned(), source })?;
    for (_, dir) in versions {
        remove_version(&dir, &mut report);
    }
    drop(lock);
    match fs::remove_dir(pin_dir) {
        Ok(()) => report.directories.push(pin_dir.to_owned()),
        // The mount point itself, or it holds what is not ours.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => report.keep(pin_dir.display(), error),
    }
    if !report.links.is_empty() {
        report.kept.extend(
            sysctl::settings_left()
                .into_iter()
                .map(|(what, why)| Kept { what, why: why.to_owned() }),
        );
    }
    Ok(report)
}

/// Removes the pins of one ABI version: links first, so that no program runs without its maps'
/// names in the file system.
pub(super) fn remove_version(dir: &Path, report: &mut Report) {
    let links_dir = dir.join("links");
    for pin in links::pins_in(&links_dir).unwrap_or_default() {
        let path = links_dir.join(&pin);
        let removed = match links::open(&path) {
            Ok(_) => attach::detach(&links_dir, &pin),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => report.links.push(pin),
            Err(error) => report.keep(path.display(), error),
        }
    }
    let maps_dir = dir.join("maps");
    for pin in links::pins_in(&maps_dir).unwrap_or_default() {
        let path = maps_dir.join(&pin);
        match remove_map(&path) {
            Ok(()) => report.maps.push(pin),
            Err(error) => report.keep(path.display(), error),
        }
    }
    for dir in [links_dir.as_path(), maps_dir.as_path(), dir] {
        match fs::remove_dir(dir) {
            Ok(()) => report.directories.push(dir.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => report.keep(dir.display(), error),
        }
    }
}

fn remove_map(path: &Path) -> io::Result<()> {
    let object = bpf::obj_get(path, Access::ReadWrite)?;
    if bpf::object_kind(&object)? != ObjectKind::Map {
        return Err(io::Error::other("it is not a map"));
    }
    fs::remove_file(path)
}

impl Report {
    fn keep(&mut self, what: impl fmt::Display, why: impl fmt::Display) {
        self.kept.push(Kept { what: what.to_string(), why: why.to_string() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.links.is_empty() && self.maps.is_empty() && self.directories.is_empty() {
            writeln!(f, "nothing to remove")?;
        }
        for link in &self.links {
            writeln!(f, "detached {link}")?;
        }
        for map in &self.maps {
            writeln!(f, "removed map {map}")?;
        }
        for dir in &self.directories {
            writeln!(f, "removed {}", dir.display())?;
        }
        for Kept { what, why } in &self.kept {
            writeln!(f, "kept {what}: {why}")?;
        }
        Ok(())
    }
}
