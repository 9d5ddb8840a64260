//! The cluster as a directory of YAML: what the API server would hold, written as the endpoints
//! controller would write it.
//!
//! Every file appears whole: it is written under a hidden name and then renamed.

mod running;
mod service;
mod slices;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub use running::Cluster;
pub use service::{Ingress, Policy, Port, Service, ServiceType};
pub use slices::{Condition, Endpoint, Hints, node, slices};

/// A directory that agents read with `--source`.
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Creates the directory.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a Service, replacing what it was.
    pub fn put_service(&self, service: &Service) -> Result<()> {
        self.write(&file(service, "service"), &service.yaml())
    }

    /// Writes the EndpointSlices of a Service, one a family, replacing what they were.
    pub fn put_endpoints(&self, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        self.write(&file(service, "endpointslices"), &slices(service, endpoints))
    }

    /// Removes a Service and its EndpointSlices.
    pub fn delete(&self, service: &Service) -> Result<()> {
        self.remove(&file(service, "service"))?;
        self.remove(&file(service, "endpointslices"))
    }

    /// Writes a file of any content.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let hidden = self.path.join(format!(".{name}.new"));
        let path = self.path.join(name);
        fs::write(&hidden, text).with_context(|| format!("writing {}", hidden.display()))?;
        fs::rename(&hidden, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }
}

fn file(service: &Service, what: &str) -> String {
    format!("{}-{}-{what}.yaml", service.namespace, service.name)
}
