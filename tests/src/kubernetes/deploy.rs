//! The agent as it would really run: the manifests of `deploy/`, applied with kubectl.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::cluster::Cluster;

/// Applies the manifests.
pub(super) fn apply(cluster: &Cluster) -> Result<()> {
    let deploy = &cluster.options().deploy;
    ensure!(
        deploy.join("kustomization.yaml").is_file(),
        "no manifests in {}: name their directory in LB_DEPLOY",
        deploy.display()
    );
    let _ = cluster.kubectl(&["apply".as_ref(), "-k".as_ref(), deploy.as_os_str()])?;
    Ok(())
}

/// Waits until the DaemonSet is available.
pub(super) fn wait(cluster: &Cluster, patience: Duration) -> Result<()> {
    let waiting = ["rollout", "status", "-n", "kube-system", "daemonset/lb", "--timeout=3s"];
    cluster.until("the agents", patience, &["kube-controller-manager"], || {
        Ok(cluster.kubectl(&waiting).is_ok())
    })
}
