//! The Kubernetes API as a source: watches Services, EndpointSlices and the agent's own Node.
//!
//! Invariant: nothing is delivered before Services and slices were listed completely, and a listing,
//! the first or a later one, is delivered as one batch with what is gone since. A lost connection
//! changes nothing.

mod connection;
mod objects;
pub mod recorder;
mod state;
#[cfg(test)]
mod tests;
mod trouble;
mod watch;

use std::{
    borrow::Cow,
    time::{Duration, Instant, SystemTime},
};

use futures::future::OptionFuture;
use k8s_openapi::api::{
    core::v1::{Node as NodeObject, Service as ServiceObject},
    discovery::v1::EndpointSlice,
};
use tokio::{
    sync::{mpsc, watch as latest},
    time::sleep_until,
};

use self::watch::{Follower, Resource, Said};
pub use self::{
    connection::{Connection, KubeError},
    state::{Kind, SourceState, WatchState},
    trouble::{Class, Trouble},
};
use super::{BACKLOG, Source, convert};
use crate::{
    model::{Coverage, Event, Problem, Severity, Subject},
    telemetry::{Telemetry, WatchError},
};

/// How many messages of the watches that are there already are taken together.
const TOGETHER: usize = 256;

/// How long the first delivery waits for the Node after everything else is there.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// Follows the cluster, in tasks that end when the receiver of events is dropped.
pub fn follow(connection: Connection, node_name: &str, telemetry: &Telemetry) -> Source {
    let (events, receiver) = mpsc::channel(BACKLOG);
    let (state, states) = latest::channel(SourceState::new(connection.server()));
    let (said, hearing) = mpsc::channel(BACKLOG);
    let connection = connection.counted(telemetry.clone());
    let start = |kind: Kind| (kind, connection.clone(), said.clone());
    let (kind, to, say) = start(Kind::Services);
    let services = Resource::<ServiceObject> {
        kind,
        path: "/api/v1/services",
        selectors: format!(
            "labelSelector={}&fieldSelector={}",
            watch::escape(&format!("!{}", convert::PROXY_NAME)),
            watch::escape("spec.clusterIP!=None")
        ),
        metadata: |service| &service.metadata,
        put: |service| Ok(Event::PutService(convert::service(service, None)?.into())),
        delete: Event::DeleteService,
    };
    let _task = tokio::spawn(Follower::new(services, to, say).run());
    let (kind, to, say) = start(Kind::Slices);
    let slices = Resource::<EndpointSlice> {
        kind,
        path: "/apis/discovery.k8s.io/v1/endpointslices",
        selectors: format!("labelSelector={}", watch::escape(&format!("!{}", convert::HEADLESS))),
        metadata: |slice| &slice.metadata,
        put: |slice| Ok(Event::PutSlice(convert::slice(slice, None)?.into())),
        delete: Event::DeleteSlice,
    };
    let _task = tokio::spawn(Follower::new(slices, to, say).run());
    let (kind, to, say) = start(Kind::Nodes);
    let nodes = Resource::<NodeObject> {
        kind,
        path: "/api/v1/nodes",
        selectors: format!(
            "fieldSelector={}",
            watch::escape(&format!("metadata.name={node_name}"))
        ),
        metadata: |node| &node.metadata,
        put: |node| Ok(Event::PutNode(convert::node(node))),
        delete: |_name| Event::DeleteNode,
    };
    let _task = tokio::spawn(Follower::new(nodes, to, say).run());
    let cluster = Cluster::new(SourceState::new(connection.server()), node_name);
    let _task = tokio::spawn(deliver(cluster, hearing, events, state, telemetry.clone()));
    Source { events: receiver, state: states, api: Some(connection) }
}

