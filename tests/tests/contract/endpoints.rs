//! Which endpoints serve: ready, serving, terminating, here and elsewhere.

use lb_tests::{
    cluster::{Condition, Endpoint, Policy, Service, slices},
    contract::{From, Is, Scene, Seen, Table, To},
    lab::load_balancer_address,
};

use super::with_node_port;

use Condition::{Draining, NotReady, Ready, Serving, Terminated};

const CLUSTER: (Policy, Policy) = (Policy::Cluster, Policy::Cluster);
const EXTERNAL: (Policy, Policy) = (Policy::Cluster, Policy::Local);
const INTERNAL: (Policy, Policy) = (Policy::Local, Policy::Cluster);

struct Endpoints {
    table: Table,
    number: u8,
}

/// The ways to a Service of the table: its cluster IP, its node port at node 1, its load balancer.
struct Ways {
    cluster: To,
    external: [To; 2],
    service: Service,
}

impl Endpoints {
    fn add(&mut self, policies: (Policy, Policy), endpoints: &[(&str, Condition)]) -> Ways {
        self.number += 1;
        let number = self.number;
        let outer = load_balancer_address(number);
        let service = with_node_port(&format!("ep{number}"), number)
            .load_balancer(outer)
            .policies(policies.0, policies.1);
        let scene = self.table.scene();
        let endpoints: Vec<Endpoint> =
            endpoints.iter().map(|(name, is)| scene.endpoint(name).is(*is)).collect();
        scene.beyond(outer, &[80]).unwrap();
        let node_port = To::node_port(&service, scene.node1());
        self.table.put(&service, &endpoints);
        Ways {
            cluster: To::cluster(&service),
            external: [node_port, To::at(&format!("{} VIP", service.name), outer, 80)],
            service,
        }
    }

    /// Rows for all frontends.
    fn everywhere(&mut self, ids: &str, ways: &Ways, is: &Is) {
        self.table.rows(ids, &From::EVERY, &ways.cluster, is);
        for way in &ways.external {
            self.table.rows(ids, &From::EVERY, way, is);
        }
    }
}

