//! Source ranges of load balancers.

use lb_tests::{
    cluster::{Policy, Service},
    contract::{From, Is, Row, Scene, Seen, Table, To},
    lab::{Addresses, Cidr, FAMILIES, Family, external_address, load_balancer_address},
};

use super::{service, with_node_port};

fn balancer(number: u8) -> To {
    To::at("load balancer", load_balancer_address(number), 80)
}

/// Exactly these addresses.
fn only(addresses: Addresses) -> [String; 2] {
    [format!("{}/32", addresses.v4), format!("{}/128", addresses.v6)]
}

/// A table to which Services with ranges are added.
struct Ranges {
    table: Table,
}

impl Ranges {
    fn add(&mut self, service: &Service, number: u8, endpoints: &[&str]) {
        self.table.put(service, &self.table.scene().endpoints(endpoints));
        self.table.scene().beyond(load_balancer_address(number), &[80]).unwrap();
    }
}

/// SR-1, SR-2, SR-7, SR-8, NP-15, EIP-3, D6: who is outside the ranges gets no answer at the load
/// balancer's address, pods and the node included, and is served everywhere else.
#[test]
fn ranges_are_for_addresses_of_load_balancers_and_for_every_client() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let outside = only(scene.outside());
    let node1 = scene.node1();
    let pods =
        scene.cluster.lab.nodes[0].pod_networks().map(|Cidr(ip, length)| format!("{ip}/{length}"));
    let mut ranges = Ranges { table: Table::new(scene) };
    let served = Is::by("pod2-2", Seen::Any);
    let others = [From::OutsideToo, From::Pod, From::Host, From::Unhooked];

    let one = with_node_port("one", 1).exposed(1).from_ranges(outside.clone());
    ranges.add(&one, 1, &["pod2-2"]);
    ranges.table.scene().beyond(external_address(1), &[80]).unwrap();
    ranges.table.rows("SR-1", &[From::Outside], &balancer(1), &served);
    ranges.table.rows("SR-2", &others, &balancer(1), &Is::Dropped);
    for elsewhere in
        [To::cluster(&one), To::node_port(&one, node1), To::at("external", external_address(1), 80)]
    {
        ranges.table.rows("SR-1, NP-15, EIP-3", &others, &elsewhere, &served);
    }

    let two = service("two", 2).load_balancer(load_balancer_address(2)).from_ranges(pods);
    ranges.add(&two, 2, &["pod2-2"]);
    ranges.table.rows("SR-2", &[From::Pod], &balancer(2), &served);
    let no_pods = [From::Outside, From::OutsideToo, From::Host, From::Unhooked];
    ranges.table.rows("SR-2", &no_pods, &balancer(2), &Is::Dropped);

    let empty =
        service("empty", 3).load_balancer(load_balancer_address(3)).from_ranges(outside.clone());
    ranges.add(&empty, 3, &[]);
    ranges.table.rows("SR-7", &[From::Outside], &balancer(3), &Is::Refused);
    ranges.table.rows("SR-7", &others, &balancer(3), &Is::Dropped);

    let local = service("local", 4)
        .load_balancer(load_balancer_address(4))
        .policies(Policy::Cluster, Policy::Local)
        .from_ranges(outside);
    ranges.add(&local, 4, &["pod2-2"]);
    ranges.table.rows("SR-8", &[From::Outside], &balancer(4), &Is::Dropped);
    ranges.table.rows("SR-8", &others, &balancer(4), &Is::Dropped);
    let _ = ranges.table.check();
}

