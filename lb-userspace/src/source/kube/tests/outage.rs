//! The API server goes and comes back.

use std::time::{Duration, Instant};

use super::{
    Rig, names,
    server::{Gone, Mood, NODES, SERVICES, SLICES},
    service, slice, two,
};
use crate::{
    model::{Coverage, Event},
    source::kube::Class,
};

fn deletes(batches: &[Vec<Event>]) -> Vec<String> {
    let deletes = batches.iter().flatten().filter_map(|event| match event {
        Event::DeleteService(name) | Event::DeleteSlice(name) => Some(name.name.to_string()),
        Event::PutService(_)
        | Event::PutSlice(_)
        | Event::PutNode(_)
        | Event::DeleteNode
        | Event::Problems(..)
        | Event::Coverage(_) => None,
    });
    deletes.collect()
}

/// ES-18, SYNC-13: during an outage nothing changes; after it, what changed meanwhile is there at
/// once, and what did not change was never away.
#[tokio::test]
async fn an_outage_changes_nothing_and_is_caught_up_with_at_once() {
    for gone in [Gone::Event, Gone::Status] {
        let mut server = two().await;
        let mut rig = Rig::follow(&server);
        rig.synced().await;
        rig.batches.clear();
        server.stop().await;
        let state = rig.state("the outage", |state| state.trouble.is_some()).await;
        let (trouble, _) = state.trouble.expect("as asked for");
        assert_eq!(trouble.class, Class::Unreachable, "{trouble:?}");
        assert!(rig.source.events.try_recv().is_err(), "nothing changes");

        server.delete(SERVICES, "b");
        server.put(SERVICES, service("d", "10.96.0.4"));
        server.put(SLICES, slice("d-1", "d"));
        server.compact();
        server.set(|state| state.gone = gone);
        server.start_again().await;
        let back = Instant::now();
        rig.until("catching up", |model| {
            names(model) == ["a", "d"]
                && model.slice(&crate::model::ObjectName::new("default", "d-1")).is_some()
        })
        .await;
        let took = back.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?} although it is asked every second");
        assert_eq!(deletes(&rig.batches), ["b"], "nothing else was away, not for a moment");
        let _state = rig.state("the end", |state| state.trouble.is_none()).await;
        assert!(rig.batches.iter().flatten().all(|event| !matches!(event, Event::Coverage(_))));
    }
}

/// ES-18: what is still known after an outage is not listed again.
#[tokio::test]
async fn a_short_outage_needs_no_listing() {
    let mut server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    server.stop().await;
    let _state = rig.state("the outage", |state| state.trouble.is_some()).await;
    let before = server.requests().len();
    server.put(SERVICES, service("c", "10.96.0.3"));
    server.start_again().await;
    rig.until("catching up", |model| names(model).len() == 3).await;
    assert!(server.requests().iter().skip(before).all(super::server::Request::is_watch));
}

/// SYNC-13: an API server that is not there at the start.
#[tokio::test]
async fn an_api_server_that_comes_late_is_waited_for() {
    let mut server = two().await;
    server.stop().await;
    let mut rig = Rig::follow(&server);
    let state = rig.state("trouble", |state| state.trouble.is_some()).await;
    assert_eq!(state.heard(), None);
    assert!(rig.source.events.try_recv().is_err());
    assert_eq!(rig.model.coverage(), Coverage::None);
    server.start_again().await;
    rig.synced().await;
    assert_eq!(rig.names(), ["a", "b"]);
    let _state = rig.state("the end", |state| state.well_since.is_some()).await;
}

/// ES-18: a server that hangs is noticed, and nothing is lost by it.
#[tokio::test]
async fn a_server_that_hangs_is_slow() {
    let server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    for path in [SERVICES, SLICES, NODES] {
        server.mood(path, Mood::Hang);
    }
    server.end_watches();
    let state = rig.state("slowness", |state| state.trouble.is_some()).await;
    assert_eq!(state.trouble.map(|(trouble, _)| trouble.class), Some(Class::Slow));
    server.put(SERVICES, service("c", "10.96.0.3"));
    for path in [SERVICES, SLICES, NODES] {
        server.mood(path, Mood::Good);
    }
    rig.until("the change", |model| names(model).len() == 3).await;
    let _state = rig.state("the end", |state| state.trouble.is_none()).await;
}
