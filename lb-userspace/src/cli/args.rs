//! The command line as typed: every flag with its environment twin, default and help text.
//!
//! Nothing is decided here. [`crate::config`] turns the raw values of `lb run` into a validated
//! configuration; the other commands use theirs directly.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::{LogFormat, SocketLb, TcMode, XdpMode};

/// Where maps and links are pinned unless told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lb";
/// Where the agent keeps its status file unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/lb";

/// Kubernetes Services as eBPF maps: the agent of one node, and the tools to look inside.
#[derive(Debug, Parser)]
#[command(
    name = "lb",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        lb run --source /etc/lb/services      run the agent on YAML files\n  \
        lb status                             is this node healthy?\n  \
        lb services describe vote             what is programmed for one Service\n  \
        lb plan --source DIR                  what a change of the files would write\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage. Data goes to stdout, logs to stderr."
)]
pub struct Cli {
    /// Directory on a bpf file system that holds the pinned maps and links.
    #[arg(long, global = true, env = "LB_PIN_DIR", default_value = DEFAULT_PIN_DIR, value_name = "DIR")]
    pub pin_dir: PathBuf,

    /// Directory of the agent's status file.
    #[arg(long, global = true, env = "LB_STATE_DIR", default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node: watch Services, keep the maps and programs up to date.
    Run(Box<RunArgs>),
    /// Print what would be written to bring the maps to what the files say; write nothing.
    Plan(PlanArgs),
    /// Say whether this node is healthy: agent, programs, capacity, problems.
    Status(StatusArgs),
    /// List the Services in the maps, or describe one.
    Services(ServicesArgs),
    /// List the backends in the maps with what each one got.
    Backends(BackendsArgs),
    /// List the flows that are being translated right now.
    Flows(FlowsArgs),
    /// Print everything that is in the maps, sorted.
    Dump(DumpArgs),
    /// Remove the programs, links and maps of a pin directory, and nothing else.
    Cleanup(CleanupArgs),
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// The `-o` flag.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Output {
    /// How to print the result.
    #[arg(short = 'o', long = "output", value_enum, env = "LB_OUTPUT", default_value_t = Format::Table)]
    pub format: Format,
}

/// Flags of `lb run`, as typed.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "Examples:\n  \
    lb run --source /etc/lb/services\n  \
    lb run --kubeconfig ~/.kube/config --node-name worker-1\n  \
    lb run --source DIR --external-devices 'eth*' --xdp off --trace\n\n\
    The source is one of --source, --kubeconfig, or, in a pod with a service account, the cluster.\n\
    Stop it with Ctrl-C or SIGTERM: the datapath stays and goes on forwarding. `lb cleanup` removes it.")]
pub struct RunArgs {
    /// Read Services, EndpointSlices and Nodes as YAML from this directory, and watch it.
    #[arg(long, env = "LB_SOURCE", value_name = "DIR", help_heading = "Source")]
    pub source: Option<PathBuf>,

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

    /// Local addresses that serve NodePorts: `all`, `primary`, `localhost` or CIDRs.
    #[arg(
        long,
        env = "LB_NODEPORT_ADDRESSES",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "all",
        help_heading = "Node"
    )]
    pub nodeport_addresses: Vec<String>,

    /// Devices that lead out of the node, as names with `*` and `?` [default: found by routes and addresses].
    #[arg(
        long,
        env = "LB_EXTERNAL_DEVICES",
        value_name = "GLOBS",
        value_delimiter = ',',
        help_heading = "Devices"
    )]
    pub external_devices: Vec<String>,

    /// Devices that lead to pods, as names with `*` and `?` [default: veth into other namespaces, netkit, tap].
    #[arg(
        long,
        env = "LB_WORKLOAD_DEVICES",
        value_name = "GLOBS",
        value_delimiter = ',',
        help_heading = "Devices"
    )]
    pub workload_devices: Vec<String>,

    /// XDP on external devices: native where the driver can and generic elsewhere, one of them, or off.
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

    /// Where to serve /healthz and /livez for load balancers and probes; `off` for nowhere.
    #[arg(
        long,
        env = "LB_HEALTHZ_BIND_ADDRESS",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:10256",
        help_heading = "Logs and metrics"
    )]
    pub healthz_bind_address: String,

    /// End, and say so at the Node, when an address cannot be served, rather than trying on.
    #[arg(long, env = "LB_BIND_ADDRESS_HARD_FAIL", help_heading = "Logs and metrics")]
    pub bind_address_hard_fail: bool,

    /// Where to serve /metrics; `off` for nowhere.
    #[arg(
        long,
        env = "LB_METRICS_BIND_ADDRESS",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:10249",
        help_heading = "Logs and metrics"
    )]
    pub metrics_bind_address: String,

    /// Load the programs that log every packet, and forward their lines to the log.
    #[arg(long, env = "LB_TRACE", help_heading = "Logs and metrics")]
    pub trace: bool,

    /// How to write log lines.
    #[arg(
        long,
        env = "LB_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Logs and metrics"
    )]
    pub log_format: LogFormat,

    /// More log: -v each write, -vv each event. RUST_LOG overrules.
    #[arg(short, long, action = ArgAction::Count, help_heading = "Logs and metrics")]
    pub verbose: u8,
}

