//! Listing and watching, with a server that is well.

use serde_json::json;

use super::{
    Rig, names, node,
    server::{Gone, Mood, NODES, SERVICES, SLICES, Server},
    service, slice, two,
};
use crate::model::{Coverage, Event};

fn is_object(event: &Event) -> bool {
    matches!(event, Event::PutService(_) | Event::PutSlice(_))
}

/// SYNC-1: a listing that hangs holds back everything.
#[tokio::test]
async fn nothing_comes_before_everything_was_listed() {
    for held in [SERVICES, SLICES] {
        let server = two().await;
        server.mood(held, Mood::Hang);
        let mut rig = Rig::follow(&server);
        // The Node tells that the other watches are on their way.
        rig.until("the Node", |model| model.node().is_some()).await;
        assert_eq!(rig.model.coverage(), Coverage::None);
        server.mood(held, Mood::Good);
        rig.synced().await;
        let (last, before) = rig.batches.split_last().expect("there was one");
        assert!(!before.iter().flatten().any(is_object), "{before:?}");
        let objects = last.iter().filter(|event| is_object(event)).count();
        assert_eq!(objects, 3, "the first listing is one batch");
    }
}

/// NODE-1: the first delivery waits for the Node, so that node ports are not served at the wrong
/// address first.
#[tokio::test]
async fn the_first_delivery_waits_for_the_node() {
    let server = two().await;
    server.mood(NODES, Mood::Hang);
    let mut rig = Rig::follow(&server);
    let _state = rig
        .state("both listings", |state| state.watches[0].listed && state.watches[1].listed)
        .await;
    assert!(rig.source.events.try_recv().is_err());
    server.mood(NODES, Mood::Good);
    rig.synced().await;
    let told: Vec<&Event> = rig.batches.iter().flatten().filter(|e| is_object(e)).collect();
    assert!(told.len() == 3 && rig.model.node().is_some(), "{told:?}");
}

/// SVC-5, SVC-9, SVC-10, SVC-18, ES-16, SYNC-11, SYNC-12, NODE-6: what is asked for, and that
/// nothing else is.
#[tokio::test]
async fn only_what_is_needed_is_listed_and_watched() {
    let server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    server.put(SERVICES, service("c", "10.96.0.3"));
    server.put(SLICES, slice("c-1", "c"));
    server.put(NODES, node("n1"));
    rig.until("changes", |model| names(model).len() == 3).await;
    let selectors = [
        (
            SERVICES,
            "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&fieldSelector=spec.clusterIP%21%3DNone",
        ),
        (SLICES, "labelSelector=%21service.kubernetes.io%2Fheadless"),
        (NODES, "fieldSelector=metadata.name%3Dn1"),
    ];
    for request in server.requests() {
        assert_eq!(request.method, "GET");
        let (path, query) = request.target.split_once('?').expect("a query");
        let (_, selector) = selectors.iter().find(|(known, _)| *known == path).expect("known");
        assert!(query.starts_with(selector), "{}", request.target);
        let version = env!("CARGO_PKG_VERSION");
        let agent = format!("user-agent: lb/{version} (linux/");
        assert!(request.head.to_lowercase().contains(&agent), "{}", request.head);
        if request.is_watch() {
            assert!(query.contains("allowWatchBookmarks=true"), "{}", request.target);
        }
    }
    for (path, _) in selectors {
        let of_path = |watch| {
            let requests = server.requests();
            let of_path = requests.iter().filter(|r| r.target.starts_with(path));
            of_path.filter(|r| r.is_watch() == watch).count()
        };
        assert_eq!((of_path(false), of_path(true)), (1, 1), "{path}");
    }
}

/// ES-14, SYNC-16: a large cluster comes in pages, and nothing of it is kept but what is used.
#[tokio::test]
async fn a_large_listing_comes_in_pages_and_is_one_batch() {
    let server = two().await;
    for n in 0..1200 {
        server.put(
            SERVICES,
            service(&format!("s{n}"), &format!("10.97.{}.{}", n / 200, n % 200 + 1)),
        );
    }
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    assert_eq!(rig.names().len(), 1202);
    let lists = |requests: Vec<super::server::Request>| {
        let lists = requests.into_iter().filter(|r| r.target.starts_with(SERVICES));
        lists.filter(|request| !request.is_watch()).count()
    };
    assert_eq!(lists(server.requests()), 3);
    let puts = rig.batches.last().expect("there was one").iter();
    assert_eq!(puts.filter(|event| matches!(event, Event::PutService(_))).count(), 1202);
}

