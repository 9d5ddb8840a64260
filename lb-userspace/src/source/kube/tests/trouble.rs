//! A server that refuses.

use serde_json::json;

use super::{
    Rig, names,
    server::{Mood, NODES, SERVICES, SLICES},
    service, two,
};
use crate::source::kube::Class;

async fn refused(code: u16) -> (Rig, super::Server, Class) {
    let server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    for path in [SERVICES, SLICES, NODES] {
        server.mood(path, Mood::Status(code, None));
    }
    server.end_watches();
    let state = rig.state("trouble", |state| state.trouble.is_some()).await;
    let class = state.trouble.map(|(trouble, _)| trouble.class).expect("as asked for");
    (rig, server, class)
}

/// ES-18: whatever it answers, what is programmed stays, and its return is noticed.
#[tokio::test]
async fn every_refusal_is_told_by_its_name_and_ends() {
    let expected = [
        (401, Class::Unauthorized),
        (403, Class::Forbidden),
        (429, Class::Throttled),
        (500, Class::Failing),
        (503, Class::Failing),
    ];
    for (code, class) in expected {
        let (mut rig, server, found) = refused(code).await;
        assert_eq!(found, class, "{code}");
        assert_eq!(rig.names(), ["a", "b"]);
        for path in [SERVICES, SLICES, NODES] {
            server.mood(path, Mood::Good);
        }
        server.put(SERVICES, service("c", "10.96.0.3"));
        rig.until("the change", |model| names(model).len() == 3).await;
        let _state = rig.state("the end", |state| state.trouble.is_none()).await;
    }
}

/// A connection that is closed without an answer is no answer.
#[tokio::test]
async fn a_connection_that_breaks_is_tried_again() {
    let server = two().await;
    server.mood(SERVICES, Mood::Close);
    let mut rig = Rig::follow(&server);
    let state = rig.state("trouble", |state| state.trouble.is_some()).await;
    assert_eq!(state.trouble.map(|(trouble, _)| trouble.class), Some(Class::Unreachable));
    server.mood(SERVICES, Mood::Good);
    rig.synced().await;
}

/// A token that expired is replaced by what is in the file by then.
#[tokio::test]
async fn a_new_token_is_read_as_soon_as_the_old_one_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "old").expect("written");
    let server = two().await;
    server.set(|state| state.token = Some("old".into()));
    let mut rig = Rig::with_user(&server, &json!({"tokenFile": file}));
    rig.synced().await;
    server.set(|state| state.token = Some("new".into()));
    server.end_watches();
    let state = rig.state("trouble", |state| state.trouble.is_some()).await;
    let (trouble, _) = state.trouble.expect("as asked for");
    assert_eq!(trouble.class, Class::Unauthorized);
    assert!(trouble.text.contains("the token or certificate is wrong or has expired"));
    std::fs::write(&file, "new").expect("written");
    let _state = rig.state("the new token", |state| state.trouble.is_none()).await;
}

/// NODE-1: without the right to read the Node, everything else goes on.
#[tokio::test]
async fn a_node_that_may_not_be_read_holds_up_nothing() {
    let server = two().await;
    server.mood(NODES, Mood::Status(403, None));
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    assert!(rig.model.node().is_none());
    let state = rig.state("trouble", |state| state.trouble.is_some()).await;
    let (trouble, _) = state.trouble.expect("as asked for");
    assert!(trouble.text.starts_with("Nodes: it answers 403"), "{trouble:?}");
}

/// The server says how long it wants to be left alone.
#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let server = two().await;
    for path in [SERVICES, SLICES, NODES] {
        server.mood(path, Mood::Status(429, Some(2)));
    }
    let begin = std::time::Instant::now();
    let mut rig = Rig::follow(&server);
    let _state = rig.state("trouble", |state| state.trouble.is_some()).await;
    for path in [SERVICES, SLICES, NODES] {
        server.mood(path, Mood::Good);
    }
    rig.synced().await;
    assert!(begin.elapsed() >= std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
}
