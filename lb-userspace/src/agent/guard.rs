//! Looks after what is in the kernel: pins and links that others remove, entries that they change.

use std::time::{Duration, Instant};

use tokio::task::JoinError;
use tracing::{error, warn};

use super::Agent;
use crate::maps::{Contents, Maps as _, MapsError};

/// How often the maps are compared with what was written to them.
const COMPARE: Duration = Duration::from_secs(25);

/// What is in the maps, and how often they had been written when the reading began.
pub(super) type Look = (u64, Result<Contents, MapsError>);

impl Agent {
    /// Puts back pins and links that somebody removed; whether programs must be attached again.
    pub(super) fn heal(&mut self) -> bool {
        match self.datapath.heal() {
            Ok(missing) if missing.is_empty() => false,
            Ok(missing) => {
                self.status.counters.healed += 1;
                warn!(?missing, "somebody removed what is ours: putting it back");
                true
            }
            Err(error) => {
                error!(%error, "what was removed cannot be put back");
                false
            }
        }
    }

    /// Brings our programs back to the outer edge of their devices.
    pub(super) fn keep_outermost(&mut self) {
        if self.attached {
            self.outside = self.datapath.keep_outermost(Instant::now());
        }
    }

    /// Begins to read the maps, to compare them with what was written.
    pub(super) fn look_at_maps(&mut self) {
        let due = self.compared.is_none_or(|then| then.elapsed() >= COMPARE);
        if !due || self.looking.is_some() || !self.reconciler.settled() {
            return;
        }
        let written = self.reconciler.written();
        let maps = match self.datapath.maps() {
            Ok(maps) => maps,
            Err(error) => {
                error!(%error, "the maps cannot be compared with what was written");
                return;
            }
        };
        let read = move || (written, maps.contents());
        self.looking = Some(tokio::task::spawn_blocking(read));
    }

    /// Compares what is in the maps with what was written to them.
    pub(super) fn looked_at_maps(&mut self, look: Result<Look, JoinError>) {
        self.looking = None;
        let (written, contents) = match look {
            Ok((written, Ok(contents))) => (written, contents),
            Ok((_, Err(error))) => return error!(%error, "the maps cannot be read"),
            Err(error) => return error!(%error, "the maps were not read"),
        };
        // What was written meanwhile is seen in part at best: then the next look counts.
        if written != self.reconciler.written() {
            return;
        }
        self.compared = Some(Instant::now());
        self.status.counters.compared += 1;
        self.stale = true;
        let differences = self.reconciler.compare(&contents, Instant::now());
        if !differences.is_empty() {
            self.status.counters.healed += 1;
            warn!(entries = ?differences, "somebody changed the maps: repairing them");
        }
    }
}