/// Flags of `lb plan`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    lb plan --source DIR                        against the maps of this node\n  \
    lb plan --source DIR --empty                against empty maps, without privilege\n  \
    lb plan --source DIR -o json | jq length    how many writes")]
pub struct PlanArgs {
    /// Directory of the YAML files.
    #[arg(long, env = "LB_SOURCE", value_name = "DIR")]
    pub source: PathBuf,

    /// Name of this node in the cluster [default: the host name in lower case].
    #[arg(long, env = "LB_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Plan against empty maps, whatever is pinned.
    #[arg(long)]
    pub empty: bool,

    /// Local addresses that serve NodePorts: `all`, `primary`, `localhost` or CIDRs.
    #[arg(
        long,
        env = "LB_NODEPORT_ADDRESSES",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "all"
    )]
    pub nodeport_addresses: Vec<String>,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `lb status`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    lb status              a few lines and the problems\n  \
    lb status -o json      everything the agent knows about itself\n\n\
    Exits 1 when the node is not healthy, also when the agent does not run.")]
pub struct StatusArgs {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `lb services`.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        lb services                          one line a Service port and family\n  \
        lb services describe vote            in namespace default, or wherever the name is unique\n  \
        lb services describe kube-system/dns -o json"
)]
pub struct ServicesArgs {
    /// How to print.
    #[command(flatten)]
    pub output: Output,

    /// What to do; a list when nothing is said.
    #[command(subcommand)]
    pub command: Option<ServicesCommand>,
}

/// What `lb services` can do.
#[derive(Debug, Subcommand)]
pub enum ServicesCommand {
    /// One line a Service port and family.
    List {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Everything that is programmed for one Service, with the keys of each entry.
    #[command(after_help = "Examples:\n  \
        lb services describe vote\n  \
        lb services describe vote.shop           Service vote in namespace shop\n  \
        lb services describe shop/vote --bpftool each look-up as a bpftool command")]
    Describe {
        /// NAME, NAME.NAMESPACE or NAMESPACE/NAME.
        name: String,
        /// Print the bpftool command of every entry, not only of the first of a kind.
        #[arg(long)]
        bpftool: bool,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// Flags of `lb backends`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    lb backends\n  \
    lb backends --service shop/vote -o json")]
pub struct BackendsArgs {
    /// Only those of this Service: NAME, NAME.NAMESPACE or NAMESPACE/NAME.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// An address family, as typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FamilyArg {
    /// IPv4.
    #[value(alias = "ipv4", alias = "v4")]
    #[value(name = "4")]
    V4,
    /// IPv6.
    #[value(alias = "ipv6", alias = "v6")]
    #[value(name = "6")]
    V6,
}

/// Flags of `lb flows`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    lb flows --service vote             both directions of each connection, busiest first\n  \
    lb flows --family 6 --limit 0       all of IPv6\n\n\
    PROGRAM says which program on which hook rewrites the packets of that line.")]
pub struct FlowsArgs {
    /// Only those of this Service: NAME, NAME.NAMESPACE or NAMESPACE/NAME.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,

    /// Only those of this family.
    #[arg(long, value_enum, value_name = "FAMILY")]
    pub family: Option<FamilyArg>,

    /// At most this many connections; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `lb dump`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    lb dump\n  \
    lb dump -o json | jq .frontends")]
pub struct DumpArgs {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `lb cleanup`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    lb cleanup                          stop forwarding, remove what was pinned\n  \
    lb cleanup --pin-dir /sys/fs/bpf/x  of another agent\n\n\
    Connections through this node break. An agent that still runs must be stopped first.")]
pub struct CleanupArgs {
    /// Go on even though an agent is running.
    #[arg(long)]
    pub force: bool,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}
