//! What a cluster is to look like, and where its parts are found.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};

use crate::lab::binary;

/// Most nodes: their numbers are single digits in addresses.
pub const MOST_NODES: u8 = 9;

/// Name of the cluster unless told otherwise.
pub const DEFAULT_NAME: &str = "dev";

/// Programs without which no cluster starts.
const PROGRAMS: [&str; 13] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "ptp",
    "host-local",
    "loopback",
];

/// How the agents run.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// As a DaemonSet: the manifests of `deploy/`, applied with kubectl.
    #[default]
    Pod,
    /// As a process of each node.
    Host,
    /// Not at all: no Service works.
    None,
}

/// What a cluster is to look like.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct Options {
    /// Its name, unique on the machine.
    pub name: String,
    /// Number of nodes, one to [`MOST_NODES`].
    pub nodes: u8,
    /// How the agents run.
    pub agent: AgentMode,
    /// Directory of the components' programs.
    pub bin: PathBuf,
    /// Directory of image archives; every node gets all of them.
    pub images: PathBuf,
    /// Directory of the agent's manifests.
    pub deploy: PathBuf,
    /// The agent's binary.
    pub lb: PathBuf,
    /// Whether to say on standard error what is being done.
    pub progress: bool,
}

impl Default for Options {
    /// Two nodes; programs where `cargo xtask cluster up` leaves them, or where
    /// `LB_KUBERNETES_TOOLS`, `LB_KUBERNETES_IMAGES`, `LB_DEPLOY` and `LB_BIN` say.
    fn default() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = root.canonicalize().unwrap_or(root);
        let built = root.join("target/kubernetes");
        let named = |variable: &str| env::var_os(variable).map(PathBuf::from);
        Self {
            name: DEFAULT_NAME.to_owned(),
            nodes: 2,
            agent: AgentMode::default(),
            bin: named("LB_KUBERNETES_TOOLS").unwrap_or_else(|| built.clone()).join("bin"),
            images: named("LB_KUBERNETES_IMAGES").unwrap_or_else(|| built.join("images")),
            deploy: named("LB_DEPLOY").unwrap_or_else(|| root.join("deploy")),
            lb: binary().canonicalize().unwrap_or_else(|_missing| binary()),
            progress: false,
        }
    }
}

impl Options {
    /// Fails on a name that cannot be part of file and cgroup names, and on too few or many nodes.
    pub(super) fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        ensure!(
            (1..=MOST_NODES).contains(&self.nodes),
            "{} nodes: a cluster has 1 to {MOST_NODES}",
            self.nodes
        );
        if let Some(why) = self.missing() {
            bail!("{why}");
        }
        Ok(())
    }

    /// What is not there of the files that a cluster is made of, and how to get it.
    pub fn missing(&self) -> Option<String> {
        let lacking: Vec<&str> =
            PROGRAMS.into_iter().filter(|program| !self.bin.join(program).is_file()).collect();
        if !lacking.is_empty() {
            return Some(format!(
                "no {} in {}: `cargo xtask cluster up` builds them (needs Go)",
                lacking.join(", "),
                self.bin.display()
            ));
        }
        if !self.images.is_dir() {
            let images = self.images.display();
            return Some(format!("no images in {images}: `cargo xtask cluster up` makes them"));
        }
        (!self.lb.is_file()).then(|| format!("no {}: run `cargo xtask build`", self.lb.display()))
    }
}

/// Fails on a name that cannot be part of the names of namespaces, cgroups and directories.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 32 && name.chars().all(fit) && !name.starts_with('-'),
        "the cluster name {name:?} must be of at most 32 lower-case letters, digits and dashes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_their_directory() {
        for name in ["", ".", "..", "a/b", "-a", "A", "a b", &"a".repeat(33)] {
            assert!(check_name(name).is_err(), "{name:?} was taken");
        }
        for name in ["dev", "t-12-3", "0"] {
            assert!(check_name(name).is_ok(), "{name:?} was refused");
        }
    }
}
