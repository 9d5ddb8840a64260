//! The programs of a real Kubernetes: what a test cluster runs, built from pinned Go modules.
//!
//! Nothing is downloaded ready-made: each module below `tests/kubernetes/modules` pins one project's
//! sources by `go.sum`, and Go builds them once into [`workspace::kubernetes_tools`].

mod build;
mod go;
mod parts;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

pub(crate) use parts::Set;

/// Options of `cargo xtask components`.
#[derive(Args)]
pub(crate) struct Components {
    /// What a kind node image needs besides
    #[arg(long)]
    kind: bool,
}

impl Components {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(obstacle) = obstacle() {
            bail!("{obstacle}");
        }
        let bin = components(if self.kind { Set::Kind } else { Set::Cluster })?;
        println!("{}", bin.display());
        Ok(())
    }
}

/// Builds what is missing of a set of components and returns the directory that holds them all, by name.
pub(crate) fn components(set: Set) -> Result<PathBuf> {
    build::all(set)
}

/// Why the components cannot be built here, if so.
pub(crate) fn obstacle() -> Option<String> {
    // Whoever brings all of them needs no Go.
    if build::is_complete(Set::Cluster) {
        None
    } else {
        go::find().err().map(|error| error.to_string())
    }
}
