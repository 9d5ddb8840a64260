//! Other Service proxies of this node: what they left in the kernel, and how to be rid of it.
//!
//! Invariant: looking changes nothing, not even which tables exist. Removing happens only by
//! [`remove`], never from the agent, and touches nothing but what kube-proxy makes; what the kubelet,
//! a CNI or the operator made stays, also where it refers to kube-proxy's chains.

mod blob;
mod chains;
mod ipvs;
mod legacy;
mod netlink;
mod nftables;
mod removal;
mod watch;

use std::{fmt, path::Path};

use serde::Serialize;

pub use self::{
    chains::{Chain, Kept, Removal, Rule, Table},
    removal::{Mode, Removed, Report, Stays, remove, running_kube_proxy},
    watch::Watch,
};

/// An address family of rules.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Which of the kernel's two implementations holds a table of iptables.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nf_tables, by iptables-nft.
    Nft,
    /// x_tables, by iptables-legacy.
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// What one Service proxy has in the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// Chains of kube-proxy in the tables of iptables.
    Iptables {
        /// Where.
        backend: Backend,
        /// Of which family.
        family: Family,
        /// How many chains, all tables together.
        chains: usize,
    },
    /// kube-proxy's own table of nftables.
    Nftables {
        /// Of which family.
        family: Family,
        /// How many chains.
        chains: usize,
    },
    /// kube-proxy's virtual servers.
    Ipvs {
        /// Whether the device that holds their addresses is there.
        device: bool,
        /// How many virtual servers, whoever made them.
        servers: usize,
    },
    /// The socket and packet load balancer of Cilium.
    Cilium,
    /// A place where we could not look.
    Unseen {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables { backend, family, chains } => {
                write!(
                    f,
                    "kube-proxy's iptables rules ({backend} back end, {family}, {chains} chains)"
                )
            }
            Self::Nftables { family, chains } => {
                write!(f, "kube-proxy's nftables table ({family}, {chains} chains)")
            }
            Self::Ipvs { device, servers } => write!(
                f,
                "kube-proxy's IPVS ({}{servers} virtual servers)",
                if *device { "device kube-ipvs0, " } else { "" }
            ),
            Self::Cilium => f.write_str("Cilium's load balancer maps"),
            Self::Unseen { place, why } => write!(f, "unknown what is in {place}: {why}"),
        }
    }
}

impl Finding {
    /// The same finding, whatever its numbers.
    fn kind(&self) -> Self {
        match self.clone() {
            Self::Iptables { backend, family, .. } => Self::Iptables { backend, family, chains: 0 },
            Self::Nftables { family, .. } => Self::Nftables { family, chains: 0 },
            Self::Ipvs { device, .. } => Self::Ipvs { device, servers: 0 },
            other @ (Self::Cilium | Self::Unseen { .. }) => other,
        }
    }
}

/// Looks for other Service proxies in the network namespace of the calling thread.
pub fn detect() -> Vec<Finding> {
    let mut findings = Vec::new();
    match nftables::chains() {
        Ok(tables) => findings.extend(by_nft(&tables)),
        Err(error) => findings.push(unseen("nf_tables", &error)),
    }
    for family in FAMILIES {
        match legacy::tables(family) {
            Ok(tables) => findings.extend(iptables(Backend::Legacy, family, &tables)),
            Err(error) => {
                findings.push(unseen(&format!("the {family} tables of x_tables"), &error))
            }
        }
    }
    findings.extend(ipvs::detect());
    if Path::new("/sys/fs/bpf/tc/globals/cilium_lb4_services_v2").exists() {
        findings.push(Finding::Cilium);
    }
    findings
}

fn unseen(place: &str, error: &std::io::Error) -> Finding {
    Finding::Unseen { place: place.to_owned(), why: error.to_string() }
}

fn by_nft(tables: &[Table]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for family in FAMILIES {
        let of_family = || tables.iter().filter(move |table| table.family == family);
        let xtables: Vec<&Table> = of_family().filter(|table| table.is_xtables()).collect();
        findings.extend(iptables(Backend::Nft, family, xtables));
        findings.extend(
            of_family()
                .filter(|table| table.name == nftables::KUBE_PROXY)
                .map(|table| Finding::Nftables { family, chains: table.chains.len() }),
        );
    }
    findings
}

fn iptables<'a>(
    backend: Backend,
    family: Family,
    tables: impl IntoIterator<Item = &'a Table>,
) -> Option<Finding> {
    let (mut chains, mut certain) = (0, false);
    for table in tables {
        for chain in table.chains.iter().filter(|chain| !chain.base) {
            if let Some(owner) = chains::kube_proxys(&table.name, &chain.name) {
                chains += 1;
                // Old kubelets make these as well.
                certain |= owner == chains::Owner::KubeProxy;
            }
        }
    }
    certain.then_some(Finding::Iptables { backend, family, chains })
}
