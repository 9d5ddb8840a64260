//! The maps of the kernel: executes ops in batches on the pinned maps.
//!
//! Invariant: ops take effect in their order. Runs of neighbouring ops on one map go into one batch
//! call, which the kernel executes in order and stops at the first failure, so what is reported as
//! applied is exactly what is in the kernel.

use std::{io, path::Path};

use bytemuck::Pod;
use lb_common::{
    Addr4, Addr6, Address, BackendState, BackendValue, Family, FrontendKey, FrontendValue,
    Location, ServiceInfo, names,
};

use super::{
    ApplyError, Contents, Maps, MapsError,
    bpf::Access,
    family::{LpmKey, MapFamily},
    table::{Scan, Table, TableError},
};
use crate::plan::{Backend, BackendId, Frontend, Op, ServiceId};

/// The pinned maps that the agent writes for its Services.
#[derive(Debug)]
pub struct KernelMaps {
    services: Table<u32, ServiceInfo>,
    v4: FamilyMaps<Addr4>,
    v6: FamilyMaps<Addr6>,
    slots: Table<u32, u32>,
    filter: Table<u32, u64>,
}

#[derive(Debug)]
struct FamilyMaps<A: MapFamily> {
    frontends: Table<FrontendKey<A>, FrontendValue>,
    backends: Table<u32, BackendValue<A>>,
    ranges: Table<A::LpmKey, u32>,
}

impl<A: MapFamily> FamilyMaps<A>
where
    FrontendKey<A>: Pod,
    BackendValue<A>: Pod,
{
    fn open(maps: &Path, access: Access) -> Result<Self, TableError> {
        Ok(Self {
            frontends: Table::open(maps, A::FRONTENDS, access)?,
            backends: Table::open(maps, A::BACKENDS, access)?,
            ranges: Table::open(maps, A::RANGES, access)?,
        })
    }
}

impl KernelMaps {
    /// Opens the maps that are pinned in the directory `maps`.
    ///
    /// # Errors
    ///
    /// When a pin is missing or is a map of another shape.
    pub fn open(maps: &Path, access: Access) -> Result<Self, TableError> {
        Ok(Self {
            services: Table::open(maps, names::LB_SERVICES, access)?,
            v4: FamilyMaps::open(maps, access)?,
            v6: FamilyMaps::open(maps, access)?,
            slots: Table::open(maps, names::LB_SLOTS, access)?,
            filter: Table::open(maps, names::LB_VIP_FILTER, access)?,
        })
    }

    /// Number of slots, which bounds the base that the planner may give out.
    pub fn slot_capacity(&self) -> u32 {
        self.slots.max_entries()
    }

    /// Number of backend ids, 0 included.
    pub fn backend_capacity(&self) -> u32 {
        self.v4.backends.max_entries().min(self.v6.backends.max_entries())
    }

    /// Number of source ranges of each family.
    pub fn range_capacity(&self) -> u32 {
        self.v4.ranges.max_entries().min(self.v6.ranges.max_entries())
    }

    /// Executes a run of ops that all go to one map; on error says how many took effect.
    fn execute(&self, lane: Lane, run: &[Op]) -> Result<(), (usize, TableError)> {
        match lane {
            Lane::PutService => put(&self.services, run, |op| {
                let Op::PutService(id, info) = op else { return None };
                Some((id.0, **info))
            }),
            Lane::DeleteService => delete(&self.services, run, |op| {
                let Op::DeleteService(id) = op else { return None };
                Some(id.0)
            }),
            Lane::PutBackend(Family::V4) => put(&self.v4.backends, run, backend_entry),
            Lane::PutBackend(Family::V6) => put(&self.v6.backends, run, backend_entry),
            Lane::WriteSlots => self.write_slots(run),
            Lane::PutRange(Family::V4) => put(&self.v4.ranges, run, range_entry),
            Lane::PutRange(Family::V6) => put(&self.v6.ranges, run, range_entry),
            Lane::DeleteRange(Family::V4) => delete(&self.v4.ranges, run, range_gone),
            Lane::DeleteRange(Family::V6) => delete(&self.v6.ranges, run, range_gone),
            Lane::SetFilter => put(&self.filter, run, |op| {
                let Op::SetFilter { word, value } = op else { return None };
                Some((*word, *value))
            }),
            Lane::PutFrontend(Family::V4) => put(&self.v4.frontends, run, frontend_entry),
            Lane::PutFrontend(Family::V6) => put(&self.v6.frontends, run, frontend_entry),
            Lane::DeleteFrontend(Family::V4) => delete(&self.v4.frontends, run, frontend_gone),
            Lane::DeleteFrontend(Family::V6) => delete(&self.v6.frontends, run, frontend_gone),
        }
    }

