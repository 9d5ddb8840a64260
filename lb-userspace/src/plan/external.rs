//! `--external-ips`: which `spec.externalIPs` are programmed.
//!
//! Invariant: what is refused is refused aloud.

use std::{collections::BTreeMap, net::IpAddr};

use clap::ValueEnum;
use serde::Serialize;

use super::NodeAddresses;
use crate::model::{ObjectName, Problem, Remark, Subject};

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

/// Why an external IP is not programmed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// None is.
    Off,
    /// It is an address of the node itself.
    Node,
}

impl ExternalIps {
    /// The word of the flag.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Foreign => "foreign",
            Self::All => "all",
        }
    }

    /// Why `addr` is not programmed on this node; `None` when it is.
    pub(super) fn refuses(self, addr: IpAddr, node: &NodeAddresses) -> Option<Refusal> {
        match self {
            Self::Off => Some(Refusal::Off),
            Self::Foreign if addr.is_loopback() || node.primary.contains(&addr) => {
                Some(Refusal::Node)
            }
            Self::Foreign | Self::All => None,
        }
    }
}

/// A problem for each Service whose external IPs are not programmed.
pub(super) fn problems(
    refused: &BTreeMap<ObjectName, BTreeMap<IpAddr, Refusal>>,
) -> impl Iterator<Item = Problem> + '_ {
    refused.iter().flat_map(|(name, addrs)| {
        [Refusal::Off, Refusal::Node].into_iter().filter_map(|why| {
            let of_why = addrs.iter().filter(|(_, other)| **other == why);
            let addrs: Vec<String> = of_why.map(|(addr, _)| addr.to_string()).collect();
            let (addrs, plural) = (addrs.join(", "), addrs.len() > 1);
            let ips = if plural { "external IPs" } else { "external IP" };
            let remark = match why {
                _ if addrs.is_empty() => return None,
                Refusal::Off => Remark::notice(format!(
                    "{ips} {addrs}: not programmed, as --external-ips=off or the feature gate \
                     AllowServiceExternalIPs says"
                )),
                Refusal::Node => Remark::warning(format!(
                    "{ips} {addrs}: not programmed, because the node itself is reached by that: \
                     take it out of spec.externalIPs, or start the agent with --external-ips=all"
                )),
            };
            Some(remark.about(Subject::Service(name.clone()), None))
        })
    })
}