/// SR-4, SR-5, SR-9, SR-10, FAM-7: ranges that restrict nobody, one family, or everybody.
#[test]
fn what_ranges_say_is_taken_family_by_family() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let outside = scene.outside();
    let mut ranges = Ranges { table: Table::new(scene) };
    let of = |name: &str, number: u8, from: &[&str]| {
        let balanced = service(name, number).load_balancer(load_balancer_address(number));
        balanced.from_ranges(from.iter().copied())
    };
    let served = Is::by("pod2-2", Seen::Any);
    let everybody = [From::Outside, From::OutsideToo, From::Pod, From::Host, From::Unhooked];

    let zero = of("zero", 1, &["10.9.9.9/32", "0.0.0.0/0", "::/0", "fd99::/64"]);
    ranges.add(&zero, 1, &["pod2-2"]);
    ranges.table.rows("SR-4", &everybody, &balancer(1), &served);

    let none = of("none", 2, &[]);
    ranges.add(&none, 2, &["pod2-2"]);
    ranges.table.rows("SR-4", &everybody, &balancer(2), &served);

    let v4 = format!("{}/32", outside.v4);
    let half = of("half", 3, &[&v4]);
    ranges.add(&half, 3, &["pod2-2"]);
    for from in everybody {
        for family in FAMILIES {
            let is_in = family == Family::V6 || from == From::Outside;
            let is = if is_in { &served } else { &Is::Dropped };
            let row = Row::new("SR-5, FAM-7", from, &balancer(3), is);
            ranges.table.row(Row { families: vec![family], ..row });
        }
    }

    let annotated = of("annotated", 4, &[]).yaml().replacen(
        "metadata:\n",
        "metadata:\n  annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: 10.9.9.9/32}\n",
        1,
    );
    ranges.add(&of("annotated", 4, &[]), 4, &["pod2-2"]);
    ranges.table.raw("default-annotated.yaml", &annotated);
    ranges.table.rows("SR-9", &everybody, &balancer(4), &served);

    let bad = of("bad", 5, &["garbage", "10.0.0.0/99"]);
    ranges.add(&bad, 5, &["pod2-2"]);
    ranges.table.rows("SR-10", &everybody, &balancer(5), &Is::Dropped);

    let (v4, v6) = (format!("  {v4} "), format!("{}/128", outside.v6));
    let some = of("some", 6, &["garbage", &v4, &v6]);
    ranges.add(&some, 6, &["pod2-2"]);
    ranges.table.rows("SR-10", &[From::Outside], &balancer(6), &served);
    let others = [From::OutsideToo, From::Pod, From::Host, From::Unhooked];
    ranges.table.rows("SR-10", &others, &balancer(6), &Is::Dropped);

    let scene = ranges.table.check();
    let status = scene.cluster.agents[0].status().unwrap().to_string();
    for name in ["default/bad", "default/some"] {
        assert!(status.contains(name), "{name} is not told: {status}");
    }
}

/// SR-6, B18: where the load balancer's address is on the node, it is the source of the node's own
/// requests; a range with the node's address lets them in.
#[test]
fn a_range_with_the_node_lets_its_own_requests_in() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    for number in [1, 2] {
        for ip in load_balancer_address(number).both() {
            scene.cluster.lab.nodes[0].netns.netlink().add_address("lo", Cidr::host(ip)).unwrap();
        }
    }
    let (node1, outside) = (only(scene.node1()), only(scene.outside()));
    let mut ranges = Ranges { table: Table::new(scene) };
    for (name, number, from) in [("with", 1, node1), ("without", 2, outside)] {
        let of = service(name, number).load_balancer(load_balancer_address(number));
        let table = &mut ranges.table;
        table.put(&of.from_ranges(from), &table.scene().endpoints(&["pod2-2"]));
    }
    let served = Is::by("pod2-2", Seen::Any);
    ranges.table.rows("SR-6", &From::NODE, &balancer(1), &served);
    ranges.table.rows("SR-6", &[From::Outside, From::Pod], &balancer(1), &Is::Dropped);
    ranges.table.rows("SR-6", &From::NODE, &balancer(2), &Is::Dropped);
    ranges.table.rows("SR-6", &[From::Outside], &balancer(2), &served);
    let _ = ranges.table.check();
}
