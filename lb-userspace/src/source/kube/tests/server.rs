//! A small API server: lists in pages, watches with bookmarks, and misbehaves on request.
//!
//! It keeps to what the API promises: every change has a version, a listing names the one that it is
//! of, and a watch tells what came after the version that it is given, or that it forgot.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/";
pub(super) const NODES: &str = "/api/v1/nodes";

/// How requests for one path are answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Mood {
    /// As they should be.
    #[default]
    Good,
    /// Not at all, before the mood is another.
    Hang,
    /// With a status, and how many seconds the client shall wait.
    Status(u16, Option<u32>),
    /// The connection is closed.
    Close,
}

/// How a client learns that a version is no longer known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Gone {
    /// By an event in the watch.
    #[default]
    Event,
    /// By the status of the answer.
    Status,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    objects: BTreeMap<(&'static str, String), Value>,
    /// What watches tell: version, path, line.
    log: Vec<(u64, &'static str, String)>,
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    pub(super) gone: Gone,
    pub(super) moods: BTreeMap<&'static str, Mood>,
    /// How many pages with a continue token are refused as too old.
    pub(super) stale_pages: u32,
    /// Ends every watch that began before.
    epoch: u64,
    /// Events that were posted.
    events: Vec<Value>,
    /// What a client must present.
    pub(super) token: Option<String>,
}

impl State {
    fn mood(&self, path: &str) -> Mood {
        let known = self.moods.iter().find(|(known, _)| path.starts_with(**known));
        known.map(|(_, mood)| mood.clone()).unwrap_or_default()
    }
}

/// A request, as far as anybody looks at it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) head: String,
    body: Vec<u8>,
}

