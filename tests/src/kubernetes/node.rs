//! A node of the cluster: its namespaces and cgroups, its container runtime, its kubelet.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    cluster::Cluster,
    hierarchy, hold,
    network::node_name,
    plan::{self, Plan},
    process::{self, Identity},
    record::{Owned, Record},
};
use crate::lab::{Place, netns, until};

/// Name of the image that holds a pod's namespaces.
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// A node.
pub struct Node {
    /// `node1` for the first.
    pub name: String,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
    /// Name of its network namespace under `/run/netns`.
    pub netns: String,
    /// Its cgroup of version 2, as seen from the machine: above its processes and its pods.
    pub cgroup: PathBuf,
    /// Where processes of the node's own start.
    pub place: Place,
}

impl Node {
    /// The node as the record of a running cluster has it.
    pub(super) fn open(plan: &Plan, number: u8, holder: Identity) -> Result<Self> {
        let name = node_name(number);
        ensure!(holder.runs(), "the process that holds {name} has ended");
        let netns = plan.netns(&name);
        let own = plan.cgroup().join(&name);
        let hierarchies = hierarchy::all()?;
        let host = hierarchies.iter().map(|one| one.root.join(&own).join(hold::HOST)).collect();
        let place = Place::among(
            &Path::new(netns::NAMES).join(&netns),
            host,
            &hold::namespaces(holder.pid),
        )?;
        let addresses = plan::addresses(number);
        let cgroup = hierarchies.first().context("no cgroup hierarchy")?.root.join(&own);
        Ok(Self { name, v4: addresses.v4, v6: addresses.v6, netns, cgroup, place })
    }

    /// Name of the component that holds the node's namespaces.
    pub(super) fn holder(number: u8) -> String {
        format!("{}-hold", node_name(number))
    }
}

/// Makes a node's cgroups and starts the process that holds its namespaces.
pub(super) fn separate(plan: &Plan, record: &Record, executable: &Path, number: u8) -> Result<()> {
    let name = node_name(number);
    let own = plan.cgroup().join(&name);
    let mut cgroups = Vec::new();
    for hierarchy in hierarchy::all()? {
        cgroups.push(hierarchy.create(&own)?);
        let _ = hierarchy.create(&own.join(hold::HOST))?;
    }
    let dir = plan.node_dir(&name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let place = Place::among(&Path::new(netns::NAMES).join(plan.netns(&name)), cgroups, &[])?;
    let log = plan.log(&Node::holder(number));
    let mut child = place
        .command(executable)?
        .args(["hold", &name])
        .arg(dir)
        .arg(plan.state())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| format!("starting {}", executable.display()))?;
    let pid = i32::try_from(child.id())?;
    if let Some(identity) = Identity::of(pid) {
        record.add(&Owned::Process(Node::holder(number), identity))?;
    }
    let mut said = String::new();
    let out = child.stdout.take().expect("standard output is piped");
    let _ = BufReader::new(out).read_line(&mut said)?;
    ensure!(said == "held\n", "{name} cannot be set up: {}", process::tail(&log, 5));
    Ok(())
}

/// Starts a node's container runtime and gives it every image.
pub(super) fn runtime(cluster: &Cluster, node: &Node, number: u8) -> Result<()> {
    let dir = cluster.plan().node_dir(&node.name);
    configure(cluster, node, number, &dir)?;
    let mut containerd = node.place.command(cluster.program("containerd"))?;
    let _ = containerd.arg("--config").arg(dir.join("containerd.toml"));
    // The shim is looked for there.
    let _ = containerd.env("PATH", cluster.path());
    cluster.start(&format!("{}-containerd", node.name), &mut containerd)?;
    let socket = dir.join("run/containerd/containerd.sock");
    cluster.until(
        &format!("containerd of {}", node.name),
        Duration::from_secs(60),
        &[&format!("{}-containerd", node.name)],
        || Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok()),
    )?;
    for image in images(&cluster.options().images)? {
        import(cluster, node, &image)?;
    }
    Ok(())
}

/// Gives a node's container runtime an image archive.
pub(super) fn import(cluster: &Cluster, node: &Node, image: &Path) -> Result<()> {
    let output = node
        .place
        .command(cluster.program("ctr"))?
        .args(["-n", "k8s.io", "images", "import"])
        .arg(image)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: importing {}: {said}", node.name, image.display());
    Ok(())
}

/// Starts a node's kubelet.
pub(super) fn kubelet(cluster: &Cluster, node: &Node) -> Result<()> {
    let dir = cluster.plan().node_dir(&node.name);
    let mut kubelet = node.place.command(cluster.program("kubelet"))?;
    let _ = kubelet
        .env("PATH", cluster.path())
        .arg("--config")
        .arg(dir.join("kubelet.yaml"))
        .arg("--kubeconfig")
        .arg(cluster.plan().pki().join(format!("{}.conf", node.name)))
        .arg("--root-dir")
        .arg(dir.join("kubelet"))
        .arg(format!("--hostname-override={}", node.name))
        .arg(format!("--node-ip={},{}", node.v4, node.v6));
    cluster.start(&format!("{}-kubelet", node.name), &mut kubelet)
}

/// The image archives in a directory.
fn images(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut images: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "tar"))
        .collect();
    images.sort();
    ensure!(!images.is_empty(), "no image archive in {}", dir.display());
    Ok(images)
}

/// Writes the configuration of the runtime, the network plugin and the kubelet.
fn configure(cluster: &Cluster, node: &Node, number: u8, dir: &Path) -> Result<()> {
    let shown = dir.display();
    let bin = cluster.options().bin.display();
    let [v4, v6] = plan::pod_networks(number).map(plan::text);
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        let parent = path.parent().expect("the path is below the node's directory");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("writing {}", path.display()))
    };
    // Raising the OOM score of a sandbox asks for a capability that containers rarely have.
    write(
        "containerd.toml",
        format!(
            r#"version = 3
root = "{shown}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{bin}"]
conf_dir = "{shown}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{bin}/runc"
SystemdCgroup = false
"#
        ),
    )?;
    write(
        "cni/10-pods.conflist",
        format!(
            r#"{{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {{
      "type": "ptp",
      "ipMasq": false,
      "ipam": {{
        "type": "host-local",
        "dataDir": "{shown}/cni-addresses",
        "ranges": [[{{"subnet": "{v4}"}}], [{{"subnet": "{v6}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"#
        ),
    )?;
    // No name server outside can be reached, and none is asked.
    write("resolv.conf", String::new())?;
    write("kubelet.yaml", kubelet_configuration(cluster, node, dir))
}

fn kubelet_configuration(cluster: &Cluster, node: &Node, dir: &Path) -> String {
    let pki = cluster.plan().pki();
    let (pki, dir, name, dns) = (pki.display(), dir.display(), &node.name, plan::DNS);
    // Machines without cgroup v2 are welcome; no image or pod is removed for want of disk space.
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/{name}-serving.crt
tlsPrivateKeyFile: {pki}/{name}-serving.key
clusterDNS: [{dns}]
clusterDomain: cluster.local
resolvConf: {dir}/resolv.conf
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
cgroupsPerQOS: true
cgroupRoot: /
enforceNodeAllocatable: []
failSwapOn: false
evictionHard: {{}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 24h
podLogsDir: /var/log/pods
volumePluginDir: {dir}/volume-plugins
oomScoreAdj: 0
registerNode: true
nodeStatusUpdateFrequency: 5s
"
    )
}

/// Waits for a process to end.
pub(super) fn gone(what: &str, identity: Identity) -> Result<()> {
    until(what, Duration::from_secs(30), || Ok((!identity.runs()).then_some(())))
}
