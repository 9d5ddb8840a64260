//! The command line as typed: every flag with its environment twin, default and help text.
//!
//! Nothing is decided here. [`crate::config`] turns the raw values of `lb run` into a validated
//! configuration; the other commands use theirs directly.

mod proxy;
mod run;
mod show;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::ExternalIps;

pub use self::{
    proxy::ProxyFlags,
    run::{RunArgs, Verbosity},
    show::{
        BackendsArgs, DumpArgs, FamilyArg, FlowsArgs, ServicesArgs, ServicesCommand, StatusArgs,
    },
};

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
    #[command(version)]
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
    /// Remove the programs, links and maps of a pin directory; or what kube-proxy left on this node.
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

    /// Which external IPs are served: `foreign`, `all` or `off`.
    #[arg(
        long,
        env = "LB_EXTERNAL_IPS",
        value_enum,
        value_name = "WHICH",
        hide_possible_values = true,
        default_value_t = ExternalIps::Foreign
    )]
    pub external_ips: ExternalIps,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `lb cleanup`.
#[derive(Args, Debug, Default)]
#[command(after_help = "Examples:\n  \
    lb cleanup                          stop forwarding, remove what was pinned\n  \
    lb cleanup --pin-dir /sys/fs/bpf/x  of another agent\n  \
    lb cleanup --kube-proxy --dry-run   what kube-proxy left here, and would be removed\n\n\
    Without --kube-proxy, connections through this node break, and an agent that still runs must be\n\
    stopped first. With it, nothing of lb's changes: the agent may go on running.")]
pub struct CleanupArgs {
    /// Remove kube-proxy's rules (iptables of both back ends, nftables) in place of what is lb's.
    #[arg(long)]
    pub kube_proxy: bool,

    /// Only print what would be removed.
    #[arg(long, requires = "kube_proxy")]
    pub dry_run: bool,

    /// Go on even though an agent, or with --kube-proxy a kube-proxy, is running.
    #[arg(long)]
    pub force: bool,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}
