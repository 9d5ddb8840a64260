//! Reads the pinned maps of an agent, running or not: what the command line shows.
//!
//! Invariant: maps are opened read-only; looking never changes anything.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use bytemuck::Pod;
use lb_common::{
    ABI_VERSION, Addr4, Addr6, AffinityKey, AffinityValue, BackendState, BackendStats,
    BackendValue, DeviceValue, FlowKey, FlowValue, FragmentKey, FragmentValue, FrontendKey,
    FrontendValue, HOOKS, Hook, REASON_SLOTS, Reason, Runtime, Schema, ServiceInfo, SockKey,
    SockValue, XdpDevice, names,
};

use super::{
    Contents, Maps as _, MapsError,
    bpf::{self, Access, Map},
    family::MapFamily,
    kernel::KernelMaps,
    table::{Table, TableError},
};
use crate::{datapath::paths::PinPaths, plan::BackendId};

/// The maps of an agent cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// No agent ever ran on this directory, or `lb cleanup` did.
    #[error("no lb maps under {0}: is the agent running? (lb run)")]
    NoMaps(PathBuf),
    /// The agent there is of another version.
    #[error(
        "the maps under {dir} have ABI version {found}, this lb reads version {ABI_VERSION}: \
         use the lb of that agent"
    )]
    OtherVersion {
        /// The pin directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// BPF objects may only be opened with privileges.
    #[error("no permission to read the maps under {0}: run lb as root")]
    Permission(PathBuf),
    /// The pin directory cannot be read.
    #[error("reading {dir}")]
    Io {
        /// The pin directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map cannot be opened or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A map cannot be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// Read access to the pinned maps of one agent.
#[derive(Debug)]
pub struct Reader {
    maps: PathBuf,
}

/// How large a map is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapCost {
    /// Name of the map.
    pub name: &'static str,
    /// Id of the map, for `bpftool map show id`.
    pub id: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Kernel memory in bytes.
    pub bytes: u64,
}

/// How often a hook met a reason.
pub type ReasonCount = (Hook, Reason, u64);

impl Reader {
    /// Opens the maps that an agent pinned below `pin_dir`.
    ///
    /// # Errors
    ///
    /// One sentence that says why there is nothing to read.
    pub fn open(pin_dir: &Path) -> Result<Self, ReaderError> {
        let paths = PinPaths::new(pin_dir);
        let maps = paths.maps();
        match bpf::obj_get(&maps.join(names::LB_SCHEMA), Access::Read) {
            Ok(_) => Ok(Self { maps }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ReaderError::Permission(pin_dir.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let others = paths.other_versions();
                let others =
                    others.map_err(|source| ReaderError::Io { dir: pin_dir.to_owned(), source })?;
                match others.last() {
                    Some((found, _)) => {
                        Err(ReaderError::OtherVersion { dir: pin_dir.to_owned(), found: *found })
                    }
                    None => Err(ReaderError::NoMaps(pin_dir.to_owned())),
                }
            }
            Err(source) => Err(ReaderError::Io { dir: pin_dir.to_owned(), source }),
        }
    }

    /// Where the maps are pinned.
    pub fn dir(&self) -> &Path {
        &self.maps
    }

    fn table<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Table<K, V>, TableError> {
        Table::open(&self.maps, name, Access::Read)
    }

    /// What the agent wrote for its Services.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn contents(&self) -> Result<Contents, ReaderError> {
        Ok(KernelMaps::open(&self.maps, Access::Read)?.contents()?)
    }

    /// Calls `each` with every flow entry of a family.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn flows<A: MapFamily>(
        &self,
        each: impl FnMut(&FlowKey<A>, &FlowValue<A>),
    ) -> Result<(), ReaderError>
    where
        FlowKey<A>: Pod,
        FlowValue<A>: Pod,
    {
        Ok(self.table(A::FLOWS)?.for_each(each)?)
    }

    /// Calls `each` with every socket entry of a family.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn socks<A: MapFamily>(
        &self,
        each: impl FnMut(&SockKey<A>, &SockValue<A>),
    ) -> Result<(), ReaderError>
    where
        SockKey<A>: Pod,
        SockValue<A>: Pod,
    {
        Ok(self.table(A::SOCKS)?.for_each(each)?)
    }

    /// Calls `each` with every client that keeps its backend, of a family.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn affinity<A: MapFamily>(
        &self,
        each: impl FnMut(&AffinityKey<A>, &AffinityValue),
    ) -> Result<(), ReaderError>
    where
        AffinityKey<A>: Pod,
    {
        Ok(self.table(A::AFFINITY)?.for_each(each)?)
    }

    /// Calls `each` with every datagram of IPv4 whose first fragment passed.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn fragments(
        &self,
        each: impl FnMut(&FragmentKey<Addr4>, &FragmentValue<Addr4>),
    ) -> Result<(), ReaderError> {
        Ok(self.table(names::LB4_FRAGMENTS)?.for_each(each)?)
    }

    /// The devices, by interface index.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn devices(&self) -> Result<BTreeMap<u32, DeviceValue>, ReaderError> {
        let mut devices = BTreeMap::new();
        self.table(names::LB_DEVICES)?.for_each(|ifindex: &u32, value: &DeviceValue| {
            let _new = devices.insert(*ifindex, *value);
        })?;
        Ok(devices)
    }

    /// What XDP may do at devices: the entries that are in use, by interface index.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn xdp_devices(&self) -> Result<Vec<XdpDevice>, ReaderError> {
        let mut devices = Vec::new();
        self.table(names::LB_XDP_DEVICES)?.for_each(|_: &u32, value: &XdpDevice| {
            devices.extend((value.ifindex != 0).then_some(*value));
        })?;
        devices.sort_by_key(|device| device.ifindex);
        Ok(devices)
    }

    /// How often each hook met each reason, over all CPUs; never-met ones are left out.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn reasons(&self) -> Result<Vec<ReasonCount>, ReaderError> {
        let mut counts = Vec::new();
        self.table(names::LB_REASONS)?.for_each_cpus(|index: &u32, cpus: &[u64]| {
            let count: u64 = cpus.iter().sum();
            if let (Some((hook, reason)), 1..) = (cell(*index), count) {
                counts.push((hook, reason, count));
            }
        })?;
        Ok(counts)
    }

    /// What each backend got, over all CPUs; backends that got nothing are left out.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn backend_stats(&self) -> Result<BTreeMap<BackendId, BackendStats>, ReaderError> {
        let mut stats = BTreeMap::new();
        self.table(names::LB_BACKEND_STAT)?.for_each_cpus(|id: &u32, cpus: &[BackendStats]| {
            let sum = cpus.iter().fold(BackendStats::default(), |sum, cpu| BackendStats {
                flows: sum.flows + cpu.flows,
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
            });
            if sum != BackendStats::default() {
                let _new = stats.insert(BackendId(*id), sum);
            }
        })?;
        Ok(stats)
    }

    /// Who made the maps.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn schema(&self) -> Result<Schema, ReaderError> {
        Ok(self.table::<u32, Schema>(names::LB_SCHEMA)?.get(&0)?.unwrap_or_default())
    }

    /// The values that change at run time.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn runtime(&self) -> Result<Runtime, ReaderError> {
        Ok(self.table::<u32, Runtime>(names::LB_RUNTIME)?.get(&0)?.unwrap_or_default())
    }

    /// How many entries are used of each map that can be full.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn usage(&self) -> Result<Vec<(&'static str, usize)>, ReaderError> {
        let mut services = 0;
        self.table(names::LB_SERVICES)?.for_each(|_: &u32, _: &ServiceInfo| services += 1)?;
        let mut usage = vec![(names::LB_SERVICES, services)];
        // Frontends of one Service share their slots.
        let mut ranges = HashSet::new();
        let mut backends = 0;
        self.family_usage::<Addr4>(&mut usage, &mut ranges, &mut backends)?;
        self.family_usage::<Addr6>(&mut usage, &mut ranges, &mut backends)?;
        // Ids are numbered over both families.
        usage.push((names::LB4_BACKENDS, backends));
        let slots: u64 = ranges.iter().map(|(_, len)| u64::from(*len)).sum();
        usage.push((names::LB_SLOTS, usize::try_from(slots).unwrap_or(usize::MAX)));
        Ok(usage)
    }

    fn family_usage<A: MapFamily>(
        &self,
        usage: &mut Vec<(&'static str, usize)>,
        ranges: &mut HashSet<(u32, u32)>,
        backends: &mut usize,
    ) -> Result<(), ReaderError>
    where
        FrontendKey<A>: Pod,
        BackendValue<A>: Pod,
        FlowKey<A>: Pod,
        FlowValue<A>: Pod,
        AffinityKey<A>: Pod,
    {
        let (mut frontends, mut flows, mut sources, mut clients) = (0, 0, 0, 0);
        self.table(A::FRONTENDS)?.for_each(|_: &FrontendKey<A>, value: &FrontendValue| {
            frontends += 1;
            let _new = ranges.insert((value.base, value.slots()));
        })?;
        self.table(A::BACKENDS)?.for_each(|_: &u32, value: &BackendValue<A>| {
            *backends += usize::from(value.state != BackendState::Free as u8);
        })?;
        self.flows::<A>(|_, _| flows += 1)?;
        self.table(A::RANGES)?.for_each(|_: &A::LpmKey, _: &u32| sources += 1)?;
        self.table(A::AFFINITY)?.for_each(|_: &AffinityKey<A>, _: &AffinityValue| clients += 1)?;
        usage.extend([(A::FRONTENDS, frontends), (A::FLOWS, flows)]);
        usage.extend([(A::RANGES, sources), (A::AFFINITY, clients)]);
        Ok(())
    }

    /// What each map costs.
    ///
    /// # Errors
    ///
    /// When a map cannot be opened or described.
    pub fn costs(&self) -> Result<Vec<MapCost>, ReaderError> {
        names::MAPS.into_iter().map(|name| self.cost(name)).collect()
    }

    fn cost(&self, name: &'static str) -> Result<MapCost, ReaderError> {
        let path = self.maps.join(name);
        let io = |source| ReaderError::Io { dir: path.clone(), source };
        let map = bpf::obj_get(&path, Access::Read).and_then(Map::new).map_err(io)?;
        let number = map.as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).map_err(io)?;
        let info = map.info();
        Ok(MapCost {
            name,
            id: info.id,
            max_entries: info.max_entries,
            bytes: memlock(&text).unwrap_or(0),
        })
    }
}

