//! kubectl as the administrator of the cluster, in a control-plane node: nothing has to be installed here,
//! and the API server need not be reachable from here.

use std::process::Output;

use anyhow::{Context as _, Result};

use super::engine::{Engine, Node};

const ADMIN: [&str; 3] = ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"];

/// Where kubectl runs.
pub(super) struct Kubectl {
    node: Node,
}

impl Kubectl {
    /// Takes the first control-plane node.
    pub(super) fn new(engine: &Engine, nodes: &[Node]) -> Result<Self> {
        let node = nodes.iter().find(|node| node.is_control_plane);
        let node = node.context("no control-plane node of the cluster runs")?;
        let kubectl = Self { node: Node { name: node.name.clone(), is_control_plane: true } };
        let _ = kubectl.run(engine, &["version"]).context("the API server does not answer")?;
        Ok(kubectl)
    }

    /// What kubectl printed.
    pub(super) fn run(&self, engine: &Engine, words: &[&str]) -> Result<String> {
        engine.exec(&self.node, &[&ADMIN, words].concat())
    }

    /// How kubectl ended, whatever that is.
    pub(super) fn attempt(&self, engine: &Engine, words: &[&str]) -> Result<Output> {
        engine.attempt(&self.node, &[&ADMIN, words].concat())
    }

    /// Applies or deletes (`verb`) these objects.
    pub(super) fn objects(&self, engine: &Engine, verb: &[&str], objects: &str) -> Result<String> {
        engine.feed_text(&self.node, &[&ADMIN, verb, &["-f", "-"]].concat(), objects)
    }
}
