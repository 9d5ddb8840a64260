//! The housekeeper's thread: a slice now and then, and a full sweep when backends have left.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{Housekeeper, Removed, Round};

/// Time between two visits.
const VISIT: Duration = Duration::from_secs(1);
/// Visits in which everything is seen once.
const VISITS: usize = 10;
/// Entries that one visit looks at in any case.
const AT_LEAST: usize = 8192;

/// What the housekeeper did in one visit.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it removed.
    pub removed: Removed,
    /// The round that it ended, if any.
    pub round: Option<Round>,
}

/// The running housekeeper; ends when dropped.
#[derive(Debug)]
pub struct Worker {
    sweep_now: mpsc::Sender<()>,
}

impl Worker {
    /// Starts the thread in the network namespace of the caller. `report` is called on it after
    /// each visit that ended a round or removed something.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(
        housekeeper: Housekeeper,
        report: impl FnMut(Report) + Send + 'static,
    ) -> io::Result<Self> {
        let (sweep_now, asked) = mpsc::channel();
        let _detached = thread::Builder::new()
            .name("housekeeper".into())
            .spawn(move || run(housekeeper, &asked, report))?;
        Ok(Self { sweep_now })
    }

    /// Sweeps everything at once, because backends have left: to be called after the maps say so.
    pub fn backends_left(&self) {
        // The thread ends only after `self`.
        let _running = self.sweep_now.send(()).is_ok();
    }
}

fn run(mut housekeeper: Housekeeper, asked: &mpsc::Receiver<()>, mut report: impl FnMut(Report)) {
    let mut entries = 0;
    loop {
        let mut removed = Removed::default();
        let result = match asked.recv_timeout(VISIT) {
            Ok(()) => {
                // Several changes in a row are one reason to sweep.
                while asked.try_recv().is_ok() {}
                housekeeper.sweep(&mut removed).map(Some)
            }
            Err(RecvTimeoutError::Timeout) => visit(&mut housekeeper, entries, &mut removed),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let round = result.unwrap_or_else(|error| {
            tracing::warn!(%error, "a visit of the housekeeper failed");
            None
        });
        entries = round.as_ref().map_or(entries, |round| round.entries);
        if round.is_some() || removed != Removed::default() {
            report(Report { removed, round });
        }
    }
}

/// Sweeps a part of everything, so that all of it is seen in time.
fn visit(
    housekeeper: &mut Housekeeper,
    entries: usize,
    removed: &mut Removed,
) -> Result<Option<Round>, super::HousekeeperError> {
    let slices = (entries / VISITS).max(AT_LEAST).div_ceil(super::SLICE);
    // Each map ends with a slice of its own.
    for _slice in 0..slices + 6 {
        if let Some(round) = housekeeper.slice(removed)? {
            return Ok(Some(round));
        }
    }
    Ok(None)
}
