//! The flags of the commands that show what is in the maps, as typed.

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

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
