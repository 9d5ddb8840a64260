//! `--external-ips`: which `spec.externalIPs` are served on this node.
//!
//! Invariant: what is refused is refused aloud, and claims nothing: an address that nobody serves is
//! nobody's, whoever names it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use clap::ValueEnum;
use serde::Serialize;

use super::{object::Service, problem::Remark};

/// Which of the addresses in `spec.externalIPs` are served. Whoever may write a Service chooses
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

impl ExternalIps {
    /// The word of the flag.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Foreign => "foreign",
            Self::All => "all",
        }
    }

    /// Why `addr` is not served on a node with these primary addresses; `None` when it is.
    fn refuses(self, addr: IpAddr, primary: &BTreeSet<IpAddr>) -> Option<Refusal> {
        match self {
            Self::Off => Some(Refusal::Off),
            Self::Foreign if addr.is_loopback() || primary.contains(&addr) => Some(Refusal::Node),
            Self::Foreign | Self::All => None,
        }
    }
}

/// Why an external IP is not served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refusal {
    /// None is.
    Off,
    /// It is an address of the node itself.
    Node,
}

/// What is served of a Service that names external IPs which are not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reduced {
    /// The Service without them.
    pub(super) service: Arc<Service>,
    refused: BTreeMap<IpAddr, Refusal>,
}

impl Reduced {
    /// `None` for a Service that is served as it is.
    pub(super) fn new(
        service: &Arc<Service>,
        which: ExternalIps,
        primary: &BTreeSet<IpAddr>,
    ) -> Option<Self> {
        let refused = |addr: &IpAddr| Some((*addr, which.refuses(*addr, primary)?));
        let refused: BTreeMap<_, _> = service.external_ips.iter().filter_map(refused).collect();
        if refused.is_empty() {
            return None;
        }
        let mut service = Service::clone(service);
        service.external_ips.retain(|addr| !refused.contains_key(addr));
        Some(Self { service: service.into(), refused })
    }

    /// What its writer is told.
    pub(super) fn remarks(&self) -> impl Iterator<Item = Remark> + '_ {
        [Refusal::Off, Refusal::Node].into_iter().filter_map(|why| {
            let of_why = self.refused.iter().filter(|(_, other)| **other == why);
            let addrs: Vec<String> = of_why.map(|(addr, _)| addr.to_string()).collect();
            let (addrs, plural) = (addrs.join(", "), addrs.len() > 1);
            let ips = if plural { "external IPs" } else { "external IP" };
            Some(match why {
                _ if addrs.is_empty() => return None,
                Refusal::Off => Remark::notice(format!(
                    "{ips} {addrs}: not programmed, as --external-ips=off or the feature gate \
                     AllowServiceExternalIPs says"
                )),
                Refusal::Node => Remark::warning(format!(
                    "{ips} {addrs}: not programmed, because the node itself is reached by that: \
                     take it out of spec.externalIPs, or start the agent with --external-ips=all"
                )),
            })
        })
    }
}
