//! Looks at the agent's pinned maps until each Service has all its endpoints in them.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use lb_common::{Addr4, FrontendKey, FrontendValue, names, proto};
use lb_userspace::maps::bpf::{Access, Map, obj_get};

use super::agent::Agent;

/// How often the maps are looked at: the grain of the times.
const GRAIN: Duration = Duration::from_micros(500);

/// A Service that the API server has accepted with its slice.
pub(super) struct Watched {
    pub(super) vip: Ipv4Addr,
    pub(super) accepted: Instant,
}

/// The map of frontends.
pub(super) struct Maps {
    frontends: Map,
}

impl Maps {
    /// The maps of an agent, as they are pinned on its node.
    pub(super) fn of(agent: &Agent) -> Result<Self> {
        let pins: PathBuf = agent.root().join("sys/fs/bpf/lb");
        let below = std::fs::read_dir(&pins)
            .with_context(|| format!("listing {}", pins.display()))?
            .flatten()
            .map(|entry| entry.path().join("maps").join(names::LB4_FRONTENDS))
            .chain([pins.join("maps").join(names::LB4_FRONTENDS)])
            .find(|path| path.exists());
        let path = below.with_context(|| format!("no frontends below {}", pins.display()))?;
        let fd =
            obj_get(&path, Access::Read).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { frontends: Map::new(fd)? })
    }

    /// Whether the Service at `vip` has this many endpoints.
    fn has(&self, vip: Ipv4Addr, endpoints: u32) -> Result<bool> {
        let mut value = [FrontendValue::default()];
        let key = FrontendKey::new(Addr4::from(vip), 80, proto::TCP);
        Ok(self.frontends.lookup(&key, &mut value)? && value[0].len == endpoints)
    }
}

/// Does `work` while looking at the maps; then waits until everything that it told of is there. Returns
/// its result and how long each Service took.
pub(super) fn beside<T>(
    maps: &Maps,
    endpoints: u32,
    patience: Duration,
    work: impl FnOnce(&Sender<Watched>) -> Result<T>,
) -> Result<(T, Vec<Duration>)> {
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let looking = scope.spawn(move || look(maps, endpoints, patience, &receiver));
        let done = work(&sender);
        drop(sender);
        let times = looking.join().map_err(|_panic| anyhow!("the thread at the maps panicked"))?;
        Ok((done?, times?))
    })
}

fn look(
    maps: &Maps,
    endpoints: u32,
    patience: Duration,
    told: &Receiver<Watched>,
) -> Result<Vec<Duration>> {
    let mut waiting: Vec<Watched> = Vec::new();
    let mut times = Vec::new();
    let mut all_told = None;
    loop {
        loop {
            match told.try_recv() {
                Ok(watched) => waiting.push(watched),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    let _ = all_told.get_or_insert_with(Instant::now);
                    break;
                }
            }
        }
        let mut left = Vec::new();
        for watched in waiting {
            if maps.has(watched.vip, endpoints)? {
                times.push(watched.accepted.elapsed());
            } else {
                left.push(watched);
            }
        }
        waiting = left;
        if let Some(since) = all_told {
            if waiting.is_empty() {
                return Ok(times);
            }
            if since.elapsed() > patience {
                bail!("{} Services were not programmed in {patience:?}", waiting.len());
            }
        }
        thread::sleep(GRAIN);
    }
}