/// EP-1 to EP-7, ES-5, ES-7, TP-1, TP-2, TP-4, TP-9 to TP-11, M-2 to M-4, M-8 to M-12, NE-6 to NE-8, B4,
/// B20.
#[test]
fn each_client_has_the_endpoints_that_its_policy_and_their_state_give_it() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let mut of = Endpoints { table: Table::new(scene), number: 0 };
    let here = Is::by("pod1-2", Seen::Any);
    let there = Is::by("pod2-2", Seen::Any);
    let both = Is::among(&["pod1-2", "pod2-2"], Seen::Any);
    let inside = [From::Pod, From::Host, From::Unhooked];

    let ways = of.add(CLUSTER, &[("pod1-2", Ready), ("pod2-2", Ready), ("pod1-3", Draining)]);
    of.everywhere("EP-1", &ways, &both);
    let ways = of.add(CLUSTER, &[("pod1-2", Draining), ("pod2-2", Draining), ("pod1-3", Serving)]);
    of.everywhere("EP-1", &ways, &both);
    let ways = of.add(CLUSTER, &[("pod1-2", Terminated), ("pod2-2", Terminated)]);
    of.everywhere("EP-4", &ways, &Is::Refused);
    let ways = of.add(CLUSTER, &[("pod1-2", NotReady), ("pod2-2", Serving)]);
    of.everywhere("EP-5, ES-7", &ways, &Is::Refused);

    // One terminates here, one is ready elsewhere.
    let ways = of.add(EXTERNAL, &[("pod1-2", Draining), ("pod2-2", Ready)]);
    for way in &ways.external {
        of.table.rows("EP-2", &[From::Outside], way, &Is::by("pod1-2", Seen::Client));
        of.table.rows("EP-3", &inside, way, &there);
    }
    of.table.rows("EP-3", &From::EVERY, &ways.cluster, &there);
    let ways = of.add(INTERNAL, &[("pod1-2", Draining), ("pod2-2", Ready)]);
    of.table.rows("EP-2", &From::EVERY, &ways.cluster, &here);
    for way in &ways.external {
        of.table.rows("EP-3", &From::EVERY, way, &there);
    }

    // None here. Whether there is any at all tells a drop from a refusal.
    let ways = of.add(EXTERNAL, &[("pod2-2", Draining)]);
    for way in &ways.external {
        of.table.rows("EP-6, NE-7", &[From::Outside], way, &Is::Dropped);
        of.table.rows("EP-6", &inside, way, &there);
    }
    let ways = of.add(EXTERNAL, &[("pod1-2", Terminated), ("pod2-2", NotReady)]);
    of.everywhere("EP-6", &ways, &Is::Refused);
    let ways = of.add(INTERNAL, &[("pod1-2", Ready), ("pod2-2", Ready)]);
    let client = Is::by("pod1-2", Seen::Client);
    of.table.rows("M-2, M-4", &[From::Pod, From::Outside], &ways.cluster, &client);
    of.table.rows("M-3", &From::NODE, &ways.cluster, &Is::by("pod1-2", Seen::Node1));
    let ways = of.add(INTERNAL, &[("pod2-2", Ready)]);
    of.table.rows("M-2, M-3, M-4, NE-6", &From::EVERY, &ways.cluster, &Is::Dropped);
    let ways = of.add(INTERNAL, &[("pod1-2", Terminated), ("pod2-2", Terminated)]);
    of.table.rows("M-2, M-3, M-4", &From::EVERY, &ways.cluster, &Is::Refused);

    // The node's own process is here.
    let ways = of.add((Policy::Local, Policy::Local), &[("node1", Ready), ("pod2-2", Ready)]);
    of.table.rows("TP-4", &[From::Pod], &ways.cluster, &Is::by("node1", Seen::Client));
    of.table.rows("TP-4", &From::NODE, &ways.cluster, &Is::by("node1", Seen::Any));
    for way in &ways.external {
        of.table.rows("TP-4", &[From::Outside], way, &Is::by("node1", Seen::Client));
    }

    // The other node judges by itself, and clients of node 1 are outside to it.
    let node2 = of.table.scene().node2();
    let from_node1 = [From::Pod, From::Host, From::Unhooked, From::Outside];
    let ways = of.add(EXTERNAL, &[("pod1-2", Ready), ("pod2-2", Ready)]);
    let other = To::node_port(&ways.service, node2);
    of.table.rows("M-11, M-12, TP-9", &from_node1, &other, &Is::by("pod2-2", Seen::Client));
    let ways = of.add(EXTERNAL, &[("pod1-2", Ready)]);
    let other = To::node_port(&ways.service, node2);
    of.table.rows("M-11, M-12", &from_node1, &other, &Is::Dropped);
    of.table.rows("M-9, M-10", &[From::Pod2, From::Host2], &other, &Is::by("pod1-2", Seen::Any));
    let ways = of.add(EXTERNAL, &[]);
    let other = To::node_port(&ways.service, node2);
    of.table.rows("M-11, M-12", &from_node1, &other, &Is::RefusedByPacket);

    // Without the node's exact name an endpoint is not here.
    for node in ["", "nodeName: NODE1", "nodeName: node10"] {
        let ways = of.add((Policy::Local, Policy::Local), &[]);
        let yaml = slices(&ways.service, &of.table.scene().endpoints(&["pod1-2"]));
        let name = format!("default-{}-slices.yaml", ways.service.name);
        of.table.raw(&name, &yaml.replace("nodeName: node1", node));
        of.table.rows("ES-5", &From::EVERY, &ways.cluster, &Is::Dropped);
        for way in &ways.external {
            of.table.rows("ES-5", &[From::Outside], way, &Is::Dropped);
            of.table.rows("ES-5", &inside, way, &here);
        }
    }

    // Ready counts, also of what says that it terminates.
    let ways = of.add(CLUSTER, &[]);
    let endpoints = of.table.scene().endpoints(&["pod1-2", "pod2-2"]);
    let yaml = slices(&ways.service, &endpoints);
    let name = format!("default-{}-slices.yaml", ways.service.name);
    let odd = "{ready: true, serving: false, terminating: true}";
    let plain = "{ready: true, serving: true, terminating: false}";
    assert!(yaml.contains(plain));
    of.table.raw(&name, &yaml.replacen(plain, odd, 1));
    of.everywhere("EP-7", &ways, &both);
    let _ = of.table.check();
}
