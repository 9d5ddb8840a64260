//! Inside of pods: a pod's processes are found by its cgroup, and with them its namespaces.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Cluster, hierarchy};
use crate::lab::Place;

/// The place of a pod.
pub(super) fn place(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Place> {
    let pod_object = cluster.json(&["get", "pod", "-n", namespace, pod])?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let uid = text(&pod_object["metadata"]["uid"]);
    let node = text(&pod_object["spec"]["nodeName"]);
    let node = cluster
        .nodes()
        .iter()
        .find(|known| known.name == node)
        .with_context(|| format!("the pod {namespace}/{pod} is on no node yet"))?;
    let dir = find(&node.cgroup.join("kubepods"), &format!("pod{uid}"))
        .with_context(|| format!("{} has no cgroup of the pod {namespace}/{pod}", node.name))?;
    let mut processes = Vec::new();
    hierarchy::processes(&dir, &mut processes);
    let process =
        processes.first().with_context(|| format!("the pod {namespace}/{pod} does not run"))?;
    Place::among(Path::new(&format!("/proc/{process}/ns/net")), vec![dir], &[])
}

/// The cgroup of this name, which is at most one class of service deep.
fn find(above: &Path, name: &str) -> Option<PathBuf> {
    ["", "besteffort", "burstable"]
        .into_iter()
        .map(|class| above.join(class).join(name))
        .find(|dir| dir.is_dir())
}
