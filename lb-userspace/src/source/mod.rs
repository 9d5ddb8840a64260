//! Sources: where objects come from. All of them tell the model the same events.
//!
//! Invariant: Kubernetes types stop here, at the conversion. A batch of events is one change: the
//! receiver applies it as a whole.

mod address;
pub mod convert;
pub mod dir;
pub mod kube;
mod manifest;

use tokio::sync::{mpsc, watch};

use crate::{config::SourceConfig, model::Event, telemetry::Telemetry};

/// What a source delivers: batches of events. The source ends when this is dropped.
pub type Events = mpsc::Receiver<Vec<Event>>;

/// A source that was started.
pub struct Source {
    /// What it delivers.
    pub events: Events,
    /// How it does. A source that has nothing to say about that never changes it.
    pub state: watch::Receiver<kube::SourceState>,
    /// The API server, where that is the source.
    pub api: Option<kube::Connection>,
}

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
pub fn start(
    config: &SourceConfig,
    node_name: &str,
    telemetry: &Telemetry,
) -> Result<Source, SourceError> {
    match config {
        SourceConfig::Dir(dir) => {
            let (_never, state) = watch::channel(kube::SourceState::default());
            Ok(Source { events: dir::follow(dir, node_name)?, state, api: None })
        }
        SourceConfig::Cluster(cluster) => {
            Ok(kube::follow(kube::Connection::open(cluster)?, node_name, telemetry))
        }
    }
}
