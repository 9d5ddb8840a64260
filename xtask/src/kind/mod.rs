//! `cargo xtask run --kind NAME`: the agent in the nodes of a kind cluster that is already there.
//!
//! Everything goes through the container engine's client and what a node container has: kubectl with the
//! administrator's kubeconfig in a control-plane node, ctr and a shell in every node. Each thing that is
//! done leaves a record where it was done, so that `--undo` needs nothing but the cluster.

mod agent;
mod engine;
mod install;
mod kubectl;
mod lab;
mod mounts;
mod pods;
mod proxy;
mod screen;
pub(crate) mod test;
mod wait;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::{build, image};
use engine::Engine;
use kubectl::Kubectl;
use screen::Screen;

/// Options of `cargo xtask run` that concern a kind cluster.
#[derive(Args)]
pub(crate) struct Kind {
    /// Runs the agent in every node of this kind cluster in kube-proxy's place, and shows the vote lab
    #[arg(long, value_name = "NAME")]
    kind: Option<String>,
    /// As a DaemonSet, from the manifests in deploy/, instead of as a program in each node
    #[arg(long, requires = "kind", conflicts_with = "undo")]
    install: bool,
    /// Takes everything back: kube-proxy returns, the agent and the lab go
    #[arg(long, requires = "kind")]
    undo: bool,
    /// The engine that the cluster runs on [default: the one that knows the cluster]
    #[arg(long, requires = "kind", value_name = "docker|podman|nerdctl")]
    engine: Option<String>,
    /// Leaves the vote lab out
    #[arg(long, requires = "kind", conflicts_with = "undo")]
    no_lab: bool,
}

/// The programs and archives that go into nodes.
struct Artifacts {
    /// The static agent.
    lb: PathBuf,
    /// Archives of the images.
    images: PathBuf,
}

/// A cluster at hand.
struct Cluster {
    name: String,
    engine: Engine,
    nodes: Vec<engine::Node>,
    kubectl: Kubectl,
}

impl Kind {
    /// Whether a kind cluster was named.
    pub(crate) fn is_meant(&self) -> bool {
        self.kind.is_some()
    }

    pub(crate) fn run(self) -> Result<()> {
        let Self { kind, install, undo, engine, no_lab } = self;
        let Some(name) = kind else { bail!("no kind cluster is named: --kind NAME") };
        let (engine, nodes) = Engine::with_cluster(&name, engine.as_deref())?;
        let kubectl = Kubectl::new(&engine, &nodes)?;
        let cluster = Cluster { name, engine, nodes, kubectl };
        let mut screen = Screen::new();
        if undo {
            cluster.undo(&mut screen)?;
            return screen.verdict();
        }
        let artifacts = Artifacts::make()?;
        let done = cluster.run(&artifacts, install, !no_lab, &mut screen);
        screen.line(&cluster.how_to_undo());
        done?;
        screen.verdict()
    }
}

impl Cluster {
    fn run(
        &self,
        artifacts: &Artifacts,
        install: bool,
        lab: bool,
        screen: &mut Screen,
    ) -> Result<()> {
        screen.step(&format!("The nodes of {}", self.name));
        for node in &self.nodes {
            let mounts = mounts::prepare(&self.engine, node)?;
            agent::copy(&self.engine, node, &artifacts.lb)?;
            screen.line(&format!("  {}: {mounts}", node.name));
        }
        if install {
            install::apply(self, artifacts, screen)?;
        } else {
            agent::start(self, screen)?;
        }
        proxy::switch_off(self, screen)?;
        if lab { lab::show(self, artifacts, screen) } else { Ok(()) }
    }

    /// The way back, in the opposite order: somebody serves the Services at every moment.
    fn undo(&self, screen: &mut Screen) -> Result<()> {
        lab::clear(self, screen)?;
        proxy::switch_on(self, screen)?;
        install::delete(self, screen)?;
        agent::stop(self, screen)?;
        for node in &self.nodes {
            let said = mounts::restore(&self.engine, node)?;
            screen.line(&format!("  {}: {said}", node.name));
        }
        Ok(())
    }

    fn how_to_undo(&self) -> String {
        let Self { name, engine, .. } = self;
        format!(
            "\nTo look inside: {engine} exec {node} lb status\n\
             To undo everything (kube-proxy back, agent and lab gone):\n  cargo xtask run --kind {name} --undo",
            engine = engine.program(),
            node = self.nodes[0].name,
        )
    }
}

impl Artifacts {
    /// Builds them. `LB_BIN` and `LB_KUBERNETES_IMAGES` name ready-made ones.
    fn make() -> Result<Self> {
        let ready = ["LB_BIN", "LB_KUBERNETES_IMAGES"].map(std::env::var_os);
        if let [Some(lb), Some(images)] = ready {
            return Ok(Self { lb: lb.into(), images: images.into() });
        }
        let _ = build::objects()?;
        let programs = build::programs()?;
        Ok(Self { lb: programs.join("lb"), images: image::all(&programs, None)? })
    }
}
