//! Names, paths and addresses of a cluster: everything that follows from its name and size.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use crate::lab::{Addresses, Cidr};

/// Where clusters keep what describes them: record, certificates, logs.
const RUN: &str = "/run/lb-cluster";
/// Where clusters keep what is large: images, volumes, the database.
const DATA: &str = "/var/lib/lb-cluster";

/// Port of the API server.
pub(super) const API_PORT: u16 = 6443;
/// Networks of Service addresses, as the components' flags want them.
pub(super) const SERVICE_RANGES: &str = "10.96.0.0/16,fd96::/112";
/// Networks of all pods; each node gets a /24 and a /64 of them.
pub(super) const POD_RANGES: &str = "10.244.0.0/16,fd44::/48";
/// First address of the Service network: the Service `kubernetes`.
pub(super) const API_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1)),
];
/// Address of the cluster's DNS server.
pub(super) const DNS: &str = "10.96.0.10";

/// Number of the control plane on the link.
pub(super) const CONTROL: u8 = 200;
/// Number of the client.
pub(super) const CLIENT: u8 = 100;
/// Number of the gateway, which is the link's bridge.
pub(super) const GATEWAY: u8 = 254;

/// Names, paths and addresses of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    name: String,
}

impl Plan {
    /// The plan of the cluster called `name`, which has been checked.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Names of clusters that are up, or were left behind.
    pub(super) fn names() -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(RUN)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| super::options::check_name(name).is_ok())
            .collect();
        names.sort();
        names
    }

    /// Directory of the record, certificates, configurations and logs.
    pub(super) fn state(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    /// Directory of images, volumes and the database.
    pub(super) fn data(&self) -> PathBuf {
        Path::new(DATA).join(&self.name)
    }

    /// Certificates, keys and kubeconfigs.
    pub(super) fn pki(&self) -> PathBuf {
        self.state().join("pki")
    }

    /// The log of a component.
    pub(super) fn log(&self, component: &str) -> PathBuf {
        self.state().join("logs").join(format!("{component}.log"))
    }

    /// Directory of a node's own files.
    pub(super) fn node_dir(&self, node: &str) -> PathBuf {
        self.data().join(node)
    }

    /// Name of a network namespace.
    pub(super) fn netns(&self, place: &str) -> String {
        format!("lbk-{}-{place}", self.name)
    }

    /// The cluster's cgroup, below the root of each hierarchy.
    pub(super) fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("lbk-{}", self.name))
    }

    /// Where the API server is reached, from the nodes and the client.
    pub(super) fn api_server() -> String {
        format!("https://{}:{API_PORT}", addresses(CONTROL).v4)
    }
}

/// The addresses of `number` on the link: `10.0.0.N` and `fd00::N` (in decimal digits).
pub(super) fn addresses(number: u8) -> Addresses {
    Addresses {
        v4: [10, 0, 0, number].into(),
        v6: [0xfd00, 0, 0, 0, 0, 0, 0, digits(number)].into(),
    }
}

/// Networks of a node's pods: `10.244.N.0/24` and `fd44:0:0:N::/64`.
pub(super) fn pod_networks(number: u8) -> [Cidr; 2] {
    [
        Cidr([10, 244, number, 0].into(), 24),
        Cidr([0xfd44, 0, 0, u16::from(number), 0, 0, 0, 0].into(), 64),
    ]
}

/// A network as text.
pub(super) fn text(Cidr(ip, length): Cidr) -> String {
    format!("{ip}/{length}")
}

/// The number whose hexadecimal digits look like the decimal digits of `number`.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_look_like_ipv4_addresses() {
        assert_eq!(addresses(254).v6.to_string(), "fd00::254");
        assert_eq!(addresses(9).v6.to_string(), "fd00::9");
        assert_eq!(pod_networks(2).map(text), ["10.244.2.0/24", "fd44:0:0:2::/64"]);
    }
}
