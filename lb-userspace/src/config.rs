//! The configuration of the agent: typed and validated, built from the raw flags of `lb run`.
//!
//! Pure: host name and environment are parameters. Every error names the flag, the value that was
//! given and what is allowed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use crate::{cli::args::RunArgs, nodeport::Selector};

/// XDP on external devices.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver can, generic elsewhere, none where neither works.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack: for tests.
    Generic,
    /// tc only.
    Off,
}

/// How tc programs are attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    /// TCX, clsact where the kernel has none.
    #[default]
    Auto,
    /// TCX only.
    Tcx,
    /// clsact always.
    Clsact,
}

/// Whose sockets the cgroup hooks translate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SocketLb {
    /// Processes in the network namespace of the agent.
    #[default]
    Host,
    /// Every process below the cgroup root, pods too.
    All,
    /// Nobody's: translate at devices only.
    Off,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where objects come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceConfig {
    /// YAML files in a directory.
    Dir(PathBuf),
    /// The cluster that a kubeconfig names.
    Kubeconfig(PathBuf),
    /// The cluster that this pod runs in.
    InCluster,
}

impl fmt::Display for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "directory {}", dir.display()),
            Self::Kubeconfig(file) => write!(f, "cluster of {}", file.display()),
            Self::InCluster => f.write_str("cluster of this pod"),
        }
    }
}

/// Entries of the maps that are sized when the maps are created.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Capacity {
    /// Flow entries, each family.
    pub flows: u32,
    /// Service ports, both families together.
    pub services: u32,
    /// Frontends, each family.
    pub frontends: u32,
    /// Backends, both families together.
    pub backends: u32,
}

impl Serialize for SourceConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Everything that `lb run` was told, checked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Where objects come from.
    pub source: SourceConfig,
    /// Name of this node in the cluster.
    pub node_name: String,
    /// Addresses of this node; empty when they are to be found.
    pub node_ips: Vec<IpAddr>,
    /// Which local addresses serve NodePorts.
    pub nodeport_addresses: Vec<Selector>,
    /// Globs of devices that lead out of the node; empty when they are to be found.
    pub external_devices: Vec<String>,
    /// Globs of devices that lead to pods; empty when they are to be found.
    pub workload_devices: Vec<String>,
    /// XDP on external devices.
    pub xdp: XdpMode,
    /// How tc programs are attached.
    pub tc: TcMode,
    /// Whose sockets are translated.
    pub socket_lb: SocketLb,
    /// Where the socket programs are attached; the cgroup2 mount when not given.
    pub cgroup_root: Option<PathBuf>,
    /// First source port for SNAT.
    pub snat_first: u16,
    /// Number of source ports for SNAT.
    pub snat_count: u16,
    /// Sizes of the maps.
    pub capacity: Capacity,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Where the status file is.
    pub state_dir: PathBuf,
    /// Where the health of the node is served, if anywhere.
    pub healthz: Option<SocketAddr>,
    /// Where /metrics is served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Whether an address that cannot be served ends the agent.
    pub bind_address_hard_fail: bool,
    /// Load the programs that log every packet.
    pub trace: bool,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// How much is logged.
    pub verbosity: u8,
}

/// What the configuration takes from the machine rather than from flags.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The host name.
    pub hostname: String,
    /// Whether this process runs in a pod with a service account.
    pub in_cluster: bool,
}

/// A flag with a value that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{flag} {value:?}: {problem}; allowed: {allowed}")]
pub struct ConfigError {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The value as given.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub allowed: &'static str,
}

impl Config {
    /// Validates the flags of `lb run`.
    ///
    /// # Errors
    ///
    /// The first flag whose value cannot be used.
    pub fn new(
        args: RunArgs,
        pin_dir: PathBuf,
        state_dir: PathBuf,
        around: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let source = source(args.source, args.kubeconfig, around)?;
        let (snat_first, snat_count) = snat_ports(&args.snat_ports)?;
        Ok(Self {
            source,
            node_name: node_name(args.node_name, around)?,
            node_ips: node_ips(&args.node_ip)?,
            nodeport_addresses: nodeport_addresses(&args.nodeport_addresses)?,
            external_devices: globs("--external-devices", args.external_devices)?,
            workload_devices: globs("--workload-devices", args.workload_devices)?,
            xdp: args.xdp,
            tc: args.tc,
            socket_lb: args.socket_lb,
            cgroup_root: args.cgroup_root,
            snat_first,
            snat_count,
            capacity: Capacity {
                flows: entries("--max-flows", args.max_flows)?,
                services: entries("--max-services", args.max_services)?,
                frontends: entries("--max-frontends", args.max_frontends)?,
                backends: entries("--max-backends", args.max_backends)?,
            },
            pin_dir: absolute("--pin-dir", pin_dir)?,
            state_dir: absolute("--state-dir", state_dir)?,
            healthz: served("--healthz-bind-address", &args.healthz_bind_address)?,
            metrics: served("--metrics-bind-address", &args.metrics_bind_address)?,
            bind_address_hard_fail: args.bind_address_hard_fail,
            trace: args.trace,
            log_format: args.log_format,
            verbosity: args.verbose,
        })
    }
}

impl Config {
    /// All of it as JSON, as it is in effect.
    pub fn document(&self) -> String {
        // Strings, numbers and lists of them: this cannot fail.
        serde_json::to_string(&serde_json::json!({ "lb": self })).unwrap_or_default()
    }
}

