//! A node: its namespace, its cgroup, its bpffs directory, its pods.

use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{
    Addresses, Cidr, Setup,
    netns::Netns,
    network::{Parts, Pods},
    place::Place,
    pod::{self, Pod},
    scope::Scope,
    tun::Carrier,
    underlay::{Joined, Underlay, mac},
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
    /// The addresses by which the underlay knows it.
    pub addresses: Addresses,
    /// Its addresses on `eth1`, where it has that.
    pub second: Option<Addresses>,
    /// 1 for the first.
    pub number: u8,
    cgroup: PathBuf,
    bpffs: PathBuf,
    dir: PathBuf,
    pods_made: u8,
    parts: Parts,
    /// Who carries the packets of its uplink, where a thread must.
    _carrier: Option<Carrier>,
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
        let parts = setup.network.parts();
        let Joined { addresses, second, carrier } =
            underlay.connect(&netns, &name, number, parts.uplink, setup)?;
        if matches!(parts.pods, Pods::Bridge | Pods::Flat) {
            netns.netlink().bridge(pod::BRIDGE, mac(15, number, 0))?;
            let lengths = pod::lengths(parts.pods);
            for (ip, length) in pod::gateway(parts.pods, number).both().into_iter().zip(lengths) {
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
            second,
            number,
            cgroup,
            bpffs: scope.bpffs(&name)?,
            dir,
            pods_made: 0,
            parts,
            _carrier: carrier,
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

    /// Networks of the node's pods: `10.244.N.0/24` and `fd44:0:0:N::/64`, or with a flat network the
    /// node's part of it, `10.32.N.0/24` and `fd32:0:0:N::/64`.
    pub fn pod_networks(&self) -> [Cidr; 2] {
        let Addresses { v4, v6 } = pod::network(self.parts.pods, self.number);
        [Cidr(v4, 24), Cidr(v6, 64)]
    }

    /// Addresses that the node has on the bridge of its pods, where there is one.
    pub fn bridge_addresses(&self) -> Addresses {
        pod::gateway(self.parts.pods, self.number)
    }

    /// The address that the kernel gives to what the node sends to `to` of its own accord.
    pub fn address_towards(&self, to: IpAddr) -> Result<IpAddr> {
        self.netns.run(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            // Connecting a UDP socket looks up the route and sends nothing.
            socket.connect((to, 9))?;
            Ok(socket.local_addr()?.ip())
        })
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
