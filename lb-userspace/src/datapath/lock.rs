//! One agent for each pin directory: a lock that the kernel releases when its holder dies.

use std::{
    fs::{self, File},
    io,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The lock on a pin directory, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _flock: Flock<File>,
}

/// The pin directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent runs on this directory. Stop it, or give each its own `--pin-dir`.
    #[error("{dir} is in use by {holder}: stop it first, or give each agent its own --pin-dir")]
    Held {
        /// The pin directory.
        dir: PathBuf,
        /// Who holds the lock.
        holder: String,
    },
    /// The directory cannot be opened or locked.
    #[error("locking {dir}")]
    Io {
        /// The pin directory.
        dir: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Lock {
    /// Locks `dir`.
    ///
    /// # Errors
    ///
    /// When another process holds the lock.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { dir: dir.to_owned(), source };
        let file = File::open(dir).map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(flock) => Ok(Self { _flock: flock }),
            Err((file, Errno::EWOULDBLOCK)) => {
                let holder = holder(&file).map_or_else(
                    || "another lb process".to_owned(),
                    |pid| format!("the lb process with pid {pid}"),
                );
                Err(LockError::Held { dir: dir.to_owned(), holder })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

/// The process that holds the lock on `dir`, if any does. Unlike taking the lock, looking cannot
/// get in the way of an agent that starts at this moment.
pub fn holder_of(dir: &Path) -> Option<i32> {
    holder(&File::open(dir).ok()?)
}

/// The process that holds a lock on `file`; unknown when it lives in another pid namespace.
fn holder(file: &File) -> Option<i32> {
    let inode = file.metadata().ok()?.st_ino();
    holder_in(&fs::read_to_string("/proc/locks").ok()?, inode)
}

/// Finds the holder in the text of /proc/locks. The device numbers there are those of the
/// superblock, which `stat` need not repeat, so the inode alone must do, among flocks.
fn holder_in(locks: &str, inode: u64) -> Option<i32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, _, access) = (fields.next()?, fields.next()?, fields.next()?);
        let (pid, file) = (fields.next()?.parse().ok()?, fields.next()?);
        let locked: u64 = file.rsplit(':').next()?.parse().ok()?;
        (kind == "FLOCK" && access == "WRITE" && locked == inode && pid > 0).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_other_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1b:77 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 12 00:1b:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 00:1b:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 4321 00:1c:77 0 EOF\n";
        assert_eq!(holder_in(locks, 77), Some(4321));
        assert_eq!(holder_in(locks, 78), None);
    }

    #[test]
    fn a_second_lock_names_the_first_process() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lock = Lock::take(dir.path()).expect("nobody else locks it");
        let error = Lock::take(dir.path()).expect_err("it is locked").to_string();
        assert_eq!(holder_of(dir.path()), i32::try_from(std::process::id()).ok());
        let pid = std::process::id().to_string();
        assert!(error.contains(&pid), "{error}");
        drop(lock);
        assert_eq!(holder_of(dir.path()), None);
        let _again = Lock::take(dir.path()).expect("it is free again");
    }
}