    fn write_slots(&self, run: &[Op]) -> Result<(), (usize, TableError)> {
        let (mut keys, mut values, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for op in run {
            if let Op::WriteSlots { base, backends } = op {
                keys.extend((*base..).take(backends.len()));
                values.extend(backends.iter().map(|id| id.0));
            }
            ends.push(keys.len());
        }
        self.slots.put_all(&keys, &values).map_err(|(written, error)| {
            // An op that was written in part did not take effect: nothing names its slots yet.
            (ends.partition_point(|end| *end <= written), error)
        })
    }

    /// The slots up to the last one that a frontend names. What lies beyond names nothing to anybody,
    /// and the array is by far the largest of the maps that are read.
    fn used_slots<'f>(
        &self,
        frontends: impl Iterator<Item = &'f FrontendValue>,
    ) -> Result<Vec<u32>, MapsError> {
        let ends = frontends.map(|value| value.base.saturating_add(value.slots()));
        let end = usize::try_from(ends.max().unwrap_or(0)).unwrap_or(usize::MAX);
        let mut slots = Vec::new();
        let mut scan = Scan::new();
        // An array is read in the order of its indexes.
        while slots.len() < end {
            let last = self
                .slots
                .scan(&mut scan, |_, backend| slots.push(*backend))
                .map_err(|error| MapsError { map: self.slots.name(), source: into_io(error) })?;
            if last {
                break;
            }
        }
        slots.truncate(end);
        let used = slots.iter().rposition(|backend| *backend != 0);
        slots.truncate(used.map_or(0, |last| last + 1));
        Ok(slots)
    }

    fn map_name(&self, lane: Lane) -> &'static str {
        match lane {
            Lane::PutService | Lane::DeleteService => self.services.name(),
            Lane::PutBackend(Family::V4) => self.v4.backends.name(),
            Lane::PutBackend(Family::V6) => self.v6.backends.name(),
            Lane::WriteSlots => self.slots.name(),
            Lane::PutRange(Family::V4) | Lane::DeleteRange(Family::V4) => self.v4.ranges.name(),
            Lane::PutRange(Family::V6) | Lane::DeleteRange(Family::V6) => self.v6.ranges.name(),
            Lane::SetFilter => self.filter.name(),
            Lane::PutFrontend(Family::V4) | Lane::DeleteFrontend(Family::V4) => {
                self.v4.frontends.name()
            }
            Lane::PutFrontend(Family::V6) | Lane::DeleteFrontend(Family::V6) => {
                self.v6.frontends.name()
            }
        }
    }
}

impl Maps for KernelMaps {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        let mut applied = 0;
        for run in ops.chunk_by(|a, b| Lane::of(a) == Lane::of(b)) {
            let Some(first) = run.first() else { continue };
            let lane = Lane::of(first);
            self.execute(lane, run).map_err(|(done, error)| ApplyError {
                applied: applied + done,
                op: run.get(done).map(ToString::to_string).unwrap_or_default(),
                map: self.map_name(lane),
                source: into_io(error),
            })?;
            applied += run.len();
        }
        Ok(())
    }

    fn contents(&self) -> Result<Contents, MapsError> {
        let mut contents = Contents::default();
        let mut services = Vec::new();
        read(&self.services, |id, info| services.push((ServiceId(*id), *info)))?;
        contents.services = services.into_iter().collect();
        let mut backends = Vec::new();
        read(&self.v4.backends, |id, value| backends.extend(backend(*id, value)))?;
        read(&self.v6.backends, |id, value| backends.extend(backend(*id, value)))?;
        contents.backends = backends.into_iter().collect();
        read(&self.v4.ranges, |key, _| {
            let _new = contents.ranges.insert(key.range());
        })?;
        read(&self.v6.ranges, |key, _| {
            let _new = contents.ranges.insert(key.range());
        })?;
        read(&self.filter, |word, value| {
            if *value != 0 {
                let _new = contents.filter.insert(*word, *value);
            }
        })?;
        let mut frontends = Vec::new();
        read(&self.v4.frontends, |key, value| frontends.push((Frontend::from(*key), *value)))?;
        read(&self.v6.frontends, |key, value| frontends.push((Frontend::from(*key), *value)))?;
        contents.frontends = frontends.into_iter().collect();
        contents.slots = self.used_slots(contents.frontends.values())?;
        Ok(contents)
    }
}