/// The kernel memory of a map, by the text of its /proc/…/fdinfo.
fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

/// The hook and reason of a cell of the reason map.
fn cell(index: u32) -> Option<(Hook, Reason)> {
    let hook = HOOKS.get(usize::try_from(index / REASON_SLOTS).ok()?)?;
    let reason = Reason::from_u8(u8::try_from(index % REASON_SLOTS).ok()?)?;
    Some((*hook, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_the_reason_map_are_told_apart() {
        assert_eq!(cell(0), Some((Hook::PodIn, Reason::NotService)));
        assert_eq!(cell(5 * REASON_SLOTS + 17), Some((Hook::Xdp, Reason::Forward)));
        assert_eq!(cell(63), None, "no such reason");
        assert_eq!(cell(7 * REASON_SLOTS), None, "no such hook");
    }

    #[test]
    fn the_cost_of_a_map_is_in_its_fdinfo() {
        assert_eq!(
            memlock("pos:\t0\nmap_type:\t1\nmemlock:\t5767168\nmap_id:\t4\n"),
            Some(5_767_168)
        );
        assert_eq!(memlock("pos:\t0\n"), None);
    }

    #[test]
    fn a_directory_without_maps_is_explained() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: not root: opening pins needs privileges");
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = Reader::open(dir.path()).expect_err("nothing is there").to_string();
        assert!(error.contains("is the agent running? (lb run)"), "{error}");
        fs::create_dir(dir.path().join("v7")).expect("a directory");
        let error = Reader::open(dir.path()).expect_err("another version").to_string();
        assert!(error.contains("ABI version 7"), "{error}");
    }
}
