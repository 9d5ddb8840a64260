//! The vote lab on a real Kubernetes: the lab's own commands, word for word, with every outcome
//! checked; on a cluster made for it, or on one that a kubeconfig leads to.

mod scene;
mod steps;

use std::{io::IsTerminal, path::PathBuf};

use anyhow::{Context, Result};

use super::{interrupt, screen::Screen};
use scene::Scene;

/// Walks through the lab; on a terminal, keeps it up afterwards until Ctrl-C.
///
/// # Errors
///
/// A step whose outcome was wrong, or a cluster that does not come up.
pub fn run(kubeconfig: Option<PathBuf>) -> Result<()> {
    interrupt::watch()?;
    let mut screen = Screen::new();
    let mut scene = match kubeconfig {
        Some(kubeconfig) => Scene::of_kubeconfig(&kubeconfig)?,
        None => Scene::make().context("bringing the cluster up")?,
    };
    scene.vacant()?;
    steps::walk(&mut scene, &mut screen)?;
    screen.summary();
    if std::io::stdout().is_terminal() {
        scene.hints(&screen);
        interrupt::wait();
        screen.line("taking down what was made");
    }
    drop(scene);
    screen.verdict()
}
