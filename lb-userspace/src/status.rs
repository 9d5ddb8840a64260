//! What the agent tells the world about itself: a JSON file, replaced as a whole, that `lb status`
//! and other tools read.
//!
//! The file is a report, never an input: the agent does not read it back, and everything about
//! forwarding is in the maps.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::names;
use serde::{Deserialize, Serialize};

/// The state of one agent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Version of the layout of the maps.
    pub abi: u32,
    /// Hash of the eBPF object, in hexadecimal.
    pub object: String,
    /// Whether the programs that log every packet are loaded.
    pub trace: bool,
    /// Process id of the agent.
    pub pid: u32,
    /// When the agent started, in seconds since 1970.
    pub started: u64,
    /// When this file was written.
    pub written: u64,
    /// Whether nothing kept the node from its job when it was written.
    #[serde(default)]
    pub well: bool,
    /// Since when that is so, or not so.
    #[serde(default)]
    pub well_changed: u64,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// This node.
    pub node: NodeStatus,
    /// Where objects come from.
    pub source: SourceStatus,
    /// Network devices, in the order of their names.
    pub devices: Vec<DeviceStatus>,
    /// How packets for backends on other nodes leave.
    #[serde(default)]
    pub forwarding: ForwardingStatus,
    /// The socket programs.
    pub sockets: SocketStatus,
    /// Other Service proxies on this node.
    #[serde(default)]
    pub beside: Vec<String>,
    /// How full each map is.
    pub maps: Vec<MapStatus>,
    /// What is wrong now.
    pub problems: Vec<ProblemStatus>,
    /// The last write of the maps.
    pub last_apply: Option<ApplyStatus>,
    /// What was counted since the start.
    pub counters: Counters,
}

/// This node, as the agent sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Name in the cluster.
    pub name: String,
    /// Addresses of the node itself.
    pub addresses: Vec<IpAddr>,
    /// Addresses that serve NodePorts.
    pub nodeport_addresses: Vec<IpAddr>,
    /// Which external IPs of Services are served: `off`, `foreign` or `all`.
    #[serde(default)]
    pub external_ips: String,
    /// Whether load balancers should send connections here, as the Node object says.
    #[serde(default)]
    pub eligibility: String,
}

/// Where objects come from, and whether they do.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SourceStatus {
    /// In words.
    pub description: String,
    /// Whether all that can be read was delivered once: before, nothing is written.
    pub synced: bool,
    /// Whether nothing is missing: before, what an earlier agent programmed is not removed.
    #[serde(default)]
    pub complete: bool,
    /// When the last change came.
    pub last_event: Option<u64>,
    /// What ails the source itself, a lost connection say.
    pub error: Option<String>,
    /// The API server, where that is the source.
    #[serde(default)]
    pub api: Option<ApiStatus>,
    /// What is watched there.
    #[serde(default)]
    pub watches: Vec<WatchStatus>,
}

/// How the API server does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ApiStatus {
    /// Its address.
    pub server: String,
    /// `connecting`, `reachable`, or in one word what is wrong with it.
    pub state: String,
    /// Since when it is in this state.
    pub since: Option<u64>,
    /// What is wrong with it.
    pub error: Option<String>,
    /// When it was heard last on the watch that was silent longest: what is programmed is of then.
    pub heard: Option<u64>,
}

/// How one watch does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct WatchStatus {
    /// What is watched: `Services`, say.
    pub kind: String,
    /// Whether everything was listed once.
    pub synced: bool,
    /// How many objects there are.
    pub objects: usize,
    /// When something was heard last, a bookmark at least.
    pub heard: Option<u64>,
    /// Why nothing is heard now.
    pub error: Option<String>,
}

/// One network device.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceStatus {
    /// Name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// What it is to us.
    pub role: String,
    /// Why it has this role.
    pub why: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether something depends on it: a pod, the node's own traffic, an address or a route.
    #[serde(default)]
    pub needed: bool,
    /// The programs that it carries.
    pub programs: Vec<ProgramStatus>,
    /// Whether XDP runs on it; `None` where XDP has no place: on devices that are not external.
    #[serde(default)]
    pub xdp: Option<XdpStatus>,
    /// Why it does not carry all that it should.
    pub error: Option<String>,
}

/// XDP on one external device. Nothing depends on it: without it tc does the same.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct XdpStatus {
    /// How it runs: `native` or `generic`; `None` when it does not.
    pub mode: Option<String>,
    /// Why it does not run.
    pub why_not: Option<String>,
    /// Whether the driver transmits what XDP redirects to the device.
    pub transmits: bool,
}

/// One program on one hook.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProgramStatus {
    /// Name of the program.
    pub program: String,
    /// How it is attached: `tcx`, `clsact`, `xdp native`, `xdp generic`, `cgroup`.
    pub mode: String,
}

