//! The flags of `lb run`, as typed.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::proxy::ProxyFlags;
use crate::{
    config::{Forward, LogFormat, SocketLb, TcMode, XdpMode},
    model::ExternalIps,
};

/// Flags of `lb run`, as typed.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "Examples:\n  \
    lb run --source /etc/lb/services\n  \
    lb run --kubeconfig ~/.kube/config --node-name worker-1\n  \
    lb run --source DIR --external-devices 'eth*' --xdp off --trace\n  \
    lb run --config /var/lib/kube-proxy/config.conf --hostname-override worker-1\n\n\
    kube-proxy's own flags are accepted too; --help lists them.\n\
    The source is one of --source, --kubeconfig, or, in a pod with a service account, the cluster.\n\
    Stop it with Ctrl-C or SIGTERM: the datapath stays and goes on forwarding. `lb cleanup` removes it.")]
pub struct RunArgs {
    /// Read Services, EndpointSlices and this Node as YAML from this directory, and watch it.
    #[arg(long, env = "LB_SOURCE", value_name = "DIR", help_heading = "Source")]
    pub source: Option<PathBuf>,

    /// Configuration of kube-proxy (KubeProxyConfiguration); our own flags go before it.
    #[arg(long, env = "LB_CONFIG", value_name = "FILE", help_heading = "Source")]
    pub config: Option<PathBuf>,

    /// Watch the cluster that this file names.
    #[arg(long, env = "LB_KUBECONFIG", value_name = "FILE", help_heading = "Source")]
    pub kubeconfig: Option<PathBuf>,

    /// Name of this node in the cluster [default: the host name in lower case].
    #[arg(long, env = "LB_NODE_NAME", value_name = "NAME", help_heading = "Node")]
    pub node_name: Option<String>,

