//! The container engine of a kind cluster, through its command line client.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The clients that kind itself knows, in the order in which it asks them.
const PROGRAMS: [&str; 3] = ["docker", "podman", "nerdctl"];

/// An engine's client.
pub(super) struct Engine {
    program: String,
}

/// A node container.
pub(super) struct Node {
    pub(super) name: String,
    /// Whether it holds an administrator's kubeconfig.
    pub(super) is_control_plane: bool,
}

impl Engine {
    /// Finds the engine that has this cluster, and the cluster's nodes.
    pub(super) fn with_cluster(cluster: &str, wanted: Option<&str>) -> Result<(Self, Vec<Node>)> {
        let programs = wanted.map_or_else(|| PROGRAMS.to_vec(), |program| vec![program]);
        let mut tried = Vec::new();
        for program in &programs {
            let engine = Self { program: (*program).to_owned() };
            match engine.nodes(cluster) {
                Ok(nodes) if !nodes.is_empty() => return Ok((engine, nodes)),
                Ok(_) => tried.push(format!("{program} has no running node of it")),
                Err(error) => {
                    let text = format!("{error:#}");
                    let last = text.lines().last().unwrap_or_default();
                    tried.push(format!("{program}: {last}"));
                }
            }
        }
        bail!(
            "no kind cluster {cluster} is found ({}): `kind get clusters` lists yours, `kind create cluster \
             --name {cluster}` makes one",
            tried.join("; ")
        )
    }

    /// The client's name.
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// The cluster's nodes that run, control planes first; not kind's own load balancer.
    fn nodes(&self, cluster: &str) -> Result<Vec<Node>> {
        let filter = format!("label=io.x-k8s.kind.cluster={cluster}");
        let names = process::output(self.command().args([
            "ps",
            "--filter",
            &filter,
            "--format",
            "{{.Names}}",
        ]))?;
        let mut nodes = Vec::new();
        for name in names.lines() {
            let format = "{{index .Config.Labels \"io.x-k8s.kind.role\"}}";
            let role = process::output(self.command().args(["inspect", "--format", format, name]))?;
            if matches!(role.as_str(), "control-plane" | "worker") {
                nodes.push(Node {
                    name: name.to_owned(),
                    is_control_plane: role == "control-plane",
                });
            }
        }
        nodes.sort_by(|a, b| (!a.is_control_plane, &a.name).cmp(&(!b.is_control_plane, &b.name)));
        Ok(nodes)
    }

    /// What a command in a node printed.
    pub(super) fn exec(&self, node: &Node, words: &[&str]) -> Result<String> {
        process::output(self.command().args(["exec", &node.name]).args(words))
    }

    /// The end of a command in a node, whatever it is.
    pub(super) fn attempt(&self, node: &Node, words: &[&str]) -> Result<Output> {
        let mut command = self.command();
        let _ = command.args(["exec", &node.name]).args(words).stdin(Stdio::null());
        command.output().with_context(|| format!("starting {}", self.program))
    }

    /// Starts a command in a node and leaves it running.
    pub(super) fn detach(&self, node: &Node, words: &[&str]) -> Result<()> {
        process::quietly(self.command().args(["exec", "--detach", &node.name]).args(words))
    }

    /// A command in a node that reads this file; what it printed.
    pub(super) fn feed_file(&self, node: &Node, words: &[&str], file: &Path) -> Result<String> {
        let file = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        self.feed(node, words, file)
    }

    /// A command in a node that reads this text; what it printed.
    pub(super) fn feed_text(&self, node: &Node, words: &[&str], text: &str) -> Result<String> {
        let mut file = tempfile::tempfile().context("creating a temporary file")?;
        file.write_all(text.as_bytes()).context("writing a temporary file")?;
        file.rewind().context("rewinding a temporary file")?;
        self.feed(node, words, file)
    }

    fn feed(&self, node: &Node, words: &[&str], from: File) -> Result<String> {
        let mut command = self.command();
        let _ = command.args(["exec", "--interactive", &node.name]).args(words).stdin(from);
        let done = command.output().with_context(|| format!("starting {}", self.program))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!(
                "`{}` on {} ended with {}: {}",
                words.join(" "),
                node.name,
                done.status,
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    fn command(&self) -> Command {
        Command::new(&self.program)
    }
}