/// ES-18: pages that took longer than the server remembers are asked for in one piece.
#[tokio::test]
async fn a_page_that_expired_is_no_end() {
    let server = two().await;
    for n in 0..600 {
        server.put(
            SERVICES,
            service(&format!("s{n}"), &format!("10.97.{}.{}", n / 200, n % 200 + 1)),
        );
    }
    server.set(|state| state.stale_pages = 1);
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    assert_eq!(rig.names().len(), 602);
    assert!(rig.source.state.borrow().trouble.is_none(), "this is no trouble");
}

/// ES-18, SYNC-11: a watch goes on from the last bookmark.
#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    let heard = rig.source.state.borrow().watches[0].heard;
    server.bookmark(SERVICES);
    let _state = rig.state("a bookmark", |state| state.watches[0].heard > heard).await;
    // What was before the bookmark is forgotten: only who knows the bookmark can go on.
    server.compact();
    server.set(|state| state.gone = Gone::Status);
    server.bookmark(SERVICES);
    server.bookmark(SLICES);
    server.bookmark(NODES);
    let before = server.requests().len();
    server.put(SERVICES, service("c", "10.96.0.3"));
    rig.until("a change", |model| names(model).len() == 3).await;
    server.end_watches();
    server.put(SERVICES, service("d", "10.96.0.4"));
    rig.until("a change", |model| names(model).len() == 4).await;
    let listed = |request: &super::server::Request| {
        request.target.starts_with(SERVICES) && !request.is_watch()
    };
    assert!(!server.requests().iter().skip(before).any(listed), "nothing is listed again");
}

/// SVC-4, SVC-9, SVC-13, ES-8, ES-9: changes come as they are told, in their order.
#[tokio::test]
async fn changes_are_followed() {
    let server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    server.put(SERVICES, service("c", "10.96.0.3"));
    server.delete(SERVICES, "b");
    rig.until("both", |model| names(model) == ["a", "c"]).await;
    server.delete(SERVICES, "a");
    server.put(SERVICES, service("a", "10.96.0.9"));
    let vip = |model: &crate::model::Model| {
        let service = model.service(&crate::model::ObjectName::new("default", "a"));
        service.and_then(|service| service.vip4)
    };
    rig.until("the new one", |model| vip(model) == Some([10, 96, 0, 9].into())).await;
}

/// NODE-2, NODE-3, NODE-5, HZ-7: the Node changes, goes, and comes back.
#[tokio::test]
async fn the_node_is_followed() {
    let server = two().await;
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    let node_now = rig.model.node().expect("it came").clone();
    let addresses: Vec<String> = node_now.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "198.51.100.1"], "internal before external");
    assert!(!node_now.deleting && node_now.taints.is_empty());
    let mut tainted = node("n1");
    tainted["spec"] =
        json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
    tainted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    server.put(NODES, tainted);
    rig.until("the taint", |model| {
        model.node().is_some_and(|node| node.deleting && node.taints.len() == 1)
    })
    .await;
    server.delete(NODES, "n1");
    rig.until("its end", |model| model.node().is_none() && model.problems().next().is_some()).await;
    let problem = rig.model.problems().next().expect("there is one").to_string();
    assert!(problem.starts_with("Node n1: there is no Node of this name"), "{problem}");
    server.put(NODES, node("n1"));
    rig.until("its return", |model| model.node().is_some() && model.problems().next().is_none())
        .await;
}

/// NODE-5: a wrong node name is said aloud, and holds up nothing.
#[tokio::test]
async fn a_node_that_does_not_exist_is_told() {
    let server = Server::start().await;
    server.put(SERVICES, service("a", "10.96.0.1"));
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    assert!(rig.model.problems().any(|problem| problem.to_string().starts_with("Node n1")));
}

/// Of many objects one cannot be read: in a listing and in a watch the others count.
#[tokio::test]
async fn an_object_that_cannot_be_read_stops_no_other() {
    let server = two().await;
    server.put(SERVICES, json!({"metadata": {"namespace": "default", "name": "bad"}, "spec": 7}));
    let mut rig = Rig::follow(&server);
    rig.synced().await;
    assert_eq!(rig.names(), ["a", "b"]);
    let problems: Vec<String> = rig.model.problems().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("Service default/bad: not valid: "), "{problems:?}");
    server.put(SERVICES, json!({"metadata": {"namespace": "default", "name": "b"}, "spec": []}));
    server.put(SERVICES, service("c", "10.96.0.3"));
    rig.until("the next one", |model| names(model).len() == 3).await;
    assert_eq!(rig.model.problems().count(), 2, "and b stays as it was");
    server.put(SERVICES, service("bad", "10.96.0.4"));
    server.delete(SERVICES, "b");
    rig.until("all is well", |model| {
        names(model) == ["a", "bad", "c"] && model.problems().next().is_none()
    })
    .await;
}