async fn deliver(
    mut cluster: Cluster,
    mut hearing: mpsc::Receiver<(Kind, Said)>,
    events: mpsc::Sender<Vec<Event>>,
    state: latest::Sender<SourceState>,
    telemetry: Telemetry,
) {
    let mut some = Vec::new();
    loop {
        let patience = cluster.patience.filter(|_| !cluster.synced);
        let patience = OptionFuture::from(patience.map(|until| sleep_until(until.into())));
        tokio::select! {
            n = hearing.recv_many(&mut some, TOGETHER) => if n == 0 { return },
            Some(()) = patience => {}
            () = events.closed() => return,
        }
        for (kind, said) in some.drain(..) {
            if let Said::Ill(trouble) = &said {
                telemetry.watch_error(kind.resource(), watch_error(trouble));
            }
            cluster.take(kind, said, SystemTime::now());
        }
        let ready = cluster.ready(Instant::now());
        let _before = state.send_replace(cluster.state.clone());
        if !ready.is_empty() && events.send(ready).await.is_err() {
            return;
        }
    }
}

fn watch_error(trouble: &Trouble) -> WatchError {
    match trouble.class {
        Class::Unauthorized => WatchError::Unauthorized,
        Class::Forbidden => WatchError::Forbidden,
        Class::Throttled => WatchError::Overloaded,
        Class::Failing if trouble.status.is_some() => WatchError::Overloaded,
        Class::Unreachable => WatchError::Unreachable,
        Class::Failing | Class::Slow | Class::Untrusted => WatchError::Other,
    }
}

/// What is known of the cluster.
struct Cluster {
    state: SourceState,
    node_name: String,
    /// Events to deliver.
    pending: Vec<Event>,
    synced: bool,
    /// Until when the first delivery waits for the Node.
    patience: Option<Instant>,
}

impl Cluster {
    fn new(state: SourceState, node_name: &str) -> Self {
        let node_name = node_name.to_owned();
        Self { state, node_name, pending: Vec::new(), synced: false, patience: None }
    }

    fn take(&mut self, kind: Kind, said: Said, now: SystemTime) {
        match said {
            Said::Heard => self.state.well(kind, now, None),
            Said::Listed(objects, events) => {
                self.state.well(kind, now, Some(objects));
                self.state.listed(kind);
                if kind == Kind::Nodes && objects == 0 {
                    self.pending.push(Event::DeleteNode);
                    self.node_is_missing();
                }
                self.pending.extend(events);
            }
            Said::Changed(objects, events) => {
                self.state.well(kind, now, Some(objects));
                let gone = events.contains(&Event::DeleteNode);
                self.pending.extend(events);
                if kind == Kind::Nodes && objects == 0 && gone {
                    self.node_is_missing();
                }
            }
            Said::Ill(trouble) => self.state.ill(kind, trouble, now),
        }
    }

    /// A wrong name is easily given and would stay unnoticed for long.
    fn node_is_missing(&mut self) {
        let name = &self.node_name;
        let subject = Subject::Document(format!("Node {name}").into());
        let problem = Problem {
            severity: Severity::Warning,
            object: subject.clone(),
            file: None,
            reason: Cow::Owned(format!(
                "there is no Node of this name: is {name:?} what the kubelet calls this node \
                 (--hostname-override)?"
            )),
        };
        self.pending.push(Event::Problems(subject, vec![problem]));
    }

    /// What can be delivered now: nothing but problems and the Node before all was listed once.
    fn ready(&mut self, now: Instant) -> Vec<Event> {
        let listed = |kind| self.state.watch(kind).listed;
        if !self.synced && listed(Kind::Services) && listed(Kind::Slices) {
            let until = *self.patience.get_or_insert(now + NODE_PATIENCE);
            let node = self.state.watch(Kind::Nodes);
            let refused =
                node.trouble.as_ref().is_some_and(|(trouble, _)| trouble.class == Class::Forbidden);
            if node.listed || refused || now >= until {
                if !node.listed {
                    tracing::warn!(node = self.node_name, "going on without the Node object");
                }
                self.synced = true;
                self.pending.push(Event::Coverage(Coverage::Full));
            }
        }
        if self.synced {
            return std::mem::take(&mut self.pending);
        }
        let now = |event: &mut Event| {
            matches!(event, Event::Problems(..) | Event::PutNode(_) | Event::DeleteNode)
        };
        self.pending.extract_if(.., now).collect()
    }
}
