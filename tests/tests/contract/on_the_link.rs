//! What others on the link notice of Services: nothing.

use lb_tests::{
    contract::{From, Is, Scene, Seen, Table, To},
    lab::{Cidr, FAMILIES, external_address, load_balancer_address},
    worker::{Outcome, Proto},
};

use super::with_node_port;

/// CIP-6, LB-12: no address of a Service is on a device, and nobody answers for one by ARP or neighbour
/// discovery; what is routed to the node is served all the same.
#[test]
fn nobody_answers_for_an_address_of_a_service_on_the_link() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let mut table = Table::new(scene);
    let web = with_node_port("web", 1).exposed(1);
    table.put(&web, &table.scene().endpoints(&["pod2-2"]));
    let ways = [web.addresses, external_address(1), load_balancer_address(1)];
    for way in ways {
        let served = Is::by("pod2-2", Seen::Node1);
        table.rows("CIP-6, LB-12", &[From::Outside], &To::at("web", way, 80), &served);
    }
    let scene = table.check();
    // The client looks for them on its own link from here on.
    let client = &scene.cluster.lab.client;
    for way in ways {
        for family in FAMILIES {
            let ip = way.ip(family);
            client.netns.netlink().add_route(Cidr::host(ip), None, "eth0").unwrap();
            let outcome = client.worker.probe(Proto::Tcp, way.at(family, 80)).unwrap();
            let silent = matches!(outcome, Outcome::Timeout | Outcome::Unreachable);
            assert!(silent, "somebody answers for {ip}: {outcome}");
            // Nor can a process of the node have it.
            let node = &scene.cluster.lab.nodes[0].host;
            assert!(node.serve(Proto::Tcp, way.at(family, 80)).is_err(), "{ip} is on a device");
        }
    }
}
