//! The housekeeper: removes flows that are over and clients' claims to a backend, and tells which
//! backends nothing names any more.
//!
//! It sweeps in slices of bounded size, so that it never holds a CPU for long. Invariant: it deletes
//! entries of the datapath and never edits them.

mod affinity;
mod expiry;
mod flows;
mod sockets;
mod socks;
mod worker;

use std::{collections::HashSet, path::Path, time::Instant};

use lb_common::{Addr4, Addr6, BackendState, BackendValue};

use self::{
    affinity::Affinity,
    flows::{Flows, Terms},
    socks::Socks,
};
pub use self::{
    expiry::{Lifetimes, expired},
    worker::{Report, Worker},
};
use crate::{
    clock::{Clock, ClockError},
    maps::{
        bpf::Access,
        family::MapFamily,
        table::{Table, TableError},
    },
    plan::BackendId,
};

/// Entries of one slice.
const SLICE: usize = 4096;

/// The housekeeper cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum HousekeeperError {
    /// A map cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The time cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Flows that were idle for longer than their lifetime.
    pub expired: usize,
    /// UDP and SCTP flows over IPv4 whose backend left.
    pub stale4: usize,
    /// UDP and SCTP flows over IPv6 whose backend left.
    pub stale6: usize,
    /// Entries without the other one of their pair.
    pub orphans: usize,
    /// Socket entries whose backend left.
    pub socks: usize,
    /// Connected UDP sockets that were ended because their backend left.
    pub sockets: usize,
    /// Clients that are no longer bound to a backend.
    pub affinity: usize,
}

impl Removed {
    /// Adds what another sweep removed.
    pub fn add(&mut self, other: Self) {
        let Self { expired, stale4, stale6, orphans, socks, sockets, affinity } = other;
        self.expired += expired;
        self.stale4 += stale4;
        self.stale6 += stale6;
        self.orphans += orphans;
        self.socks += socks;
        self.sockets += sockets;
        self.affinity += affinity;
    }

    /// UDP and SCTP flows whose backend left.
    pub fn stale(&self) -> usize {
        self.stale4 + self.stale6
    }

    /// Flows in all.
    pub fn flows(&self) -> usize {
        self.expired + self.stale() + self.orphans
    }
}

/// A look at every entry of the flow and socket maps.
#[derive(Clone, Debug)]
pub struct Round {
    /// When it began. Of the backends that had left by then, those in `named` are still in use, and
    /// no others.
    pub began: Instant,
    /// Backends that an entry names.
    pub named: HashSet<u32>,
    /// Number of entries.
    pub entries: usize,
}

impl Round {
    /// Whether an entry names this backend.
    pub fn names(&self, backend: BackendId) -> bool {
        self.named.contains(&backend.0)
    }
}

/// Sweeps the flow, socket and affinity maps.
#[derive(Debug)]
pub struct Housekeeper {
    clock: Clock,
    lifetimes: Lifetimes,
    flows4: Flows<Addr4>,
    flows6: Flows<Addr6>,
    socks4: Socks<Addr4>,
    socks6: Socks<Addr6>,
    affinity4: Affinity<Addr4>,
    affinity6: Affinity<Addr6>,
    backends4: Table<u32, BackendValue<Addr4>>,
    backends6: Table<u32, BackendValue<Addr6>>,
    stage: Stage,
    gone: HashSet<u32>,
    round: Round,
}

/// Which map comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Start,
    Flows4,
    Flows6,
    Socks4,
    Socks6,
    Affinity4,
    Affinity6,
}

impl Housekeeper {
    /// Opens the maps in the directory `maps`.
    ///
    /// # Errors
    ///
    /// When a map cannot be opened, or the clock not read.
    pub fn open(maps: &Path, lifetimes: Lifetimes) -> Result<Self, HousekeeperError> {
        Ok(Self {
            clock: Clock::open()?,
            lifetimes,
            flows4: Flows::open(maps)?,
            flows6: Flows::open(maps)?,
            socks4: Socks::open(maps)?,
            socks6: Socks::open(maps)?,
            affinity4: Affinity::open(maps)?,
            affinity6: Affinity::open(maps)?,
            backends4: Table::open(maps, Addr4::BACKENDS, Access::Read)?,
            backends6: Table::open(maps, Addr6::BACKENDS, Access::Read)?,
            stage: Stage::Start,
            gone: HashSet::new(),
            round: Round { began: Instant::now(), named: HashSet::new(), entries: 0 },
        })
    }

    /// Sweeps the next slice, of some thousand entries at most. After the last one of a round says
    /// what the round found.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or written; the round goes on with the next call.
    pub fn slice(&mut self, removed: &mut Removed) -> Result<Option<Round>, HousekeeperError> {
        if self.stage == Stage::Start {
            self.gone = self.gone_backends()?;
            self.round = Round { began: Instant::now(), named: HashSet::new(), entries: 0 };
            self.stage = Stage::Flows4;
        }
        let terms = Terms {
            now: self.clock.now()?,
            hz: self.clock.hz(),
            lifetimes: &self.lifetimes,
            gone: &self.gone,
        };
        let time = (terms.now, terms.hz);
        let Round { named, entries, .. } = &mut self.round;
        let (last, next) = match self.stage {
            Stage::Start | Stage::Flows4 => {
                (self.flows4.sweep(&terms, named, entries, removed)?, Stage::Flows6)
            }
            Stage::Flows6 => (self.flows6.sweep(&terms, named, entries, removed)?, Stage::Socks4),
            Stage::Socks4 => {
                (self.socks4.sweep(&self.gone, named, entries, removed)?, Stage::Socks6)
            }
            Stage::Socks6 => {
                (self.socks6.sweep(&self.gone, named, entries, removed)?, Stage::Affinity4)
            }
            Stage::Affinity4 => {
                (self.affinity4.sweep(time, &self.gone, entries, removed)?, Stage::Affinity6)
            }
            Stage::Affinity6 => {
                (self.affinity6.sweep(time, &self.gone, entries, removed)?, Stage::Start)
            }
        };
        if !last {
            return Ok(None);
        }
        self.stage = next;
        Ok((next == Stage::Start).then(|| self.round.clone()))
    }

    /// Sweeps everything at once, from the start: for the moment when backends have left.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or written.
    pub fn sweep(&mut self, removed: &mut Removed) -> Result<Round, HousekeeperError> {
        // A round that is under way began before the backends left; this one must not count on it.
        while self.stage != Stage::Start {
            let _round = self.slice(removed)?;
        }
        loop {
            if let Some(round) = self.slice(removed)? {
                return Ok(round);
            }
        }
    }

    /// The backends that have left, by the maps, so that a new agent knows those of the one before.
    fn gone_backends(&self) -> Result<HashSet<u32>, TableError> {
        let mut gone = HashSet::new();
        let mut note = |id: &u32, state: u8| {
            if state == BackendState::Gone as u8 {
                let _new = gone.insert(*id);
            }
        };
        self.backends4.for_each(|id, value| note(id, value.state))?;
        self.backends6.for_each(|id, value| note(id, value.state))?;
        Ok(gone)
    }
}
