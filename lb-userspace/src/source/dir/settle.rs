//! When a change of the directory is complete.
//!
//! Invariant: pure; the time is a parameter. A file that somebody has open for writing holds up the
//! scan, but not for ever.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long nothing must have happened.
const QUIET: Duration = Duration::from_millis(20);
/// How long a file that was not closed must have been left alone.
const OPEN_QUIET: Duration = Duration::from_secs(1);
/// How long a scan is put off altogether.
const PATIENCE: Duration = Duration::from_secs(3);

/// What happened since the last scan.
#[derive(Debug, Default)]
pub(super) struct Settle {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Files that were written and not closed, and when last.
    writing: HashMap<PathBuf, Instant>,
}

impl Settle {
    /// Something happened.
    pub(super) fn touch(&mut self, now: Instant) {
        self.first = self.first.or(Some(now));
        self.last = Some(now);
    }

    /// A file was written.
    pub(super) fn written(&mut self, path: PathBuf, now: Instant) {
        let _before = self.writing.insert(path, now);
        self.touch(now);
    }

    /// A file was closed, renamed or removed.
    pub(super) fn closed(&mut self, path: &PathBuf, now: Instant) {
        let _before = self.writing.remove(path);
        self.touch(now);
    }

    /// When the next scan is due, if anything happened.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let open = self.writing.values().map(|since| *since + OPEN_QUIET).max();
        let quiet = open.map_or(last + QUIET, |open| open.max(last + QUIET));
        Some(quiet.min(first + PATIENCE))
    }

    /// Begins a scan: returns the files that it must leave alone.
    pub(super) fn begin(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        (self.first, self.last) = (None, None);
        self.writing.retain(|_, since| now < *since + OPEN_QUIET);
        self.writing.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_being_written_holds_up_the_scan() {
        let start = Instant::now();
        let mut settle = Settle::default();
        assert_eq!(settle.due(), None);
        settle.written("a.yaml".into(), start);
        assert_eq!(settle.due(), Some(start + OPEN_QUIET));
        settle.closed(&"a.yaml".into(), start + QUIET);
        assert_eq!(settle.due(), Some(start + QUIET * 2));
        assert!(settle.begin(start + QUIET * 2).is_empty());
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn a_file_that_is_written_for_ever_does_not_hold_up_the_others() {
        let start = Instant::now();
        let mut settle = Settle::default();
        let mut now = start;
        while settle.due().is_none_or(|due| due > now) {
            settle.written("log.yaml".into(), now);
            now += Duration::from_millis(100);
        }
        assert!(now <= start + PATIENCE + Duration::from_millis(100));
        assert_eq!(settle.begin(now), BTreeSet::from(["log.yaml".into()]));
    }
}
