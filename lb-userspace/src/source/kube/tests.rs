//! The source against a small API server of our own, which lists and watches.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::{Events, client, follow};
use crate::model::{Coverage, Event, Model};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";

/// What the server has and does.
#[derive(Clone, Debug, Default)]
struct State {
    objects: BTreeMap<&'static str, Vec<Value>>,
    /// Watch events so far: resource and line.
    said: Vec<(&'static str, String)>,
    /// Resources whose listing is held back.
    held: Vec<&'static str>,
    /// Whether every request fails, and watches end.
    down: bool,
}

struct Server {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(watch::Sender::new(state));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (served, log) = (state.clone(), requests.clone());
        let _task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _task = tokio::spawn(answer(stream, served.subscribe(), log.clone()));
            }
        });
        Self { address, state, requests }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    fn follow(&self) -> Events {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&file, config.to_string()).expect("written");
        follow(client(Some(&file)).expect("a good kubeconfig"), "n1")
    }

    fn requested(&self, text: &str) -> bool {
        self.requests.lock().expect("not poisoned").iter().any(|request| request.contains(text))
    }
}

async fn answer(
    mut stream: TcpStream,
    mut state: watch::Receiver<State>,
    requests: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let uri = head.split(' ').nth(1)?.to_owned();
    let path = [SERVICES, SLICES, NODES].into_iter().find(|path| uri.starts_with(*path))?;
    requests.lock().expect("not poisoned").push(uri.clone());
    if state.borrow().down {
        let body =
            r#"{"kind":"Status","status":"Failure","code":500,"message":"down","reason":"x"}"#;
        return reply(&mut stream, "500 Internal Server Error", body).await;
    }
    if !uri.contains("watch=") {
        let (items, version) = {
            let listed = state.wait_for(|state| !state.held.contains(&path)).await.ok()?;
            (listed.objects.get(path).cloned().unwrap_or_default(), listed.said.len().to_string())
        };
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items});
        return reply(&mut stream, "200 OK", &list.to_string()).await;
    }
    let version = uri.split("resourceVersion=").nth(1)?.split('&').next()?;
    let mut next: usize = version.parse().ok()?;
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    loop {
        let new = {
            let state = state.wait_for(|state| state.down || state.said.len() > next).await.ok()?;
            if state.down {
                return None;
            }
            state.said.get(next..)?.to_vec()
        };
        next += new.len();
        for (_, line) in new.iter().filter(|(of, _)| *of == path) {
            let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
            stream.write_all(chunk.as_bytes()).await.ok()?;
        }
    }
}

async fn reply(stream: &mut TcpStream, status: &str, body: &str) -> Option<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.ok()
}

fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1"},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

fn slice(name: &str, service: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.2"]}]})
}

fn two() -> State {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "resourceVersion": "1"},
        "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]}});
    State {
        objects: BTreeMap::from([
            (SERVICES, vec![service("a", "10.96.0.1"), service("b", "10.96.0.2")]),
            (SLICES, vec![slice("a-1", "a")]),
            (NODES, vec![node]),
        ]),
        ..State::default()
    }
}

/// Takes in batches until `done`.
async fn until(events: &mut Events, model: &mut Model, done: impl Fn(&Model) -> bool) {
    while !done(model) {
        let batch = timeout(Duration::from_secs(20), events.recv()).await;
        let _changed = model.apply(batch.expect("it happens").expect("the source goes on"));
    }
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}

#[tokio::test]
async fn nothing_comes_before_everything_was_listed() {
    let server = Server::start(State { held: vec![SLICES], ..two() }).await;
    let mut events = server.follow();
    let mut model = Model::new();
    // The node tells that the other watches are on their way.
    until(&mut events, &mut model, |model| model.node().is_some()).await;
    assert_eq!(model.coverage(), Coverage::None);
    assert!(model.service_names().is_empty());
    server.set(|state| state.held.clear());
    let batch = loop {
        let batch = events.recv().await.expect("the source goes on");
        if batch.contains(&Event::Coverage(Coverage::Full)) {
            break batch;
        }
        assert!(
            !batch.iter().any(|event| matches!(event, Event::PutService(_) | Event::PutSlice(_)))
        );
    };
    let puts = |event: &&Event| matches!(event, Event::PutService(_) | Event::PutSlice(_));
    assert_eq!(batch.iter().filter(puts).count(), 3, "the first listing is one batch");
    assert!(server.requested("labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"));
    assert!(server.requested("fieldSelector=spec.clusterIP%21%3DNone"));
    assert!(server.requested("labelSelector=%21service.kubernetes.io%2Fheadless"));
    assert!(server.requested("fieldSelector=metadata.name%3Dn1"));
    let node = model.node().expect("it came");
    assert_eq!(node.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().expect("an address")]);
}

#[tokio::test]
async fn changes_are_followed_and_an_outage_changes_nothing() {
    let server = Server::start(two()).await;
    let mut events = server.follow();
    let mut model = Model::new();
    until(&mut events, &mut model, |model| model.coverage() == Coverage::Full).await;
    server.set(|state| {
        state.said.push((SERVICES, event("ADDED", &service("c", "10.96.0.3"))));
        state.said.push((SERVICES, event("DELETED", &service("b", "10.96.0.2"))));
    });
    let names = |model: &Model| -> Vec<String> {
        model.service_names().iter().map(|name| name.name.to_string()).collect()
    };
    until(&mut events, &mut model, |model| names(model) == ["a", "c"]).await;

    server.set(|state| state.down = true);
    until(&mut events, &mut model, |model| model.problems().next().is_some()).await;
    assert_eq!(names(&model), ["a", "c"]);

    // What is gone when the API comes back is noticed by the listing that follows.
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "message": "too old", "reason": "Expired"}});
    server.set(|state| {
        let _before = state
            .objects
            .insert(SERVICES, vec![service("a", "10.96.0.1"), service("d", "10.96.0.4")]);
        for resource in [SERVICES, SLICES, NODES] {
            state.said.push((resource, gone.to_string()));
        }
        state.down = false;
    });
    until(&mut events, &mut model, |model| {
        names(model) == ["a", "d"] && model.problems().next().is_none()
    })
    .await;
}
