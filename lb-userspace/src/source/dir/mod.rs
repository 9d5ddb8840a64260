//! A directory of manifests as a source.
//!
//! Reads the `.yaml`, `.yml` and `.json` files in it, not those in directories below, and not hidden
//! ones. Whoever writes them had best write under a hidden name and rename; for those who do not, a
//! change counts once its files are closed or left alone.
//!
//! Invariant: one complete change is one batch. A directory that disappears changes nothing.

mod files;
mod settle;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc as std_mpsc,
    thread,
    time::{Duration, Instant},
};

use files::{Files, Scan};
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use settle::Settle;
use tokio::sync::mpsc;

use super::{BACKLOG, Events};
use crate::model::{Event, Problem, Severity, Subject};

/// How often the directory is scanned although nothing seems to have happened: some file systems
/// tell nothing.
const RESCAN: Duration = Duration::from_secs(5);
/// The same while the directory cannot be watched or read.
const RETRY: Duration = Duration::from_millis(500);
/// How soon a file that was changing is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("source directory {path}: {hint}")]
pub struct DirError {
    /// The directory.
    pub path: String,
    /// What to do.
    pub hint: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Reads the directory once, for the agent of the node `node`.
///
/// # Errors
///
/// There is no such directory, or it cannot be read.
pub fn read(dir: &Path, node: &str) -> Result<Vec<Event>, DirError> {
    let scan = Files::new(node).scan(dir, &BTreeSet::new()).map_err(|error| explain(dir, error))?;
    Ok(scan.events)
}

/// Follows the directory for the agent of the node `node`, in a thread that ends when the receiver
/// is dropped.
///
/// # Errors
///
/// There is no such directory, or it cannot be read.
pub fn follow(dir: &Path, node: &str) -> Result<Events, DirError> {
    let _entries = fs::read_dir(dir).map_err(|error| explain(dir, error))?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let mut follower = Follower::new(dir.to_owned(), node, sender);
    let _thread = thread::Builder::new()
        .name("source".into())
        .spawn(move || follower.run())
        .map_err(|error| explain(dir, error))?;
    Ok(receiver)
}

fn explain(dir: &Path, source: io::Error) -> DirError {
    let hint = if source.kind() == io::ErrorKind::NotFound {
        "it does not exist; create it, or name another one with --source"
    } else {
        "it cannot be read; check that it is a directory and who may read it"
    };
    DirError { path: dir.display().to_string(), hint, source }
}

struct Follower {
    dir: PathBuf,
    sender: mpsc::Sender<Vec<Event>>,
    files: Files,
    settle: Settle,
    notices: std_mpsc::Receiver<notify::Result<notify::Event>>,
    notify: std_mpsc::Sender<notify::Result<notify::Event>>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
    problems: Vec<Problem>,
}

impl Follower {
    fn new(dir: PathBuf, node: &str, sender: mpsc::Sender<Vec<Event>>) -> Self {
        let (notify, notices) = std_mpsc::channel();
        Self {
            dir,
            sender,
            files: Files::new(node),
            settle: Settle::default(),
            notices,
            notify,
            watcher: None,
            watched: None,
            problems: Vec::new(),
        }
    }

    fn run(&mut self) {
        let mut next = Instant::now();
        while !self.sender.is_closed() {
            let due = self.settle.due().unwrap_or(next).min(next);
            let now = Instant::now();
            if due > now {
                // Not longer than this, to see that nobody listens any more.
                if let Ok(notice) = self.notices.recv_timeout((due - now).min(RETRY)) {
                    self.note(notice);
                }
                continue;
            }
            next = Instant::now() + self.scan();
        }
    }

    /// Scans, and says after how long to do it again.
    fn scan(&mut self) -> Duration {
        let mut pause = RESCAN;
        let mut problem = None;
        if let Err(error) = self.watch() {
            pause = RETRY;
            problem = Some(format!("cannot be watched ({error}): read twice a second instead"));
        }
        let skip = self.settle.begin(Instant::now());
        let mut events = match self.files.scan(&self.dir, &skip) {
            Ok(Scan { events, unsettled }) => {
                if unsettled {
                    pause = AGAIN;
                }
                events
            }
            Err(error) => {
                pause = RETRY;
                problem = Some(format!("cannot be read ({error}): what it said before stays"));
                Vec::new()
            }
        };
        let subject = Subject::Source(self.dir.display().to_string().into());
        let problems: Vec<Problem> = problem
            .into_iter()
            .map(|reason| Problem {
                severity: Severity::Warning,
                object: subject.clone(),
                file: None,
                reason: Cow::Owned(reason),
            })
            .collect();
        if problems != self.problems {
            self.problems = problems.clone();
            events.push(Event::Problems(subject, problems));
        }
        if !events.is_empty() {
            // Nobody listens any more: the loop ends.
            let _closed = self.sender.blocking_send(events).is_err();
        }
        pause
    }

    /// Watches the directory that is there now.
    fn watch(&mut self) -> notify::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(&self.dir)?;
        let identity = Some((metadata.dev(), metadata.ino()));
        if self.watcher.is_none() || self.watched != identity {
            let mut watcher = notify::recommended_watcher(self.notify.clone())?;
            watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
            self.watcher = Some(watcher);
            self.watched = identity;
        }
        Ok(())
    }

    fn note(&mut self, notice: notify::Result<notify::Event>) {
        let now = Instant::now();
        let Ok(notice) = notice else {
            // Notices were lost, or the directory is gone: look.
            self.settle.touch(now);
            return;
        };
        let written = match notice.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => true,
            // A new name may be one of a file that is complete: nobody closes a link or a rename.
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => false,
        };
        for path in notice.paths {
            match written {
                true => self.settle.written(path, now),
                false => self.settle.closed(&path, now),
            }
        }
        self.settle.touch(now);
    }
}
