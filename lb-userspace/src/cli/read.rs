//! Reads the pinned maps and the status file into what the tables show.
//!
//! Works with and without a running agent; nothing is changed by looking.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lb_common::{Addr4, Addr6, Class};

use super::{
    flows::Clock,
    services as list,
    snapshot::{Affinity, Flow, Snapshot, Sock},
    status::{Datapath, Process, Report},
};
use crate::{
    clock,
    datapath::{links, lock, paths::PinPaths},
    maps::reader::{Reader, ReaderError},
    plan::{BackendId, ServiceId},
    status::{self, MapStatus, Status},
};

/// Where maps are pinned.
pub(super) fn maps_dir(pin_dir: &Path) -> PathBuf {
    PinPaths::new(pin_dir).maps()
}

/// Services, frontends, backends and what they got.
pub(super) fn services(pin_dir: &Path) -> anyhow::Result<Snapshot> {
    let reader = Reader::open(pin_dir)?;
    Ok(Snapshot {
        contents: reader.contents()?,
        stats: reader.backend_stats()?,
        ..Snapshot::default()
    })
}

/// Everything that is in the maps.
pub(super) fn everything(pin_dir: &Path) -> anyhow::Result<Snapshot> {
    let reader = Reader::open(pin_dir)?;
    let mut snapshot = services(pin_dir)?;
    let Snapshot { contents, flows, socks, .. } = &mut snapshot;
    let service = |backend: u32| {
        let backend = contents.backends.get(&BackendId(backend));
        backend.map_or(ServiceId(0), |backend| backend.service)
    };
    reader
        .flows::<Addr4>(|key, value| flows.push(Flow::new(key, value, service(value.backend))))?;
    reader
        .flows::<Addr6>(|key, value| flows.push(Flow::new(key, value, service(value.backend))))?;
    reader.socks::<Addr4>(|key, value| socks.extend(Sock::new(key, value)))?;
    reader.socks::<Addr6>(|key, value| socks.extend(Sock::new(key, value)))?;
    let affinity = &mut snapshot.affinity;
    reader.affinity::<Addr4>(|key, value| affinity.push(Affinity::new(key, value)))?;
    reader.affinity::<Addr6>(|key, value| affinity.push(Affinity::new(key, value)))?;
    let fragments = &mut snapshot.fragments;
    reader.fragments(|key, value| fragments.push((*key, *value)))?;
    snapshot.devices = reader.devices()?;
    snapshot.xdp_devices = reader.xdp_devices()?;
    snapshot.reasons = reader.reasons()?;
    snapshot.schema = reader.schema()?;
    snapshot.runtime = reader.runtime()?;
    Ok(snapshot)
}

/// The kernel's clock, for the age of flows: none where it cannot be read.
pub(super) fn clock() -> Option<Clock> {
    let clock = clock::Clock::open().ok()?;
    Some(Clock { jiffies: clock.now().ok()?.0, hz: clock.hz() })
}

/// Whether any device has an XDP program of ours.
pub(super) fn has_xdp(pin_dir: &Path) -> bool {
    let pins = links::pins_in(&PinPaths::new(pin_dir).links()).unwrap_or_default();
    pins.iter().filter_map(|pin| links::pin_parts(pin)).any(|(_, place)| place.starts_with("xdp"))
}

/// Everything that `lb status` says.
pub(super) fn report(pin_dir: &Path, state_dir: &Path) -> Report {
    let agent = match status::read(&status::path(state_dir, pin_dir)) {
        Ok(agent) => agent,
        Err(error) => {
            tracing::warn!(%error, "the status file cannot be read");
            None
        }
    };
    let datapath = datapath(pin_dir).map_err(|error| format!("{error:#}"));
    Report::new(pin_dir.to_owned(), process(pin_dir, agent.as_ref()), agent, datapath)
}

/// Whether an agent runs, and whether the status file is its own.
fn process(pin_dir: &Path, agent: Option<&Status>) -> Process {
    let Some(holder) = lock::holder_of(pin_dir) else { return Process::Absent };
    let Some(pid) = agent.map(|agent| agent.pid) else { return Process::Running };
    // An agent in a container may know itself by another number than we do: only a process that is
    // gone cannot be the one that wrote the file.
    let gone = !Path::new("/proc").join(pid.to_string()).exists();
    match i64::from(holder) != i64::from(pid) && gone {
        true => Process::Starting,
        false => Process::Running,
    }
}

fn datapath(pin_dir: &Path) -> anyhow::Result<Datapath> {
    let reader = Reader::open(pin_dir)?;
    let contents = reader.contents()?;
    let maps = fill(&reader)?;
    let snapshot = Snapshot { contents, ..Snapshot::default() };
    let mut drops: Vec<(String, u64)> = Vec::new();
    for (_, reason, count) in reader.reasons()? {
        if reason.class() == Class::Drop {
            match drops.iter_mut().find(|(name, _)| name == reason.name()) {
                Some((_, sum)) => *sum += count,
                None => drops.push((reason.name().to_owned(), count)),
            }
        }
    }
    let links = links::pins_in(&PinPaths::new(pin_dir).links()).context("listing pinned links")?;
    Ok(Datapath {
        services: list::count(&snapshot),
        service_ports: snapshot.contents.services.len(),
        maps,
        links: links.len(),
        drops,
    })
}

/// How full each map is that can be full.
///
/// # Errors
///
/// When there are no maps, or they cannot be read.
pub fn usage(pin_dir: &Path) -> Result<Vec<MapStatus>, ReaderError> {
    fill(&Reader::open(pin_dir)?)
}

fn fill(reader: &Reader) -> Result<Vec<MapStatus>, ReaderError> {
    let costs = reader.costs()?;
    let capacity = |map: &str| {
        let cost = costs.iter().find(|cost| cost.name == map);
        cost.map_or(0, |cost| usize::try_from(cost.max_entries).unwrap_or(usize::MAX))
    };
    let status = |(map, used): (&str, usize)| MapStatus {
        map: map.to_owned(),
        used,
        capacity: capacity(map),
    };
    Ok(reader.usage()?.into_iter().map(status).collect())
}
