//! The programs in the kernel: what the machine must offer, loading, attaching, leaving.
//!
//! Invariant: nothing is changed before the pin directory is locked, and the end of the agent
//! changes nothing: links and maps are pinned and go on without it.

pub mod attach;
pub mod cleanup;
pub mod clsact;
pub mod links;
pub mod load;
pub mod lock;
pub mod object;
pub mod options;
pub mod order;
pub mod paths;
pub mod probe;
pub mod sysctl;
pub mod wanted;
pub mod xdp;

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Instant};

use lb_common::{ABI_VERSION, Settings};

use self::{
    attach::{AttachProblem, Attachments},
    links::{Links, XdpFlavour},
    load::{LoadError, Programs},
    lock::{Lock, LockError},
    options::Options,
    order::Outside,
    paths::PinPaths,
    probe::ProbeError,
    xdp::{NoXdp, XdpTable},
};
use crate::{
    clock::{Clock, ClockError},
    config::SocketLb,
    devices::Device,
    maps::{bpf::Access, kernel::KernelMaps, table::TableError},
};

/// The datapath cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The machine lacks something.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The pin directory cannot be made or read.
    #[error("preparing the pin directory {dir}")]
    PinDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent is there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel's clock cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The network namespace has no cookie.
    #[error("reading the cookie of the network namespace")]
    Netns(#[source] io::Error),
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The loaded datapath of one agent, which holds the lock on its pin directory.
#[derive(Debug)]
pub struct Datapath {
    paths: PinPaths,
    programs: Programs,
    attachments: Attachments,
    cgroup_root: Option<PathBuf>,
    cgroup_done: bool,
    /// Directories of other ABI versions, until they are removed.
    other_versions: Vec<(u32, PathBuf)>,
    clock: Clock,
    warnings: Vec<String>,
    _lock: Lock,
}

impl Datapath {
    /// Checks the machine, locks the pin directory, and loads the programs over the pinned maps,
    /// which are made where there are none. Programs of an earlier agent go on running.
    ///
    /// # Errors
    ///
    /// One sentence that says what is missing or wrong, and what to do.
    pub fn open(options: &Options) -> Result<Self, DatapathError> {
        probe::machine(&options.pin_dir)?;
        let cgroup_root = probe::cgroup_root(options.socket_lb, options.cgroup_root.as_deref())?;
        let pin_dir = |source| DatapathError::PinDir { dir: options.pin_dir.clone(), source };
        fs::create_dir_all(&options.pin_dir).map_err(pin_dir)?;
        let lock = Lock::take(&options.pin_dir)?;
        let paths = PinPaths::new(&options.pin_dir);
        let other_versions = paths.other_versions().map_err(pin_dir)?;
        for (version, dir) in &other_versions {
            tracing::warn!(
                dir = %dir.display(),
                "found a datapath of ABI version {version}, this build has {ABI_VERSION}: it serves \
                 until the new programs are attached and is removed then; its flows are not kept"
            );
        }
        let clock = Clock::open()?;
        let settings = settings(options, &clock)?;
        let (programs, mut warnings) =
            Programs::load(options.object, &paths, &options.capacity, &settings)?;
        warnings.extend(probe::warnings());
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let older = other_versions.iter().map(|(_, dir)| dir.join("links")).collect();
        let table = XdpTable::open(&paths.maps())?;
        let links = Links::new(paths.links(), older);
        let attachments = Attachments::new(links, options.tc, options.xdp, table);
        Ok(Self {
            paths,
            programs,
            attachments,
            cgroup_root,
            cgroup_done: false,
            other_versions,
            clock,
            warnings,
            _lock: lock,
        })
    }

    /// Where the maps and links are pinned.
    pub fn paths(&self) -> &PinPaths {
        &self.paths
    }

    /// The kernel's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What the operator should know: sizes that were kept, settings of the node.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where the socket programs are attached; `None` when they are off.
    pub fn cgroup_root(&self) -> Option<&std::path::Path> {
        self.cgroup_root.as_deref()
    }

    /// The loaded programs.
    pub fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// The pinned maps, for the planner.
    ///
    /// # Errors
    ///
    /// When a pin was taken away.
    pub fn maps(&self) -> Result<KernelMaps, TableError> {
        KernelMaps::open(&self.paths.maps(), Access::ReadWrite)
    }

    /// Attaches the programs to the cgroup and to these devices, detaches them from all others, and
    /// afterwards removes the datapath of other ABI versions. To be called again with every change
    /// of the devices; before the first call the maps should say what is wanted.
    pub fn attach(&mut self, devices: &[Device]) -> Vec<AttachProblem> {
        let mut problems = Vec::new();
        if !self.cgroup_done {
            let attached = self.attachments.cgroup(&self.programs, self.cgroup_root.as_deref());
            self.cgroup_done = attached.is_ok();
            problems.extend(attached.err());
            for (setting, error) in sysctl::apply() {
                tracing::warn!(%error, "{setting} cannot be set to 1: host traffic to node ports \
                     on loopback addresses needs it where no socket hook translates");
            }
        }
        problems.extend(self.attachments.devices(&mut self.programs, devices));
        self.retire_other_versions();
        problems
    }

    /// How XDP runs on each external device, by interface index, or why it does not.
    pub fn xdp(&self) -> &BTreeMap<u32, Result<XdpFlavour, NoXdp>> {
        self.attachments.xdp()
    }

    /// Puts back what somebody took away: pins of maps are made anew, and what was detached is
    /// attached by the next call of [`attach`](Self::attach). Returns what was missing.
    ///
    /// # Errors
    ///
    /// The pin directory cannot be made again, or a map cannot be pinned.
    pub fn heal(&mut self) -> io::Result<Vec<String>> {
        self.paths.create()?;
        let mut missing = self.programs.repin(&self.paths.maps())?;
        missing.extend(self.attachments.forget_missing());
        if self.cgroup_done
            && let Some(root) = &self.cgroup_root
        {
            let lost = self.attachments.missing_at(root)?;
            self.cgroup_done = lost.is_empty();
            missing.extend(lost);
        }
        Ok(missing)
    }

    /// Brings our programs back to the outer edge of their devices where somebody is outside of them;
    /// returns who stays there.
    pub fn keep_outermost(&mut self, now: Instant) -> Vec<Outside> {
        self.attachments.keep_outermost(&self.programs, now)
    }

    fn retire_other_versions(&mut self) {
        for (version, dir) in self.other_versions.drain(..) {
            let mut report = cleanup::Report::default();
            cleanup::remove_version(&dir, &mut report);
            tracing::info!(
                version,
                links = report.links.len(),
                maps = report.maps.len(),
                "removed the datapath of another ABI version"
            );
            for kept in report.kept {
                tracing::warn!(what = kept.what, why = kept.why, "not removed");
            }
        }
    }
}

fn settings(options: &Options, clock: &Clock) -> Result<Settings, DatapathError> {
    Ok(Settings {
        hz: clock.hz(),
        udp_unreplied: options.udp_unreplied,
        udp_replied: options.udp_replied,
        snat_first: options.snat_first,
        snat_count: options.snat_count,
        socket_all: u32::from(options.socket_lb == SocketLb::All),
        pad: 0,
        host_netns_cookie: probe::netns_cookie().map_err(DatapathError::Netns)?,
    })
}
