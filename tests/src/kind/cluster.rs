//! A kind cluster on our own engine: two nodes, dual stack, pods routed between them, and no kube-proxy.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    engine::Engine,
    node_image,
    shell::{attempt, output, quietly},
};
use crate::lab::until;

const PATIENCE: Duration = Duration::from_secs(180);

/// A node, as the cluster knows it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Addresses, IPv4 first.
    pub(super) addresses: Vec<String>,
    /// What its pods have their addresses from, IPv4 first.
    pub(super) pods: Vec<String>,
}

/// A cluster that is up.
pub(super) struct Cluster<'a> {
    engine: &'a Engine,
    kind: &'a Path,
    pub(super) nodes: Vec<Node>,
}

/// The kubelet runs on cgroup v1 machines too, a slow machine has time, and nothing has to outlive the disk; kind's own CNI and kube-proxy are images that we do not have.
const CONFIG: &str = "\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  ipFamily: dual
  disableDefaultCNI: true
  kubeProxyMode: none
nodes:
- role: control-plane
- role: worker
kubeadmConfigPatches:
- |
  kind: KubeletConfiguration
  apiVersion: kubelet.config.k8s.io/v1beta1
  failCgroupV1: false
- |
  kind: InitConfiguration
  timeouts:
    controlPlaneComponentHealthCheck: 10m0s
    kubeletHealthCheck: 10m0s
    kubernetesAPICall: 10m0s
- |
  kind: JoinConfiguration
  timeouts:
    discovery: 10m0s
    kubeletHealthCheck: 10m0s
    kubernetesAPICall: 10m0s
    tlsBootstrap: 10m0s
- |
  kind: ClusterConfiguration
  etcd:
    local:
      extraArgs:
      - name: unsafe-no-fsync
        value: \"true\"
";

impl<'a> Cluster<'a> {
    /// Creates the cluster with the engine's name and waits until its nodes are ready.
    pub(super) fn create(engine: &'a Engine, kind: &'a Path) -> Result<Self> {
        let config = engine.dir().join("cluster.yaml");
        std::fs::write(&config, CONFIG).context("writing the configuration of the cluster")?;
        let mut create = engine.outside(kind);
        let _ = create.args(["create", "cluster", "--name", engine.name(), "--image"]);
        let _ = create.args([node_image::NAME, "--retain", "--config"]).arg(&config);
        quietly(create.arg("--kubeconfig").arg(engine.dir().join("kubeconfig")))?;
        let mut cluster = Self { engine, kind, nodes: Vec::new() };
        cluster.nodes = cluster.read_nodes()?;
        cluster.route_pods()?;
        let _ = cluster.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "nodes",
            "--all",
            "--timeout=180s",
        ])?;
        let _ = cluster.kubectl(&["-n", "default", "get", "serviceaccount", "default"]).or_else(
            |_| {
                until("the default service account", PATIENCE, || {
                    Ok(cluster.kubectl(&["get", "serviceaccount", "default"]).ok())
                })
            },
        )?;
        Ok(cluster)
    }

    /// The name that kind knows the cluster by.
    pub(super) fn name(&self) -> &str {
        self.engine.name()
    }

    /// A program in the engine's network, outside of every node.
    pub(super) fn outside(&self, program: &Path) -> Command {
        self.engine.outside(program)
    }

    /// A command in a node.
    pub(super) fn on(&self, node: &str, line: &[&str]) -> Command {
        let mut command = self.engine.docker();
        let _ = command.args(["exec", node]).args(line);
        command
    }

    /// kubectl as the cluster's administrator; what it printed.
    pub(super) fn kubectl(&self, line: &[&str]) -> Result<String> {
        let node = format!("{}-control-plane", self.name());
        let admin = ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"];
        output(self.on(&node, &admin).args(line))
    }

    /// Applies objects.
    pub(super) fn apply(&self, objects: &Value) -> Result<()> {
        let node = format!("{}-control-plane", self.name());
        let line = "kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f -";
        self.feed(&node, line, &objects.to_string())
    }

    /// Runs a shell line in a node with this input.
    pub(super) fn feed(&self, node: &str, line: &str, input: &str) -> Result<()> {
        let mut command = self.engine.docker();
        let mut child = command
            .args(["exec", "--interactive", node, "sh", "-ec", line])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting docker exec")?;
        let mut stdin = child.stdin.take().context("standard input is a pipe")?;
        stdin.write_all(input.as_bytes()).context("writing to docker exec")?;
        drop(stdin);
        let done = child.wait_with_output().context("waiting for docker exec")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "`{line}` on {node} ended with {}: {said}", done.status);
        Ok(())
    }

    fn read_nodes(&self) -> Result<Vec<Node>> {
        until("the pod address ranges of the nodes", PATIENCE, || {
            let text = self.kubectl(&["get", "nodes", "-o", "json"])?;
            let list: Value = serde_json::from_str(&text).context("parsing the nodes")?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let nodes: Vec<Node> = items.iter().map(node).collect();
            let complete = nodes.len() == 2 && nodes.iter().all(|node| node.pods.len() == 2);
            Ok(complete.then_some(nodes))
        })
    }

    /// What a CNI's daemon does: a list of plugins for each node, and a way to the other's pods.
    fn route_pods(&self) -> Result<()> {
        for node in &self.nodes {
            let ranges: Vec<Value> =
                node.pods.iter().map(|pods| json!([{ "subnet": pods }])).collect();
            let list = json!({
                "cniVersion": "0.3.1",
                "name": "pods",
                "plugins": [
                    {
                        "type": "ptp",
                        "ipMasq": false,
                        "ipam": {
                            "type": "host-local",
                            "dataDir": "/run/cni-ipam-state",
                            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                            "ranges": ranges,
                        },
                        "mtu": 1500,
                    },
                    { "type": "portmap", "capabilities": { "portMappings": true } },
                ],
            });
            let line = "mkdir -p /etc/cni/net.d; cat > /etc/cni/net.d/.pods; mv /etc/cni/net.d/.pods /etc/cni/net.d/10-pods.conflist";
            self.feed(&node.name, line, &list.to_string())?;
            for other in self.nodes.iter().filter(|other| other.name != node.name) {
                for (pods, address) in other.pods.iter().zip(&other.addresses) {
                    quietly(
                        &mut self.on(&node.name, &["ip", "route", "replace", pods, "via", address]),
                    )?;
                }
            }
            let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
            quietly(self.on(&node.name, &["sysctl", "-qw"]).args(forward))?;
        }
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let mut delete = self.engine.outside(self.kind);
        let _ = delete.args(["delete", "cluster", "--name", self.engine.name(), "--kubeconfig"]);
        drop(attempt(delete.arg(self.engine.dir().join("kubeconfig"))));
    }
}

fn node(object: &Value) -> Node {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let addresses = object["status"]["addresses"].as_array().into_iter().flatten();
    let mut addresses: Vec<String> = addresses
        .filter(|address| address["type"] == "InternalIP")
        .filter_map(|address| text(&address["address"]))
        .collect();
    let pods = object["spec"]["podCIDRs"].as_array().into_iter().flatten();
    let mut pods: Vec<String> = pods.filter_map(text).collect();
    for list in [&mut addresses, &mut pods] {
        list.sort_by_key(|entry| entry.contains(':'));
    }
    Node { name: text(&object["metadata"]["name"]).unwrap_or_default(), addresses, pods }
}
