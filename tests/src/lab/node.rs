//! A node: its namespace, its cgroup, its bpffs directory, its pods.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{
    Addresses, Cidr, PodNetwork, Setup,
    netns::Netns,
    place::Place,
    pod::{self, Pod},
    scope::Scope,
    underlay::{Underlay, mac},
};
use crate::worker::Worker;

/// A node of the lab.
pub struct Node {
    /// A process of the host: in the node's namespace and cgroup.
    pub host: Worker,
    /// A process in the node's namespace but outside its cgroup: no cgroup hook sees its sockets,
    /// as they see no kernel client.
    pub unhooked: Worker,
    /// The pods.
    pub pods: Vec<Pod>,
    /// Where further host processes start.
    pub place: Place,
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses on `eth0`.
    pub addresses: Addresses,
    /// 1 for the first.
    pub number: u8,
    cgroup: PathBuf,
    bpffs: PathBuf,
    dir: PathBuf,
    pods_made: u8,
}

impl Node {
    pub(super) fn create(
        scope: &Scope,
        executable: &Path,
        underlay: &Underlay,
        setup: &Setup,
        number: u8,
    ) -> Result<Self> {
        let name = format!("node{number}");
        let netns = Netns::create(&scope.netns_name(&name))?;
        let rp_filter = setup.rp_filter.to_string();
        netns.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", &rp_filter),
            ("ipv4/conf/default/rp_filter", &rp_filter),
        ])?;
        let addresses =
            underlay.connect(&netns, &name, number, setup.wires, setup.wires, setup.xdp)?;
        if setup.pod_network == PodNetwork::Bridged {
            netns.netlink().bridge(pod::BRIDGE, mac(15, number, 0))?;
            for (ip, length) in pod::gateway(number).both().into_iter().zip([24, 64]) {
                netns.netlink().add_address(pod::BRIDGE, Cidr(ip, length))?;
            }
            netns.netlink().up(pod::BRIDGE)?;
        }
        let cgroup = scope.cgroup(&name)?;
        let place = Place::new(&netns, &scope.cgroup(&format!("{name}/host"))?)?;
        let outside = Place::new(&netns, &scope.cgroup(&format!("{name}-unhooked"))?)?;
        let dir = scope.dir().join(&name);
        std::fs::create_dir(&dir)?;
        Ok(Self {
            host: Worker::start(executable, &place, &name)?,
            unhooked: Worker::start(executable, &outside, &format!("{name}-unhooked"))?,
            pods: Vec::new(),
            place,
            netns,
            addresses,
            number,
            cgroup,
            bpffs: scope.bpffs(&name)?,
            dir,
            pods_made: 0,
        })
    }

    /// `node1`, `node2`, …
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The node's cgroup: above its host processes and its pods.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The node's own bpffs directory.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// A directory for the node's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Networks of the node's pods: `10.244.N.0/24` and `fd44:0:0:N::/64`.
    pub fn pod_networks(&self) -> [Cidr; 2] {
        let n = self.number;
        [
            Cidr([10, 244, n, 0].into(), 24),
            Cidr([0xfd44, 0, 0, u16::from(n), 0, 0, 0, 0].into(), 64),
        ]
    }

    /// Addresses that the node has on the bridge of its pods, where there is one.
    pub fn bridge_addresses(&self) -> Addresses {
        pod::gateway(self.number)
    }

    /// Removes a pod: its processes, its link and its namespace.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        if let Some(at) = self.pods.iter().position(|pod| pod.name() == name) {
            let pod = self.pods.remove(at);
            self.netns.netlink().delete(&pod.device)?;
        }
        Ok(())
    }

    pub(super) fn add_pod(
        &mut self,
        scope: &Scope,
        executable: &Path,
        setup: &Setup,
        name: Option<&str>,
    ) -> Result<usize> {
        self.pods_made += 1;
        let name = name
            .map_or_else(|| format!("pod{}-{}", self.number, self.pods_made), ToOwned::to_owned);
        let cgroup = scope.cgroup(&format!("node{}/pods", self.number))?;
        let number = (self.number, self.pods_made);
        let pod = Pod::create(scope, executable, &self.netns, &cgroup, &name, number, setup)?;
        self.pods.push(pod);
        Ok(self.pods.len() - 1)
    }
}