/// Most entries that a map may be asked for: 16 Mi, some GiB of kernel memory.
const MAX_ENTRIES: u32 = 1 << 24;

fn source(
    dir: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    around: &Surroundings,
) -> Result<SourceConfig, ConfigError> {
    let allowed =
        "one of --source DIR, --kubeconfig FILE, or neither in a pod with a service account";
    match (dir, kubeconfig) {
        (Some(dir), None) => Ok(SourceConfig::Dir(dir)),
        (None, Some(file)) => Ok(SourceConfig::Kubeconfig(file)),
        (None, None) if around.in_cluster => Ok(SourceConfig::InCluster),
        (None, None) => Err(ConfigError {
            flag: "--source",
            value: String::new(),
            problem: "nothing says where Services come from".into(),
            allowed,
        }),
        (Some(dir), Some(_)) => Err(ConfigError {
            flag: "--source",
            value: dir.display().to_string(),
            problem: "given together with --kubeconfig".into(),
            allowed,
        }),
    }
}

/// The name of this node: as given, or the host name in lower case, as the kubelet does it.
///
/// # Errors
///
/// An empty name or one with characters that no node name has.
pub fn node_name(given: Option<String>, around: &Surroundings) -> Result<String, ConfigError> {
    let name = given.unwrap_or_else(|| around.hostname.to_lowercase());
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(valid) {
        return Err(ConfigError {
            flag: "--node-name",
            problem: "not a node name".into(),
            value: name,
            allowed: "up to 253 of a-z, 0-9, '-' and '.'",
        });
    }
    Ok(name)
}

fn node_ips(given: &[String]) -> Result<Vec<IpAddr>, ConfigError> {
    let allowed =
        "at most one IPv4 and one IPv6 address of this node, e.g. 192.0.2.10,2001:db8::10";
    let error = |value: &str, problem: &str| ConfigError {
        flag: "--node-ip",
        value: value.into(),
        problem: problem.into(),
        allowed,
    };
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in given.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let ip: IpAddr = text.parse().map_err(|_parse| error(text, "not an IP address"))?;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(error(text, "not an address that others can reach"));
        }
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(error(text, "a second address of the same family"));
        }
        ips.push(ip);
    }
    Ok(ips)
}

/// Which local addresses serve NodePorts.
///
/// # Errors
///
/// A word that is neither a keyword nor a CIDR.
pub fn nodeport_addresses(given: &[String]) -> Result<Vec<Selector>, ConfigError> {
    given
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse().map_err(|problem: crate::nodeport::SelectorError| ConfigError {
                flag: "--nodeport-addresses",
                value: text.into(),
                problem: problem.to_string(),
                allowed: "`all`, `primary`, `localhost`, or CIDRs like 192.0.2.0/24,2001:db8::/64",
            })
        })
        .collect()
}

fn globs(flag: &'static str, given: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let valid = |c: char| c.is_ascii_graphic() && c != '/';
    let given: Vec<_> = given.into_iter().filter(|glob| !glob.is_empty()).collect();
    match given.iter().find(|glob| glob.len() > 15 || !glob.chars().all(valid)) {
        Some(glob) => Err(ConfigError {
            flag,
            value: glob.clone(),
            problem: "no device can have such a name".into(),
            allowed: "device names of up to 15 characters, `*` for any text, `?` for one character",
        }),
        None => Ok(given),
    }
}

fn snat_ports(text: &str) -> Result<(u16, u16), ConfigError> {
    let error = |problem: &str| ConfigError {
        flag: "--snat-ports",
        value: text.into(),
        problem: problem.into(),
        allowed: "FIRST-LAST with 1024 <= FIRST < LAST <= 65535 and at least 64 ports",
    };
    let (first, last) = text.split_once('-').ok_or_else(|| error("not a range"))?;
    let port = |text: &str| {
        text.trim().parse::<u16>().map_err(|_parse| error(&format!("{text:?} is not a port")))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first < 1024 {
        return Err(error("begins among the well-known ports"));
    }
    match last.checked_sub(first) {
        Some(more) if more >= 63 => Ok((first, more + 1)),
        Some(_) => Err(error("too few ports")),
        None => Err(error("ends before it begins")),
    }
}

fn entries(flag: &'static str, n: u32) -> Result<u32, ConfigError> {
    if (64..=MAX_ENTRIES).contains(&n) {
        return Ok(n);
    }
    Err(ConfigError {
        flag,
        value: n.to_string(),
        problem: "out of range".into(),
        allowed: "64 to 16777216",
    })
}

/// A path of which every process means the same file.
///
/// # Errors
///
/// A relative path.
pub fn absolute(flag: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError {
        flag,
        value: path.display().to_string(),
        problem: "not an absolute path".into(),
        allowed: "a path that begins with '/'",
    })
}

/// Where something is served; `None` when nowhere.
fn served(flag: &'static str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    let at: SocketAddr = text.parse().map_err(|_parse| ConfigError {
        flag,
        value: text.into(),
        problem: "not an address with a port".into(),
        allowed: "ADDR:PORT like 127.0.0.1:10249 or [::1]:10249, port 0 or `off` for none",
    })?;
    Ok((at.port() != 0).then_some(at))
}

#[cfg(test)]
mod tests;
