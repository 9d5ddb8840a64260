//! `--external-ips`: which `spec.externalIPs` are programmed.

use clap::ValueEnum;
use serde::Serialize;

/// Which of the addresses in `spec.externalIPs` are programmed. Whoever may write a Service chooses
/// them, and nobody checks whose they are.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExternalIps {
    /// None.
    Off,
    /// All but the primary addresses of this node and loopback, which would take the node's own
    /// ports away from it.
    #[default]
    Foreign,
    /// All, as kube-proxy does.
    All,
}
