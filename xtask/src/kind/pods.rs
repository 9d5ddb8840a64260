//! Being in a pod: a command of the node in the pod's network namespace.
//!
//! Pods of minimal images have no shell and no client, and ephemeral containers would need another image.

use anyhow::{Context as _, Result};

use super::Cluster;
use super::engine::Node;

/// A pod that runs, where, and a process of it.
pub(super) struct Pod<'a> {
    pub(super) name: String,
    node: &'a Node,
    pid: String,
}

impl<'a> Pod<'a> {
    /// The pods with this label, all of which must run.
    pub(super) fn labelled(cluster: &'a Cluster, label: &str) -> Result<Vec<Self>> {
        let columns = "custom-columns=:.metadata.name,:.spec.nodeName,:.status.podIP";
        let words = [
            "get",
            "pods",
            "-l",
            label,
            "--no-headers",
            "-o",
            columns,
            "--field-selector",
            "status.phase=Running",
        ];
        let table = cluster.kubectl.run(&cluster.engine, &words)?;
        table.lines().map(|line| Self::from_line(cluster, line)).collect()
    }

    fn from_line(cluster: &'a Cluster, line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let name = words.next().context("a pod has a name")?.to_owned();
        let node = words.next().with_context(|| format!("pod {name} is on no node"))?;
        let node = cluster.nodes.iter().find(|known| known.name == node);
        let node =
            node.with_context(|| format!("the node of pod {name} is no container of the cluster"))?;
        let filter = format!("labels.\"io.kubernetes.pod.name\"=={name}");
        let containers = cluster
            .engine
            .exec(node, &["ctr", "-n", "k8s.io", "containers", "ls", "-q", &filter])?;
        let tasks = cluster.engine.exec(node, &["ctr", "-n", "k8s.io", "tasks", "ls"])?;
        let pid = tasks.lines().find_map(|task| {
            let mut words = task.split_whitespace();
            let (id, pid) = (words.next()?, words.next()?);
            containers.lines().any(|known| known == id).then(|| pid.to_owned())
        });
        let pid =
            pid.with_context(|| format!("no container of pod {name} runs on {}", node.name))?;
        Ok(Self { name, node, pid })
    }

    /// A shell line in the pod's network: what it printed, and whether it succeeded.
    pub(super) fn run(&self, cluster: &Cluster, line: &str) -> Result<(String, bool)> {
        let words = ["nsenter", "-t", &self.pid, "-n", "sh", "-c", line];
        let done = cluster.engine.attempt(self.node, &words)?;
        Ok((String::from_utf8_lossy(&done.stdout).into_owned(), done.status.success()))
    }
}
