//! The configuration of the agent: typed and validated, built from the raw flags of `lb run`.
//!
//! Pure: host name and environment are parameters. Every error names the flag, the value that was
//! given and what is allowed.

mod check;
mod merge;
pub mod proxy;
pub mod watch;

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use serde::{Serialize, Serializer};

pub use self::check::{absolute, node_name, nodeport_addresses};
use self::proxy::{Remark, Settings};
use crate::{cli::args::RunArgs, housekeeper::Lifetimes, model::ExternalIps, nodeport::Selector};

/// XDP on external devices.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver of physical devices, where it can.
    #[default]
    Auto,
    /// In the driver of all devices, where it can.
    Native,
    /// In the stack, on all devices: for tests.
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

/// How packets for backends on other nodes leave this one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Past the stack where it would do nothing else with them, through it elsewhere.
    #[default]
    Redirect,
    /// Through the stack, all of them.
    Stack,
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
    /// A cluster's API server.
    Cluster(ClusterConfig),
}

/// How to reach a cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterConfig {
    /// The file that names it; the pod's service account where there is none.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, instead of the one that is named there.
    pub server: Option<String>,
}

impl fmt::Display for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "directory {}", dir.display()),
            Self::Cluster(ClusterConfig { kubeconfig, server }) => {
                match kubeconfig {
                    Some(file) => write!(f, "cluster of {}", file.display())?,
                    None => f.write_str("cluster of this pod")?,
                }
                match server {
                    Some(server) => write!(f, " at {server}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Serialize for SourceConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
    /// Which external IPs of Services are served.
    pub external_ips: ExternalIps,
    /// Globs of devices that lead out of the node; empty when they are to be found.
    pub external_devices: Vec<String>,
    /// Globs of devices that lead to pods; empty when they are to be found.
    pub workload_devices: Vec<String>,
    /// XDP on external devices.
    pub xdp: XdpMode,
    /// How tc programs are attached.
    pub tc: TcMode,
    /// How packets for backends on other nodes leave.
    pub forward: Forward,
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
    /// How long flows may be idle.
    pub lifetimes: Lifetimes,
    /// Half of the time that a change may wait before the node is unhealthy.
    #[serde(serialize_with = "seconds")]
    pub sync_period: Duration,
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
    /// How ready the kernel is to kill the agent when memory is short, from -1000 to 1000.
    pub oom_score_adj: i32,
    /// Load the programs that log every packet.
    pub trace: bool,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// How much is logged.
    pub verbosity: u8,
    /// What is to be done with all this.
    #[serde(skip)]
    pub task: Task,
    /// What the operator should know about the settings.
    #[serde(skip)]
    pub remarks: Vec<Remark>,
    /// The configuration in the form of kube-proxy's file.
    #[serde(skip)]
    pub proxy: serde_json::Value,
}

/// What `lb run` is to do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Task {
    /// Be the agent.
    #[default]
    Run,
    /// Only check the configuration.
    InitOnly,
    /// Write the configuration to this file.
    WriteConfig(PathBuf),
    /// Remove what was pinned.
    Cleanup,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// What the configuration takes from the machine rather than from flags.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The host name.
    pub hostname: String,
    /// Whether this process runs in a pod with a service account.
    pub in_cluster: bool,
}

/// A flag or field with a value that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{flag} {value:?}: {problem}; allowed: {allowed}")]
pub struct ConfigError {
    /// The flag, with its dashes, or the field of the configuration file.
    pub flag: Cow<'static, str>,
    /// The value as given.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub allowed: Cow<'static, str>,
}

impl Config {
    /// Validates the flags of `lb run`, and the text of the file that `--config` names.
    ///
    /// # Errors
    ///
    /// The first setting whose value cannot be used.
    pub fn new(
        args: RunArgs,
        pin_dir: PathBuf,
        state_dir: PathBuf,
        around: &Surroundings,
        file: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let path = args.config.clone().unwrap_or_default();
        let file = file.map(|text| proxy::File { path: &path, text });
        let mut settings = Settings::read(&merge::shared_flags(&args), file)?;
        let mut remarks = std::mem::take(&mut settings.remarks);
        let nodeport_addresses = merge::nodeport_selectors(&settings)?;
        let (snat_first, snat_count) = check::snat_ports(&args.snat_ports)?;
        let mut config = Self {
            source: check::source(args.source, &settings, around)?,
            node_name: node_name(
                args.node_name.as_deref().or_else(|| settings.text("hostnameOverride")),
                around,
            )?,
            node_ips: check::node_ips(&args.node_ip, settings.text("bindAddress"))?,
            nodeport_addresses,
            external_ips: merge::external_ips(args.external_ips, &settings, &mut remarks),
            external_devices: check::globs("--external-devices", args.external_devices)?,
            workload_devices: merge::workload_devices(args.workload_devices, &settings)?,
            xdp: args.xdp,
            tc: args.tc,
            forward: args.forward,
            socket_lb: args.socket_lb,
            cgroup_root: args.cgroup_root,
            snat_first,
            snat_count,
            capacity: Capacity {
                flows: check::entries("--max-flows", args.max_flows)?,
                services: check::entries("--max-services", args.max_services)?,
                frontends: check::entries("--max-frontends", args.max_frontends)?,
                backends: check::entries("--max-backends", args.max_backends)?,
            },
            lifetimes: merge::lifetimes(&settings)?,
            sync_period: settings.sync_period(),
            pin_dir: absolute("--pin-dir", pin_dir)?,
            state_dir: absolute("--state-dir", state_dir)?,
            healthz: check::served("healthzBindAddress", &settings)?,
            metrics: check::served("metricsBindAddress", &settings)?,
            bind_address_hard_fail: settings.switch("bindAddressHardFail").unwrap_or(false),
            oom_score_adj: merge::oom_score_adj(&settings),
            trace: args.trace,
            log_format: args.log_format.unwrap_or_else(|| merge::log_format(&settings)),
            verbosity: merge::verbosity(&args.verbose, &settings),
            task: merge::task(&settings),
            remarks,
            proxy: settings.document(),
        };
        config.remark_node_ports(settings.words("nodePortAddresses").is_empty());
        Ok(config)
    }

    /// What kube-proxy says about the addresses of NodePorts.
    fn remark_node_ports(&mut self, unset: bool) {
        if unset {
            self.remarks.push(Remark::Note(
                "nodePortAddresses is not set: NodePorts are served on all local addresses; \
                 `primary` restricts them to those of the node"
                    .into(),
            ));
        }
        let mut families = self.nodeport_addresses.iter().map(|selector| match selector {
            Selector::Cidr { net, .. } => Some(net.is_ipv4()),
            Selector::All | Selector::Primary | Selector::Localhost | Selector::NoLocalhost => None,
        });
        if let Some(Some(v4)) = families.next()
            && families.all(|family| family == Some(v4) || family.is_none())
            && !self.nodeport_addresses.iter().any(Selector::is_of_both_families)
        {
            let missing = if v4 { "IPv6" } else { "IPv4" };
            self.remarks.push(Remark::Warning(format!(
                "nodePortAddresses has no network of {missing}: NodePorts are not served there"
            )));
        }
    }

    /// All of it as JSON, as it is in effect: in kube-proxy's form, and in our own.
    pub fn document(&self) -> String {
        let document = serde_json::json!({ "kubeproxy.config.k8s.io": self.proxy, "lb": self });
        // Strings, numbers and lists of them: this cannot fail.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
