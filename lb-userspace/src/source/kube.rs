//! The Kubernetes API as a source: watches Services, EndpointSlices and the agent's own Node.
//!
//! Invariant: nothing is delivered before Services and slices were listed completely, and a listing,
//! the first or a later one, is delivered as one batch with what is gone since. A lost connection
//! changes nothing.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashSet, path::Path, sync::Arc};

use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::{
    api::{
        core::v1::Node as NodeObject, core::v1::Service as ServiceObject,
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    runtime::{WatchStreamExt, watcher},
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{BACKLOG, Events, convert};
use crate::model::{Coverage, Event, ObjectName, Problem, Severity, Subject};

/// The name of the source in problems.
const API: &str = "Kubernetes API";

/// How many events that are there already are taken together.
const TOGETHER: usize = 256;

/// How long a watch must have had no error: longer than the pause between two attempts.
const WELL_AGAIN: Duration = Duration::from_secs(45);

/// The cluster cannot be addressed.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig cannot be used: mend it, or name another one.
    #[error("kubeconfig {0}")]
    Kubeconfig(String, #[source] KubeconfigError),
    /// This pod has no usable service account.
    #[error("the service account of this pod cannot be used")]
    InCluster(#[from] kube::config::InClusterError),
    /// The configuration leads to no client, a certificate that cannot be read say.
    #[error("the configuration of the Kubernetes client cannot be used")]
    Client(#[from] kube::Error),
}

/// The client that a kubeconfig describes, or the service account of this pod where there is none.
///
/// # Errors
///
/// Why the configuration cannot be used. Whether the API answers shows later.
pub fn client(kubeconfig: Option<&Path>) -> Result<Client, KubeError> {
    let Some(path) = kubeconfig else { return Ok(Client::try_from(Config::incluster()?)?) };
    let explain = |error| KubeError::Kubeconfig(path.display().to_string(), error);
    let kubeconfig = Kubeconfig::read_from(path).map_err(explain)?;
    // The future only reads files, with blocking calls: it is ready when polled once.
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .now_or_never()
        .unwrap_or(Err(KubeconfigError::CurrentContextNotSet))
        .map_err(explain)?;
    Ok(Client::try_from(config)?)
}

/// Follows the cluster, in a task that ends when the receiver is dropped.
pub fn follow(client: Client, node_name: &str) -> Events {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let services = Api::<ServiceObject>::all(client.clone());
    let slices = Api::<EndpointSlice>::all(client.clone());
    let nodes = Api::<NodeObject>::all(client);
    let services = watcher(
        services,
        watcher::Config::default()
            .labels(&format!("!{}", convert::PROXY_NAME))
            .fields("spec.clusterIP!=None"),
    );
    let slices =
        watcher(slices, watcher::Config::default().labels(&format!("!{}", convert::HEADLESS)));
    let nodes =
        watcher(nodes, watcher::Config::default().fields(&format!("metadata.name={node_name}")));
    let changes = stream::select(
        services.default_backoff().map(|result| Change::Service(Box::new(result))),
        stream::select(
            slices.default_backoff().map(|result| Change::Slice(Box::new(result))),
            nodes.default_backoff().map(|result| Change::Node(Box::new(result))),
        ),
    );
    let _task = tokio::spawn(deliver(changes, sender));
    receiver
}

/// What one of the watches says.
enum Change {
    Service(Box<watcher::Result<watcher::Event<ServiceObject>>>),
    Slice(Box<watcher::Result<watcher::Event<EndpointSlice>>>),
    Node(Box<watcher::Result<watcher::Event<NodeObject>>>),
}

async fn deliver(changes: impl Stream<Item = Change>, sender: mpsc::Sender<Vec<Event>>) {
    let mut cluster = Cluster::default();
    let mut changes = std::pin::pin!(changes.ready_chunks(TOGETHER));
    let mut tick = tokio::time::interval(WELL_AGAIN / 4);
    loop {
        tokio::select! {
            some = changes.next() => {
                let Some(some) = some else { return };
                some.into_iter().for_each(|change| cluster.take(change));
            }
            _ = tick.tick() => cluster.recover(Instant::now()),
            () = sender.closed() => return,
        }
        let events = cluster.ready();
        if !events.is_empty() && sender.send(events).await.is_err() {
            return;
        }
    }
}

/// What is known of the cluster.
#[derive(Default)]
struct Cluster {
    services: Watch,
    slices: Watch,
    nodes: Health,
    /// Events to deliver.
    pending: Vec<Event>,
    synced: bool,
}

/// One watch: its health, and which objects it told of.
#[derive(Default)]
struct Watch {
    health: Health,
    known: HashSet<ObjectName>,
    /// While a listing arrives: what it names, and the events that it makes.
    listing: Option<(HashSet<ObjectName>, Vec<Event>)>,
    listed: bool,
}

/// How a watch does. A watch that goes on after an error says nothing before something changes, so
/// it counts as well again when no error followed.
#[derive(Default)]
struct Health {
    ill: Option<(Instant, Subject)>,
}

impl Cluster {
    fn take(&mut self, change: Change) {
        let Self { services, slices, nodes, pending, .. } = self;
        match change {
            Change::Service(result) => {
                let put = |object: &ServiceObject| match convert::service(object, None) {
                    Ok(service) => Ok(Event::PutService(service.into())),
                    Err(why) => Err(why),
                };
                services.take("Services", *result, put, Event::DeleteService, pending);
            }
            Change::Slice(result) => {
                let put = |object: &EndpointSlice| match convert::slice(object, None) {
                    Ok(slice) => Ok(Event::PutSlice(slice.into())),
                    Err(why) => Err(why),
                };
                slices.take("EndpointSlices", *result, put, Event::DeleteSlice, pending);
            }
            Change::Node(result) => {
                let Some(event) = nodes.check("Nodes", *result, pending) else { return };
                if let watcher::Event::Apply(node) | watcher::Event::InitApply(node) = event {
                    pending.push(Event::PutNode(convert::node(&node)));
                }
            }
        }
    }

    /// Takes back the problems of watches that had no error for a while.
    fn recover(&mut self, now: Instant) {
        let Self { services, slices, nodes, pending, .. } = self;
        for health in [&mut services.health, &mut slices.health, nodes] {
            if let Some((_, subject)) = health.ill.take_if(|(since, _)| now - *since > WELL_AGAIN) {
                pending.push(Event::Problems(subject, Vec::new()));
            }
        }
    }

    /// What can be delivered now: nothing but problems before everything was listed once.
    fn ready(&mut self) -> Vec<Event> {
        if !self.synced && self.services.listed && self.slices.listed {
            self.synced = true;
            self.pending.push(Event::Coverage(Coverage::Full));
        }
        if self.synced {
            return std::mem::take(&mut self.pending);
        }
        let now = |event: &mut Event| matches!(event, Event::Problems(..) | Event::PutNode(_));
        self.pending.extract_if(.., now).collect()
    }
}

impl Watch {
    fn take<T: Named>(
        &mut self,
        what: &'static str,
        result: watcher::Result<watcher::Event<T>>,
        put: impl Fn(&T) -> Result<Event, String>,
        delete: impl Fn(ObjectName) -> Event,
        pending: &mut Vec<Event>,
    ) {
        let Some(event) = self.health.check(what, result, pending) else { return };
        match event {
            watcher::Event::Init => self.listing = Some(Default::default()),
            watcher::Event::InitApply(object) => {
                let (names, events) = self.listing.get_or_insert_default();
                let _new = names.insert(name(&object));
                converted(&object, put(&object), what, events);
            }
            watcher::Event::InitDone => {
                let (names, events) = self.listing.take().unwrap_or_default();
                pending.extend(self.known.difference(&names).cloned().map(delete));
                pending.extend(events);
                self.known = names;
                self.listed = true;
            }
            watcher::Event::Apply(object) => {
                let _new = self.known.insert(name(&object));
                converted(&object, put(&object), what, pending);
            }
            watcher::Event::Delete(object) => {
                let name = name(&object);
                let _known = self.known.remove(&name);
                converted(&object, Ok(delete(name)), what, pending);
            }
        }
    }
}

/// Adds the event, or the problem that there is instead; a problem before is gone.
fn converted<T: Named>(
    object: &T,
    result: Result<Event, String>,
    what: &str,
    events: &mut Vec<Event>,
) {
    let kind = what.trim_end_matches('s');
    let subject = Subject::Document(format!("{kind} {}", name(object)).into());
    match result {
        Ok(event) => events.extend([Event::Problems(subject, Vec::new()), event]),
        Err(why) => {
            let problem = Problem {
                severity: Severity::Warning,
                object: subject.clone(),
                file: None,
                reason: Cow::Owned(why),
            };
            events.push(Event::Problems(subject, vec![problem]));
        }
    }
}

impl Health {
    /// Takes note of how a watch does; returns what it says.
    fn check<T>(
        &mut self,
        what: &'static str,
        result: watcher::Result<watcher::Event<T>>,
        pending: &mut Vec<Event>,
    ) -> Option<watcher::Event<T>> {
        let subject = Subject::Source(Arc::from(format!("{API}: {what}")));
        match result {
            // A listing that begins has not succeeded yet.
            Ok(watcher::Event::Init) => Some(watcher::Event::Init),
            Ok(event) => {
                if let Some((_, subject)) = self.ill.take() {
                    pending.push(Event::Problems(subject, Vec::new()));
                }
                Some(event)
            }
            Err(error) => {
                self.ill = Some((Instant::now(), subject.clone()));
                let problem = Problem {
                    severity: Severity::Warning,
                    object: subject.clone(),
                    file: None,
                    reason: Cow::Owned(format!("{error}: what is programmed stays; trying again")),
                };
                pending.push(Event::Problems(subject, vec![problem]));
                None
            }
        }
    }
}

/// Objects with metadata.
trait Named {
    fn metadata(&self) -> &ObjectMeta;
}

impl Named for ServiceObject {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Named for EndpointSlice {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn name(object: &impl Named) -> ObjectName {
    let ObjectMeta { namespace, name, .. } = object.metadata();
    ObjectName::new(namespace.as_deref().unwrap_or("default"), name.as_deref().unwrap_or_default())
}
