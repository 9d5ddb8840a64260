//! The programs of a real Kubernetes: what a test cluster runs, built from pinned Go modules.
//!
//! Nothing is downloaded ready-made: each module below `tests/kubernetes/modules` pins one project's
//! sources by `go.sum`, and Go builds them once into [`workspace::kubernetes_tools`].

mod go;
mod making;
mod parts;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

pub(crate) use parts::Set;

use crate::{build, image};

/// Options of `cargo xtask components`.
#[derive(Args)]
pub(crate) struct Components {
    /// What a kind node image needs besides
    #[arg(long)]
    kind: bool,
    /// Write the container images of a cluster as well
    #[arg(long)]
    images: bool,
}

impl Components {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(obstacle) = obstacle() {
            bail!("{obstacle}");
        }
        let bin = components(if self.kind { Set::Kind } else { Set::Cluster })?;
        println!("{}", bin.display());
        if self.images {
            let _ = build::objects()?;
            println!("{}", image::all(&build::programs()?, Some(&bin))?.display());
        }
        Ok(())
    }
}

/// Builds what is missing of a set of components and returns the directory that holds them all, by name.
pub(crate) fn components(set: Set) -> Result<PathBuf> {
    making::all(set)
}

/// Whether the components of a cluster are there already.
pub(crate) fn is_complete() -> bool {
    making::is_complete(Set::Cluster)
}

/// The files of kind's base image for nodes.
pub(crate) fn kind_base() -> Result<PathBuf> {
    Ok(go::module_files("kind", "sigs.k8s.io/kind")?.join("images/base/files"))
}

/// Why the components cannot be built here, if so.
pub(crate) fn obstacle() -> Option<String> {
    // Whoever brings all of them needs no Go.
    if is_complete() { None } else { go::find().err().map(|error| error.to_string()) }
}
