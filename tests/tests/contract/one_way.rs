//! Connections that a node forwards in one direction only.

use std::time::Duration;

use lb_tests::{
    contract::Scene,
    lab::{Cidr, FAMILIES, PATIENCE, until},
    worker::MonitorKind,
};

use super::with_node_port;

/// CT-11: a connection of which a node sees one direction only is not disturbed by it.
#[test]
fn a_connection_that_passes_one_way_only_goes_on() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let web = with_node_port("web", 1);
    let cluster = &scene.cluster;
    cluster.put(&web, &scene.endpoints(&["pod2-2"])).unwrap();
    let (client, node1) = (&cluster.lab.client, scene.node1());
    // The client asks a pod of node 2 by node 1, and is answered by node 2.
    for family in ["ipv4", "ipv6"] {
        for device in ["all", "eth0"] {
            let setting = format!("{family}/conf/{device}/accept_redirects");
            client.netns.sysctl(&[(setting.as_str(), "0")]).unwrap();
        }
    }
    let pod = scene.endpoint("pod2-2").addresses;
    for (ip, via) in pod.both().into_iter().zip(node1.both()) {
        client.netns.netlink().add_route(Cidr::host(ip), Some(via), "eth0").unwrap();
    }
    let capture = cluster.lab.underlay.worker.capture("node1").unwrap();
    let every = Duration::from_millis(5);
    for family in FAMILIES {
        let to = pod.at(family, 8080);
        let stream = client.worker.monitor(MonitorKind::Stream, to, every).unwrap();
        until("many answers", PATIENCE, || {
            Ok((client.worker.peek(stream)?.answered >= 200).then_some(()))
        })
        .unwrap();
        let seen = client.worker.end(stream).unwrap();
        assert_eq!((seen.lost, seen.broken.len()), (0, 0), "{seen:?}");
    }
    let seen = cluster.lab.underlay.worker.end_capture(capture).unwrap();
    for family in FAMILIES {
        let pod = pod.at(family, 8080);
        assert!(seen.frames.iter().any(|frame| frame.to == pod), "nothing went by node 1");
        assert!(!seen.frames.iter().any(|frame| frame.from == pod), "an answer came by node 1");
    }
}