    /// Address of this node, at most one a family [default: of the default route's device].
    #[arg(
        long,
        env = "LB_NODE_IP",
        value_name = "IP",
        value_delimiter = ',',
        help_heading = "Node"
    )]
    pub node_ip: Vec<String>,

    /// Local addresses that serve NodePorts: `all`, `primary`, `localhost`, CIDRs, `no-localhost` [default: all].
    #[arg(
        long,
        env = "LB_NODEPORT_ADDRESSES",
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Node"
    )]
    pub nodeport_addresses: Vec<String>,

    /// Which `externalIPs` of Services to serve: all `foreign` to this node, `all`, or none (`off`) [default: foreign].
    ///
    /// Whoever may write a Service names any address there, and nobody checks whose it is: connections
    /// of pods and of this node to that address then reach the pods of that Service
    /// (CVE-2020-8554). `foreign` protects the node's own ports only; where users who do not trust
    /// each other share a cluster, choose `off`, or let an admission policy say who may use them.
    #[arg(
        long,
        env = "LB_EXTERNAL_IPS",
        value_enum,
        value_name = "WHICH",
        hide_possible_values = true,
        help_heading = "Node"
    )]
    pub external_ips: Option<ExternalIps>,

    /// Devices that lead out of the node, as names with `*` and `?` [default: all that carry IP, but loopback and pods' links].
    #[arg(
        long,
        env = "LB_EXTERNAL_DEVICES",
        value_name = "GLOBS",
        value_delimiter = ',',
        help_heading = "Devices"
    )]
    pub external_devices: Vec<String>,

    /// Devices that lead to pods, as names with `*` and `?`; all others are external then [default: veth and netkit into other namespaces, tap, tun with host routes only].
    #[arg(
        long,
        env = "LB_WORKLOAD_DEVICES",
        value_name = "GLOBS",
        value_delimiter = ',',
        help_heading = "Devices"
    )]
    pub workload_devices: Vec<String>,

    /// XDP on external devices: native on physical ones (auto), native or generic on all that can, or off; what it does not take, tc does.
    #[arg(
        long,
        env = "LB_XDP",
        value_enum,
        default_value_t,
        value_name = "MODE",
        help_heading = "Devices"
    )]
    pub xdp: XdpMode,

    /// How to attach tc programs: TCX where the kernel has it, or always clsact.
    #[arg(
        long,
        env = "LB_TC",
        value_enum,
        default_value_t,
        value_name = "MODE",
        help_heading = "Devices"
    )]
    pub tc: TcMode,

    /// How packets from outside for backends on other nodes leave: redirected, or through the stack.
    ///
    /// `redirect` sends them on past the stack, at a fraction of its cost, where the stack would do
    /// nothing else with them: it stops by itself where IPsec policies or routing rules by mark could
    /// (`lb status` says so). It cannot know of packet filters. On hosts whose operators filter or count
    /// forwarded packets (the chain FORWARD of iptables, the hook forward of nftables), `stack` lets
    /// those rules see every packet. May be changed at any restart: connections go on.
    #[arg(
        long,
        env = "LB_FORWARD",
        value_enum,
        default_value_t,
        value_name = "HOW",
        hide_possible_values = true,
        help_heading = "Devices"
    )]
    pub forward: Forward,

    /// Whose sockets are translated at connect time: host processes, all cgroups, or nobody's.
    #[arg(
        long,
        env = "LB_SOCKET_LB",
        value_enum,
        default_value_t,
        value_name = "WHO",
        help_heading = "Sockets"
    )]
    pub socket_lb: SocketLb,

    /// Cgroup (v2) to attach the socket programs to [default: where cgroup2 is mounted].
    #[arg(long, env = "LB_CGROUP_ROOT", value_name = "DIR", help_heading = "Sockets")]
    pub cgroup_root: Option<PathBuf>,

    /// Source ports for traffic that must return through this node.
    #[arg(
        long,
        env = "LB_SNAT_PORTS",
        value_name = "FIRST-LAST",
        default_value = "16384-32767",
        help_heading = "Capacity"
    )]
    pub snat_ports: String,

    /// Flow entries, each family; one connection takes two.
    #[arg(
        long,
        env = "LB_MAX_FLOWS",
        value_name = "N",
        default_value_t = 262_144,
        help_heading = "Capacity"
    )]
    pub max_flows: u32,

    /// Service ports, both families together.
    #[arg(
        long,
        env = "LB_MAX_SERVICES",
        value_name = "N",
        default_value_t = 65_536,
        help_heading = "Capacity"
    )]
    pub max_services: u32,

    /// Frontends, each family.
    #[arg(
        long,
        env = "LB_MAX_FRONTENDS",
        value_name = "N",
        default_value_t = 131_072,
        help_heading = "Capacity"
    )]
    pub max_frontends: u32,

    /// Backends, both families together.
    #[arg(
        long,
        env = "LB_MAX_BACKENDS",
        value_name = "N",
        default_value_t = 131_072,
        help_heading = "Capacity"
    )]
    pub max_backends: u32,

    /// Where to serve /healthz and /livez for load balancers and probes; `off` for nowhere [default: 0.0.0.0:10256].
    #[arg(
        long,
        env = "LB_HEALTHZ_BIND_ADDRESS",
        value_name = "ADDR:PORT",
        help_heading = "Logs and metrics"
    )]
    pub healthz_bind_address: Option<String>,

    /// End, and say so at the Node, when an address cannot be served, rather than trying on.
    #[arg(
        long,
        env = "LB_BIND_ADDRESS_HARD_FAIL",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Logs and metrics"
    )]
    pub bind_address_hard_fail: Option<bool>,

    /// Where to serve /metrics; `off` for nowhere [default: 127.0.0.1:10249].
    #[arg(
        long,
        env = "LB_METRICS_BIND_ADDRESS",
        value_name = "ADDR:PORT",
        help_heading = "Logs and metrics"
    )]
    pub metrics_bind_address: Option<String>,

    /// Load the programs that log every packet, and forward their lines to the log.
    #[arg(long, env = "LB_TRACE", help_heading = "Logs and metrics")]
    pub trace: bool,

    /// How to write log lines [default: text].
    #[arg(
        long,
        env = "LB_LOG_FORMAT",
        value_enum,
        value_name = "FORMAT",
        help_heading = "Logs and metrics"
    )]
    pub log_format: Option<LogFormat>,

    /// More log: -v each write, -vv each event; -v=N counts as Kubernetes does. RUST_LOG overrules.
    #[arg(
        short,
        long,
        visible_alias = "v",
        action = ArgAction::Append,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "",
        value_parser = Verbosity::parse,
        help_heading = "Logs and metrics"
    )]
    pub verbose: Vec<Verbosity>,

    /// What kube-proxy has and lb has not.
    #[command(flatten)]
    pub proxy: ProxyFlags,
}

/// How much is to be logged, as typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verbosity {
    /// So many steps more than usual: `-v`, `-vv`.
    More(u8),
    /// On Kubernetes' scale: `-v=2`, `--v=2`, `-v 2`.
    Level(u32),
}

impl Verbosity {
    /// Reads what stands behind `-v`: nothing, more of the same letter, or a number.
    fn parse(text: &str) -> Result<Self, String> {
        if text.chars().all(|c| c == 'v') {
            return Ok(Self::More(u8::try_from(text.len() + 1).unwrap_or(u8::MAX)));
        }
        let number = text.parse().map_err(|_parse| "allowed: -v, -vv, or a number".to_owned())?;
        Ok(Self::Level(number))
    }
}
