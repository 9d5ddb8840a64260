//! The agent as it would really run: the manifests of `deploy/`, applied with kubectl.
//!
//! They are applied as they are, by an overlay that adds what an operator would add on a cluster
//! without kube-proxy: the API server's real address.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    addons,
    cluster::Cluster,
    plan::{self, CONTROL},
};

/// Applies the manifests.
pub(super) fn apply(cluster: &Cluster) -> Result<()> {
    let overlay = cluster.dir().join("deploy");
    let base = overlay.join("base");
    fs::create_dir_all(&base).with_context(|| format!("creating {}", base.display()))?;
    copy(&cluster.options().deploy, &base)?;
    let kustomization = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [base]
patches:
  - target: {{kind: ConfigMap, name: lb}}
    patch: |-
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: lb
      data:
        KUBERNETES_SERVICE_HOST: \"{}\"
        KUBERNETES_SERVICE_PORT: \"{}\"
",
        plan::addresses(CONTROL).v4,
        plan::API_PORT,
    );
    let path = overlay.join("kustomization.yaml");
    fs::write(&path, kustomization).with_context(|| format!("writing {}", path.display()))?;
    cluster.kubectl(&["apply".as_ref(), "-k".as_ref(), overlay.as_os_str()]).map(drop)
}

/// Waits until the DaemonSet is available.
pub(super) fn wait(cluster: &Cluster, patience: Duration) -> Result<()> {
    let waiting = ["rollout", "status", "-n", "kube-system", "daemonset/lb", "--timeout=3s"];
    let done = cluster.until("the agents", patience, &["kube-controller-manager"], || {
        addons::check_images(cluster, "lb")?;
        Ok(cluster.kubectl(&waiting).is_ok())
    });
    done.map_err(|error| error.context(addons::pods(cluster, "lb")).context("no agents"))
}

/// Copies the YAML files of a directory.
fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(
        from.join("kustomization.yaml").is_file(),
        "no manifests in {}: name their directory in LB_DEPLOY",
        from.display()
    );
    let entries = fs::read_dir(from).with_context(|| format!("reading {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        if path.extension().is_some_and(|end| end == "yaml") {
            let _ = fs::copy(&path, to.join(name))
                .with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}
