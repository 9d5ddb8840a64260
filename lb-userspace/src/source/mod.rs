//! Sources: where objects come from. All of them tell the model the same events.
//!
//! Invariant: Kubernetes types stop here, at the conversion. A batch of events is one change: the
//! receiver applies it as a whole.

mod address;
pub mod convert;
pub mod dir;
pub mod kube;
mod manifest;

use tokio::sync::mpsc;

use crate::{config::SourceConfig, model::Event};

/// What a source delivers: batches of events. The source ends when this is dropped.
pub type Events = mpsc::Receiver<Vec<Event>>;

/// How many batches wait for the receiver before the source does.
const BACKLOG: usize = 16;

/// A source cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory of manifests cannot be used.
    #[error(transparent)]
    Dir(#[from] dir::DirError),
    /// The cluster cannot be addressed.
    #[error(transparent)]
    Kube(#[from] kube::KubeError),
}

/// Starts the source that the configuration names. Call it within the runtime.
///
/// # Errors
///
/// Why it cannot begin at all; what goes wrong later is told as a problem.
pub fn start(config: &SourceConfig, node_name: &str) -> Result<Events, SourceError> {
    match config {
        SourceConfig::Dir(dir) => Ok(dir::follow(dir)?),
        SourceConfig::Kubeconfig(file) => Ok(kube::follow(kube::client(Some(file))?, node_name)),
        SourceConfig::InCluster => Ok(kube::follow(kube::client(None)?, node_name)),
    }
}
