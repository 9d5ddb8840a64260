//! Events that are sent.

use std::time::Duration;

use serde_json::Value;

use super::{
    Connection, PATIENCE,
    server::{EVENTS, Mood, Server},
};
use crate::{
    config::ClusterConfig,
    model::ObjectName,
    source::kube::recorder::{About, Note, Recorder},
};

fn note(text: &str) -> Note {
    Note {
        about: About::Service(ObjectName::new("shop", "vote"), Some("uid-1".into())),
        warning: true,
        reason: "NotProgrammed",
        action: "Programming",
        text: text.to_owned(),
    }
}

fn recorder(server: &Server, node: &str) -> (Recorder, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, super::kubeconfig(server, &serde_json::json!({}))).expect("written");
    let cluster = ClusterConfig { kubeconfig: Some(file), server: None };
    let connection = Connection::open(&cluster).expect("a good kubeconfig");
    (Recorder::start(connection, node), dir)
}

/// EV-1, EV-2: a warning about a Service is one event however often and by however many nodes it is
/// told, and carries what `kubectl describe` looks for.
#[tokio::test]
async fn the_same_from_all_nodes_is_one_event() {
    let server = Server::start().await;
    for node in ["n1", "n2"] {
        let (recorder, _dir) = recorder(&server, node);
        for _ in 0..5 {
            recorder.note(note("node port 30000/TCP belongs to Service shop/old"));
        }
        recorder.flush(PATIENCE).await;
    }
    let events = server.events();
    assert_eq!(events.len(), 1, "{events:?}");
    let field = |pointer: &str| events[0].pointer(pointer).and_then(Value::as_str).unwrap_or("");
    assert_eq!(field("/type"), "Warning");
    assert_eq!(field("/regarding/kind"), "Service");
    assert_eq!(field("/regarding/uid"), "uid-1");
    assert_eq!(field("/metadata/namespace"), "shop");
    assert_eq!(field("/reportingController"), "lb");
    assert_eq!(field("/reportingInstance"), "n1");
    let time = field("/eventTime");
    assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    assert_eq!(server.requests().len(), 2, "one attempt a node");
}

/// EV-3: the agent says once that it starts.
#[tokio::test]
async fn a_node_says_that_it_starts() {
    let server = Server::start().await;
    let (recorder, _dir) = recorder(&server, "n1");
    let start = Note {
        about: About::Node,
        warning: false,
        reason: "Starting",
        action: "StartLb",
        text: "lb starts".into(),
    };
    recorder.note(start);
    recorder.flush(PATIENCE).await;
    let events = server.events();
    let field = |pointer: &str| events[0].pointer(pointer).and_then(Value::as_str).unwrap_or("");
    assert_eq!((field("/type"), field("/reason")), ("Normal", "Starting"));
    assert_eq!((field("/regarding/kind"), field("/regarding/uid")), ("Node", "n1"));
    assert_eq!(field("/metadata/namespace"), "default");
}

/// EV-4: whoever tells something never waits: not for a server that hangs, and not for many notes.
#[tokio::test]
async fn telling_never_waits() {
    let server = Server::start().await;
    server.mood(EVENTS, Mood::Hang);
    let (recorder, _dir) = recorder(&server, "n1");
    let begin = std::time::Instant::now();
    for n in 0..10_000 {
        recorder.note(note(&format!("problem {n}")));
    }
    recorder.flush(Duration::from_millis(10)).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    server.mood(EVENTS, Mood::Status(403, None));
    recorder.flush(PATIENCE).await;
    assert!(server.events().is_empty());
    assert!(server.requests().len() <= 25, "{}", server.requests().len());
    // And when it may again, it does.
    server.mood(EVENTS, Mood::Good);
}
