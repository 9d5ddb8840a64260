//! The source against a small API server of our own.

mod events;
mod listing;
mod outage;
mod server;
mod trouble;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use self::server::{NODES, SERVICES, SLICES, Server};
use super::{Connection, SourceState, follow};
use crate::{
    model::{Coverage, Event, Model},
    source::Source,
    telemetry::Telemetry,
};

/// Longer than anything takes, however loaded the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

fn service(name: &str, ip: &str) -> Value {
    // Items of real listings have neither apiVersion nor kind.
    json!({"metadata": {"namespace": "default", "name": name,
            "managedFields": [{"manager": "kubectl", "operation": "Update"}]},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

fn slice(name: &str, service: &str) -> Value {
    json!({"metadata": {"namespace": "default", "name": name,
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.2"]}]})
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name},
        "status": {"addresses": [{"type": "Hostname", "address": name},
            {"type": "ExternalIP", "address": "198.51.100.1"},
            {"type": "InternalIP", "address": "192.0.2.1"}]}})
}

/// A server with two Services, a slice of the first, and the Node.
async fn two() -> Server {
    let server = Server::start().await;
    server.put(SERVICES, service("a", "10.96.0.1"));
    server.put(SERVICES, service("b", "10.96.0.2"));
    server.put(SLICES, slice("a-1", "a"));
    server.put(NODES, node("n1"));
    server
}

fn kubeconfig(server: &Server, user: &Value) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server.url()}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    config.to_string()
}

/// The source, and what a model makes of it.
struct Rig {
    source: Source,
    model: Model,
    /// Every batch that came.
    batches: Vec<Vec<Event>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn follow(server: &Server) -> Self {
        Self::with_user(server, &json!({}))
    }

    fn with_user(server: &Server, user: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kubeconfig");
        std::fs::write(&file, kubeconfig(server, user)).expect("written");
        let connection = Connection::open(&crate::config::ClusterConfig {
            kubeconfig: Some(file),
            server: None,
        })
        .expect("a good kubeconfig");
        let source = follow(connection, "n1", &Telemetry::new(Duration::from_secs(30)));
        Self { source, model: Model::new(), batches: Vec::new(), _dir: dir }
    }

    /// Takes in batches until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&Model) -> bool) {
        while !done(&self.model) {
            let Ok(batch) = timeout(PATIENCE, self.source.events.recv()).await else {
                panic!("{what} does not happen; the source: {:?}", self.source.state.borrow());
            };
            let batch = batch.expect("the source goes on");
            let _changed = self.model.apply(batch.clone());
            self.batches.push(batch);
        }
    }

    async fn synced(&mut self) {
        self.until("the first listing", |model| model.coverage() == Coverage::Full).await;
    }

    /// Waits until the source is in a state.
    async fn state(&mut self, what: &str, done: impl Fn(&SourceState) -> bool) -> SourceState {
        let mut states = self.source.state.clone();
        let Ok(state) = timeout(PATIENCE, states.wait_for(done)).await else {
            panic!("{what} does not happen: {:?}", self.source.state.borrow());
        };
        state.expect("the source goes on").clone()
    }

    fn names(&self) -> Vec<String> {
        names(&self.model)
    }
}

fn names(model: &Model) -> Vec<String> {
    model.service_names().iter().map(|name| name.name.to_string()).collect()
}
