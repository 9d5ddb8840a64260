//! Events: what sources tell the model.

use std::sync::Arc;

use super::{
    object::{Node, ObjectName, Service, Slice},
    problem::{Problem, Subject},
};

/// One thing that happened. Sources send them in batches; a batch is applied as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A Service is there, new or changed.
    PutService(Arc<Service>),
    /// A Service is gone.
    DeleteService(ObjectName),
    /// An EndpointSlice is there, new or changed.
    PutSlice(Arc<Slice>),
    /// An EndpointSlice is gone.
    DeleteSlice(ObjectName),
    /// The agent's node is there, new or changed.
    PutNode(Node),
    /// There is no Node of the agent's name.
    DeleteNode,
    /// All problems of something that the model knows nothing else of, replacing those before.
    Problems(Subject, Vec<Problem>),
    /// How much of what the source has was delivered so far.
    Coverage(Coverage),
}

/// How much of what the source has was delivered.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Coverage {
    /// Not even the first listing: nothing may be written.
    #[default]
    None,
    /// Everything that could be read; something could not, so what is missing may exist: nothing
    /// that was programmed before the agent started may be removed.
    Partial,
    /// Everything.
    Full,
}