/// How packets for backends on other nodes leave.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ForwardingStatus {
    /// Whether they may be redirected past the stack.
    pub redirect: bool,
    /// What forbids it: `--forward=stack`, `xfrm policies`, `routing rules by mark`, …
    pub obstacles: Vec<String>,
    /// Whether routing rules look at the source address.
    pub source_rules: bool,
}

/// The socket programs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SocketStatus {
    /// Whose sockets: `host`, `all` or `off`.
    pub mode: String,
    /// Where they are attached.
    pub cgroup: Option<PathBuf>,
    /// Those that are attached.
    pub programs: Vec<String>,
    /// Why they are not attached.
    pub error: Option<String>,
}

/// How full one map is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct MapStatus {
    /// Name.
    pub map: String,
    /// Entries in use.
    pub used: usize,
    /// Room for entries.
    pub capacity: usize,
}

/// One thing that is wrong, outside of the agent's power.
#[derive(Clone, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ProblemStatus {
    /// What is wrong: `Service shop/vote`, say.
    pub object: String,
    /// The file that it came from.
    pub file: Option<PathBuf>,
    /// `warning` when a part of it does not work, `notice` when it works but not as it asks.
    #[serde(default)]
    pub severity: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One write of the maps.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ApplyStatus {
    /// When it ended.
    pub at: u64,
    /// How many writes.
    pub ops: usize,
    /// How long planning and writing took, in microseconds.
    pub micros: u64,
    /// What went wrong; it is planned again until it works.
    pub error: Option<String>,
}

/// What was counted since the agent started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// Batches written.
    pub applies: u64,
    /// Writes in them.
    pub ops: u64,
    /// Batches that failed, in part or in whole.
    pub apply_errors: u64,
    /// Objects that were wrong when they came.
    pub bad_objects: u64,
    /// Flow entries that were removed by age.
    pub flows_expired: u64,
    /// How often something that others removed or changed was put back.
    #[serde(default)]
    pub healed: u64,
    /// How often the maps were compared with what was written to them.
    #[serde(default)]
    pub compared: u64,
}

impl MapStatus {
    /// Whether nothing new fits. Maps that evict what was used longest ago are never full.
    pub fn is_full(&self) -> bool {
        let evicts = [names::LB4_AFFINITY, names::LB6_AFFINITY].contains(&self.map.as_str());
        !evicts && self.capacity > 0 && self.used >= self.capacity
    }
}

impl Status {
    /// What keeps the node from doing its job: empty while all is well.
    ///
    /// Wrong objects do not count: they are somebody else's, and everything else works.
    pub fn ailments(&self) -> Vec<String> {
        let mut ailments = Vec::new();
        if !self.source.synced {
            ailments.push(format!("{} has not delivered all yet", self.source.description));
        }
        if let Some(error) = &self.source.error {
            ailments.push(format!("{}: {error}", self.source.description));
        }
        if let Some(error) = self.last_apply.as_ref().and_then(|apply| apply.error.as_ref()) {
            ailments.push(format!("writing maps: {error}"));
        }
        // Where nothing leads over a device, nothing is missed there.
        for device in self.devices.iter().filter(|device| device.needed) {
            if let Some(error) = &device.error {
                ailments.push(format!("device {}: {error}", device.name));
            }
        }
        if let Some(error) = &self.sockets.error {
            ailments.push(format!("socket programs: {error}"));
        }
        ailments
    }
}

impl Status {
    /// Takes note of whether the node does its job.
    pub fn note_health(&mut self) {
        let well = self.ailments().is_empty();
        if well != self.well || self.well_changed == 0 {
            self.well = well;
            self.well_changed = self.written;
        }
    }
}

/// The status file of the agent of `pin_dir`.
pub fn path(state_dir: &Path, pin_dir: &Path) -> PathBuf {
    let name: Vec<_> = pin_dir
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_string_lossy()),
            std::path::Component::Prefix(_)
            | std::path::Component::RootDir
            | std::path::Component::CurDir
            | std::path::Component::ParentDir => None,
        })
        .collect();
    state_dir.join(format!("{}.json", name.join("-")))
}

/// Replaces the file: readers see the old or the new content, never a part.
///
/// # Errors
///
/// The directory cannot be made, or written to.
pub fn write(path: &Path, status: &Status) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = path.with_extension("json.new");
    fs::write(&new, serde_json::to_vec_pretty(status)?)?;
    fs::rename(&new, path)
}

/// Reads the file; `None` when there is none.
///
/// # Errors
///
/// The file cannot be read, or is not a status of this version.
pub fn read(path: &Path) -> io::Result<Option<Status>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    seconds(SystemTime::now())
}

/// The time as seconds since 1970.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
