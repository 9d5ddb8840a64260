//! Topology hints: which endpoints are meant for whom.

use lb_tests::{
    cluster::{Condition, Endpoint, Policy, node},
    contract::{From, Is, Scene, Seen, Table, To},
    lab::load_balancer_address,
};

use super::with_node_port;

/// A table whose node 1 is in zone z1.
fn start() -> Option<Table> {
    let scene = Scene::start_or_skip(&[])?;
    let mut table = Table::new(scene);
    for (at, zone) in ["z1", "z2"].into_iter().enumerate() {
        let yaml = node(&table.scene().cluster.lab.nodes[at], Some(zone));
        table.raw(&format!("node{}.yaml", at + 1), &yaml);
    }
    Some(table)
}

struct Hints {
    table: Table,
    number: u8,
}

impl Hints {
    /// Adds a Service whose endpoints are meant for nodes and zones; each client's endpoints at every
    /// frontend with policy Cluster are those of its node.
    fn add(
        &mut self,
        ids: &str,
        policy: Policy,
        endpoints: &[(&str, &[&str], &[&str])],
    ) -> [To; 3] {
        let scene = self.table.scene();
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .map(|(name, nodes, zones)| scene.endpoint(name).meant_for(nodes, zones))
            .collect();
        self.add_endpoints(ids, policy, &endpoints)
    }

    fn add_endpoints(&mut self, ids: &str, policy: Policy, endpoints: &[Endpoint]) -> [To; 3] {
        self.number += 1;
        let outer = load_balancer_address(self.number);
        let name = format!("{}-{}", ids.to_lowercase().replace(", ", "-"), self.number);
        let service =
            with_node_port(&name, self.number).load_balancer(outer).policies(policy, policy);
        self.table.put(&service, endpoints);
        self.table.scene().beyond(outer, &[80]).unwrap();
        let node1 = self.table.scene().node1();
        [To::cluster(&service), To::node_port(&service, node1), To::at(&name, outer, 80)]
    }

    /// What clients of node 1 and of node 2 get.
    fn rows(&mut self, ids: &str, ways: &[To; 3], one: &[&str], two: &[&str]) {
        for way in ways {
            self.table.rows(ids, &From::EVERY, way, &Is::among(one, Seen::Any));
        }
        // A node port of node 1 is node 1's business.
        for way in [&ways[0], &ways[2]] {
            self.table.rows(ids, &[From::Pod2, From::Host2], way, &Is::among(two, Seen::Any));
        }
    }
}

/// TOP-1 to TOP-8, TOP-11, TP-13.
#[test]
fn hints_keep_clients_near_where_all_endpoints_have_them() {
    let Some(table) = start() else { return };
    let mut of = Hints { table, number: 0 };
    let (pod1, pod2) = ("pod1-2", "pod2-2");
    let cluster = Policy::Cluster;

    let ways = of.add("TOP-2, TOP-7", cluster, &[(pod1, &["node1"], &[]), (pod2, &["node2"], &[])]);
    of.rows("TOP-2, TOP-7, TOP-11", &ways, &[pod1], &[pod2]);
    // It is the hint that counts, and not where the endpoint is.
    let ways = of.add("TOP-3, TOP-7", cluster, &[(pod1, &[], &["z2"]), (pod2, &[], &["z1"])]);
    of.rows("TOP-3, TOP-7, TOP-11", &ways, &[pod2], &[pod1]);

    let ways = of.add("TOP-4", cluster, &[(pod1, &["node1"], &["z1"]), (pod2, &[], &[])]);
    of.rows("TOP-4", &ways, &[pod1, pod2], &[pod1, pod2]);
    let ways = of.add("TOP-4", cluster, &[(pod1, &[], &["z9"]), (pod2, &[], &["z9"])]);
    of.rows("TOP-4", &ways, &[pod1, pod2], &[pod1, pod2]);

    // No endpoint is meant for node 1, but one for its zone.
    let ways =
        of.add("TOP-5", cluster, &[(pod1, &["node9"], &["z1"]), (pod2, &["node2"], &["z2"])]);
    of.rows("TOP-5", &ways, &[pod1], &[pod2]);

    let ways = of.add("TOP-6", cluster, &[(pod1, &[], &["z1"]), (pod2, &[], &["z1", "z2", "z7"])]);
    of.rows("TOP-6", &ways, &[pod1, pod2], &[pod2]);

    // Only ready endpoints have a say.
    let draining = of.table.scene().endpoint("pod1-3").is(Condition::Draining);
    let gone = of.table.scene().endpoint("pod2-1").is(Condition::NotReady);
    let hinted = |name: &str, zone| of.table.scene().endpoint(name).meant_for(&[], &[zone]);
    let endpoints = [hinted(pod1, "z1"), hinted(pod2, "z2"), draining, gone];
    let ways = of.add_endpoints("TOP-1", cluster, &endpoints);
    of.rows("TOP-1", &ways, &[pod1], &[pod2]);
    // And what terminates is taken without them.
    let endpoints = [(pod1, "z1"), (pod2, "z2")].map(|(name, zone)| {
        let endpoint = of.table.scene().endpoint(name).is(Condition::Draining);
        endpoint.meant_for(&[], &[zone])
    });
    let ways = of.add_endpoints("TOP-1", cluster, &endpoints);
    of.rows("TOP-1, EP-1", &ways, &[pod1, pod2], &[pod1, pod2]);

    // Policy Local goes by place, whoever an endpoint is meant for.
    let ways = of.add("TOP-8", Policy::Local, &[(pod1, &["node2"], &["z2"]), (pod2, &[], &["z1"])]);
    of.table.rows("TOP-8", &From::EVERY, &ways[0], &Is::by(pod1, Seen::Any));
    for way in &ways[1..] {
        of.table.rows("TOP-8, TP-13", &[From::Outside], way, &Is::by(pod1, Seen::Client));
    }
    let _ = of.table.check();
}