/// Which map an op goes to, and how: neighbours in one lane make one batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lane {
    PutService,
    DeleteService,
    PutBackend(Family),
    WriteSlots,
    PutRange(Family),
    DeleteRange(Family),
    SetFilter,
    PutFrontend(Family),
    DeleteFrontend(Family),
}

impl Lane {
    fn of(op: &Op) -> Self {
        match op {
            Op::PutService(..) => Self::PutService,
            Op::DeleteService(_) => Self::DeleteService,
            Op::PutBackend(_, backend) => Self::PutBackend(backend.family()),
            Op::WriteSlots { .. } => Self::WriteSlots,
            Op::PutRange(range) => Self::PutRange(range.family()),
            Op::DeleteRange(range) => Self::DeleteRange(range.family()),
            Op::SetFilter { .. } => Self::SetFilter,
            Op::PutFrontend(frontend, _) => Self::PutFrontend(frontend.family()),
            Op::DeleteFrontend(frontend) => Self::DeleteFrontend(frontend.family()),
        }
    }
}

fn put<K: Pod, V: Pod>(
    table: &Table<K, V>,
    run: &[Op],
    entry: impl Fn(&Op) -> Option<(K, V)>,
) -> Result<(), (usize, TableError)> {
    let (keys, values): (Vec<K>, Vec<V>) = run.iter().filter_map(entry).unzip();
    debug_assert_eq!(keys.len(), run.len(), "a lane holds ops of one kind and family");
    table.put_all(&keys, &values)
}

fn delete<K: Pod, V: Pod>(
    table: &Table<K, V>,
    run: &[Op],
    key: impl Fn(&Op) -> Option<K>,
) -> Result<(), (usize, TableError)> {
    let keys: Vec<K> = run.iter().filter_map(key).collect();
    debug_assert_eq!(keys.len(), run.len(), "a lane holds ops of one kind and family");
    table.delete_all(&keys)
}

fn backend_entry<A: Address>(op: &Op) -> Option<(u32, BackendValue<A>)> {
    let Op::PutBackend(id, backend) = op else { return None };
    let &Backend { addr, port, proto, state, service, sets, location } = backend;
    let addr = A::from_ip(addr)?;
    let (state, service, location) = (state as u8, service.0, location as u8);
    Some((id.0, BackendValue { addr, port, proto, state, service, sets, location, pad: 0 }))
}

fn range_entry<K: LpmKey>(op: &Op) -> Option<(K, u32)> {
    let Op::PutRange(range) = op else { return None };
    Some((K::of(range)?, 1))
}

fn range_gone<K: LpmKey>(op: &Op) -> Option<K> {
    let Op::DeleteRange(range) = op else { return None };
    K::of(range)
}

fn frontend_entry<A: Address>(op: &Op) -> Option<(FrontendKey<A>, FrontendValue)> {
    let Op::PutFrontend(frontend, value) = op else { return None };
    Some((frontend_key(frontend)?, *value))
}

fn frontend_gone<A: Address>(op: &Op) -> Option<FrontendKey<A>> {
    let Op::DeleteFrontend(frontend) = op else { return None };
    frontend_key(frontend)
}

fn frontend_key<A: Address>(frontend: &Frontend) -> Option<FrontendKey<A>> {
    Some(FrontendKey::new(A::from_ip(frontend.addr)?, frontend.port, frontend.proto))
}

/// The backend in an array element, unless the element is free.
pub(super) fn backend<A: Address>(
    id: u32,
    value: &BackendValue<A>,
) -> Option<(BackendId, Backend)> {
    let state = BackendState::from_u8(value.state)?;
    if state == BackendState::Free {
        return None;
    }
    let &BackendValue { addr, port, proto, state: _, service, sets, location, pad: _ } = value;
    let (addr, service) = (addr.ip(), ServiceId(service));
    // A number that means nothing, which only damage can cause, reads as what the next comparison
    // with the wanted entry puts right.
    let location = Location::from_u8(location).unwrap_or_default();
    let backend = Backend { addr, port, proto, state, service, sets, location };
    Some((BackendId(id), backend))
}

fn read<K: Pod, V: Pod>(table: &Table<K, V>, each: impl FnMut(&K, &V)) -> Result<(), MapsError> {
    table.for_each(each).map_err(|error| MapsError { map: table.name(), source: into_io(error) })
}

/// Keeps the text that says what to do, and the kernel's answer as its cause.
fn into_io(error: TableError) -> io::Error {
    io::Error::other(error)
}