impl Request {
    fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether it asks for a watch.
    pub(super) fn is_watch(&self) -> bool {
        self.query("watch").is_some()
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

pub(super) struct Server {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    requests: Arc<Mutex<Vec<Request>>>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(watch::Sender::new(State { version: 100, ..State::default() }));
        let mut server = Self { address, state, requests: Arc::default(), task: None };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, requests) = (self.state.clone(), self.requests.clone());
        self.task = Some(tokio::spawn(async move {
            // Connections end with the server.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _task = connections.spawn(answer(stream, state.clone(), requests.clone()));
            }
        }));
    }

    /// Stops: connections are cut, and new ones refused.
    pub(super) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _aborted = task.await;
        }
    }

    /// Starts again, at the same address.
    pub(super) async fn start_again(&mut self) {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => {
                    assert!(tokio::time::Instant::now() < deadline, "{error}");
                    tokio::task::yield_now().await;
                }
            }
        };
        self.serve(listener);
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Adds or changes an object.
    pub(super) fn put(&self, path: &'static str, mut object: Value) {
        self.set(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let key = (path, object["metadata"]["name"].to_string());
            let before = state.objects.insert(key, object.clone());
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            state.log.push((state.version, path, line(kind, &object)));
        });
    }

    pub(super) fn delete(&self, path: &'static str, name: &str) {
        self.set(|state| {
            let key = (path, json!(name).to_string());
            let mut object = state.objects.remove(&key).expect("it is there");
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.log.push((state.version, path, line("DELETED", &object)));
        });
    }

    /// Tells watches of a path the present version, and nothing else.
    pub(super) fn bookmark(&self, path: &'static str) {
        self.set(|state| {
            state.version += 1;
            let object = json!({"metadata": {"resourceVersion": state.version.to_string()}});
            state.log.push((state.version, path, line("BOOKMARK", &object)));
        });
    }

    /// Forgets what happened before now.
    pub(super) fn compact(&self) {
        self.set(|state| {
            state.version += 1;
            state.oldest = state.version;
        });
    }

    /// Ends all watches, as a server does now and then.
    pub(super) fn end_watches(&self) {
        self.set(|state| state.epoch += 1);
    }

    pub(super) fn mood(&self, path: &'static str, mood: Mood) {
        self.set(|state| {
            let _before = state.moods.insert(path, mood);
        });
    }

    /// Events that were posted.
    pub(super) fn events(&self) -> Vec<Value> {
        self.state.borrow().events.clone()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn line(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}

async fn answer(
    mut stream: TcpStream,
    server: Arc<watch::Sender<State>>,
    requests: Arc<Mutex<Vec<Request>>>,
) -> Option<()> {
    let request = read(&mut stream).await?;
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let mut state = server.subscribe();
    let path = request.path().to_owned();
    let now = state.wait_for(|state| state.mood(&path) != Mood::Hang).await.ok()?.clone();
    match now.mood(&path) {
        Mood::Good | Mood::Hang => {}
        Mood::Status(code, wait) => return refuse(&mut stream, code, wait).await,
        Mood::Close => return None,
    }
    if let Some(token) = &now.token
        && !request.head.contains(&format!("Bearer {token}\r\n"))
    {
        return refuse(&mut stream, 401, None).await;
    }
    if request.method == "POST" {
        let event: Value = serde_json::from_slice(&request.body).expect("JSON");
        let mut known = false;
        server.send_modify(|state| {
            let same = |other: &Value| other["metadata"]["name"] == event["metadata"]["name"];
            known = state.events.iter().any(same);
            if !known {
                state.events.push(event.clone());
            }
        });
        return match known {
            true => refuse(&mut stream, 409, None).await,
            false => reply(&mut stream, "201 Created", "", &event.to_string()).await,
        };
    }
    let path = [SERVICES, SLICES, NODES].into_iter().find(|known| path == **known)?;
    if request.is_watch() {
        watch(&mut stream, &request, path, state, now).await
    } else {
        list(&mut stream, &request, path, &server, &now).await
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    let _read = stream.read_exact(&mut body).await.ok()?;
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Request { method, target, head, body })
}

async fn list(
    stream: &mut TcpStream,
    request: &Request,
    path: &'static str,
    server: &watch::Sender<State>,
    now: &State,
) -> Option<()> {
    let all: Vec<&Value> =
        now.objects.iter().filter(|((of, _), _)| *of == path).map(|(_, object)| object).collect();
    let from: usize = request.query("continue").map_or(Some(0), |token| token.parse().ok())?;
    if from > 0 && now.stale_pages > 0 {
        server.send_modify(|state| state.stale_pages -= 1);
        return refuse(stream, 410, None).await;
    }
    let limit = request.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(all.len());
    let to = (from + limit).min(all.len());
    let mut metadata = json!({"resourceVersion": now.version.to_string()});
    if to < all.len() {
        metadata["continue"] = json!(to.to_string());
    }
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": all.get(from..to)?});
    reply(stream, "200 OK", "", &list.to_string()).await
}

async fn watch(
    stream: &mut TcpStream,
    request: &Request,
    path: &'static str,
    mut state: watch::Receiver<State>,
    now: State,
) -> Option<()> {
    let mut told: u64 = request.query("resourceVersion")?.parse().ok()?;
    if told < now.oldest && now.gone == Gone::Status {
        return refuse(stream, 410, None).await;
    }
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    if told < now.oldest {
        let status = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
        return chunk(stream, &line("ERROR", &status)).await;
    }
    loop {
        let (epoch, lines) = {
            let state = state
                .wait_for(|state| {
                    let news = |(version, of, _): &(u64, _, _)| *version > told && *of == path;
                    state.epoch != now.epoch || state.log.iter().any(news)
                })
                .await
                .ok()?;
            (state.epoch, state.log.clone())
        };
        for (version, of, line) in &lines {
            if *version > told && *of == path {
                told = *version;
                chunk(stream, line).await?;
            }
        }
        if epoch != now.epoch {
            return stream.write_all(b"0\r\n\r\n").await.ok();
        }
    }
}

async fn chunk(stream: &mut TcpStream, line: &str) -> Option<()> {
    let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
    stream.write_all(chunk.as_bytes()).await.ok()
}

async fn refuse(stream: &mut TcpStream, code: u16, wait: Option<u32>) -> Option<()> {
    let body =
        json!({"kind": "Status", "status": "Failure", "code": code, "message": "on request"});
    let wait = wait.map_or(String::new(), |seconds| format!("Retry-After: {seconds}\r\n"));
    reply(stream, &format!("{code} Refused"), &wait, &body.to_string()).await
}

async fn reply(stream: &mut TcpStream, status: &str, headers: &str, body: &str) -> Option<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.ok()?;
    // What the client still sends must not reset the connection before it has read this.
    let _closed = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
    Some(())
}
