//! A zone that changes, and what a drop is to processes of the node.

use lb_tests::{
    cluster::node,
    contract::{From, Is, Scene, Seen, Table, To},
    lab::{FAMILIES, PATIENCE, load_balancer_address, until},
    worker::Proto,
};

use super::service;

/// TOP-9: another zone of the node leads to other endpoints, and none to all of them.
#[test]
fn the_zone_of_the_node_is_followed() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let web = service("web", 1);
    let hinted = |name, zone| scene.endpoint(name).meant_for(&[], &[zone]);
    let endpoints = [hinted("pod1-2", "z1"), hinted("pod2-2", "z2")];
    let lab = &scene.cluster.lab;
    scene.cluster.directory.put_endpoints(&web, &endpoints).unwrap();
    scene.cluster.directory.put_service(&web).unwrap();
    let client = &lab.nodes[0].pods[0].worker;
    for (zone, wanted) in [
        (Some("z1"), vec!["pod1-2"]),
        (Some("z2"), vec!["pod2-2"]),
        (None, vec!["pod1-2", "pod2-2"]),
        (Some("z9"), vec!["pod1-2", "pod2-2"]),
        (Some("z1"), vec!["pod1-2"]),
    ] {
        scene.cluster.directory.write("node1.yaml", &node(&lab.nodes[0], zone)).unwrap();
        for family in FAMILIES {
            until(&format!("zone {zone:?} to lead to {wanted:?}"), PATIENCE, || {
                let share = client.many(Proto::Tcp, web.addresses.at(family, 80), 32)?;
                Ok(share.by.keys().eq(&wanted).then_some(()))
            })
            .unwrap();
        }
    }
}

/// NE-17: a datagram that is dropped is silence to a process of the node as to everybody else.
#[test]
fn a_drop_is_silence_for_processes_of_the_node() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let outer = load_balancer_address(1);
    let mut table = Table::new(scene);
    let web = service("web", 1).load_balancer(outer).from_ranges(["10.9.9.9/32", "fd99::9/128"]);
    table.put(&web, &table.scene().endpoints(&["pod2-2"]));
    table.rows("NE-17", &From::NODE, &To::at("web", outer, 80), &Is::Dropped);
    table.rows("NE-17", &From::NODE, &To::cluster(&web), &Is::by("pod2-2", Seen::Node1));
    let _ = table.check();
}
