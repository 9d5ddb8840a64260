//! External IPs and addresses of load balancers: who is served there, and what is left alone.

use lb_tests::{
    cluster::{Endpoint, Ingress, Policy, Service},
    contract::{From, Is, Row, Scene, Seen, Table, To},
    lab::{Addresses, Cidr, FAMILIES, Family, external_address, load_balancer_address},
    worker::Proto,
};

use super::{ports, service, with_node_port};

/// Rows that an external IP and an address of a load balancer have in common: `make` gives a Service
/// its outer address, `at` says which.
fn outer(
    table: &mut Table,
    ids: &str,
    first: u8,
    make: fn(Service, Addresses) -> Service,
    at: fn(u8) -> Addresses,
) {
    let mut number = first;
    let mut add = |about: &str, policies: (Policy, Policy), endpoints: &[&str]| {
        number += 1;
        let name = format!("{}-{number}", about.replace(' ', "-"));
        let of = make(service(&name, number), at(number)).policies(policies.0, policies.1);
        table.put(&of, &table.scene().endpoints(endpoints));
        table.scene().beyond(at(number), &[80, 81]).unwrap();
        (To::at(&name, at(number), 80), of)
    };
    let plain = (Policy::Cluster, Policy::Cluster);
    let local = (Policy::Cluster, Policy::Local);

    let (both, _) = add("both", plain, &["pod1-2", "pod2-2"]);
    let (here, _) = add("here", plain, &["pod1-2"]);
    let (there, _) = add("there", plain, &["pod2-2"]);
    let (nobody, _) = add("nobody", plain, &[]);
    let (local_both, _) = add("local both", local, &["pod1-2", "pod2-2"]);
    let (local_there, _) = add("local there", local, &["pod2-2"]);
    let (local_nobody, _) = add("local nobody", local, &[]);
    let (internal, of) = add("internal", (Policy::Local, Policy::Cluster), &["pod2-2"]);

    let any = Is::among(&["pod1-2", "pod2-2"], Seen::Any);
    table.rows(ids, &From::EVERY, &both, &any);
    table.rows(ids, &[From::Pod2, From::Host2], &both, &any);
    // Its other ports are left alone.
    table.rows(ids, &From::EVERY, &both.port(81), &Is::Untouched);
    // M-5 to M-7. A client outside keeps its address where the endpoint is on the node that it asked,
    // a pod of the node everywhere.
    table.rows(ids, &[From::Outside, From::Pod], &here, &Is::by("pod1-2", Seen::Client));
    table.rows(ids, &From::NODE, &here, &Is::by("pod1-2", Seen::Node1));
    table.rows(ids, &From::EVERY, &there, &Is::by("pod2-2", Seen::Masqueraded));
    table.rows(ids, &From::EVERY, &nobody, &Is::Refused);
    // M-8 to M-10: the policy is for clients outside; pods and the node have every endpoint.
    table.rows(ids, &[From::Outside], &local_both, &Is::by("pod1-2", Seen::Client));
    table.rows(ids, &[From::Pod], &local_both, &Is::among(&["pod1-2", "pod2-2"], Seen::Client));
    table.rows(ids, &From::NODE, &local_both, &Is::among(&["pod1-2", "pod2-2"], Seen::Node1));
    table.rows(ids, &[From::Outside], &local_there, &Is::Dropped);
    table.rows(ids, &[From::Pod], &local_there, &Is::by("pod2-2", Seen::Client));
    table.rows(ids, &From::NODE, &local_there, &Is::by("pod2-2", Seen::Node1));
    table.rows(ids, &From::EVERY, &local_nobody, &Is::Refused);
    // TP-1: the internal policy is for cluster IPs alone.
    table.rows(ids, &From::EVERY, &internal, &Is::by("pod2-2", Seen::Masqueraded));
    table.rows(ids, &From::EVERY, &To::cluster(&of), &Is::Dropped);
}

/// EIP-1, EIP-2, EIP-4, EIP-6, FAM-7, M-5 to M-10, NE-4, NE-5, NE-7, NE-8, TP-1, TP-3, D7: at an address
/// that nobody has, of a Service of type ClusterIP.
#[test]
fn external_ips_serve_everybody_and_only_their_ports() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let mut table = Table::new(scene);
    outer(&mut table, "EIP-1, EIP-2, EIP-4", 0, Service::external, external_address);

    // An address of the internet, which the gateway leads to, and of one family only.
    let internet =
        Addresses { v4: [203, 0, 113, 250].into(), v6: "2001:db8::250".parse().unwrap() };
    let mut half = service("half", 30);
    half.external_ips.push(internet.v4);
    table.put(&half, &table.scene().endpoints(&["pod2-2"]));
    table.scene().beyond(internet, &[80]).unwrap();
    for (family, is) in
        [(Family::V4, Is::by("pod2-2", Seen::Masqueraded)), (Family::V6, Is::Untouched)]
    {
        for from in [From::Pod, From::Host, From::Unhooked] {
            let to = To::at("half", internet, 80);
            let row = Row::new("EIP-6, FAM-7", from, &to, &is);
            table.row(Row { families: vec![family], ..row });
        }
    }
    let _ = table.check();
}

/// SVC-3, LB-1, LB-8, LB-9, LB-11, LB-12, M-5 to M-10, NE-4, NE-5, NE-7, NE-8, TP-1, TP-10, D7: addresses
/// in the status of a Service without node ports, on no device and told to nobody.
#[test]
fn addresses_of_load_balancers_serve_everybody_and_only_their_ports() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let mut table = Table::new(scene);
    outer(
        &mut table,
        "SVC-3, LB-1, LB-8, LB-9, LB-11",
        0,
        Service::load_balancer,
        load_balancer_address,
    );
    let _ = table.check();
}

/// LB-2, LB-4, FAM-7, CIP-9, NE-12, D5: each entry of the status by its own mode; what is the load
/// balancer's and what no Service has is left alone.
#[test]
fn addresses_of_others_are_left_alone() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let mut table = Table::new(scene);
    let proxy = |ip| Ingress { ip, mode: Some("Proxy") };
    let vip = |ip| Ingress { ip, mode: Some("VIP") };

    let mut all = with_node_port("proxy", 1).load_balancer(load_balancer_address(1));
    all.ingress = load_balancer_address(1).both().map(proxy).into();
    let mut mixed = service("mixed", 2).load_balancer(load_balancer_address(2));
    let [two, three] = [load_balancer_address(2), load_balancer_address(3)];
    mixed.ingress = vec![vip(two.v4), proxy(three.v4), vip(two.v6), proxy(three.v6)];
    for service in [&all, &mixed] {
        table.put(service, &table.scene().endpoints(&["pod2-2"]));
    }
    for number in 1..=3 {
        table.scene().beyond(load_balancer_address(number), &[80]).unwrap();
    }
    let at = |number| To::at("load balancer", load_balancer_address(number), 80);
    let served = Is::by("pod2-2", Seen::Masqueraded);
    table.rows("LB-2", &From::EVERY, &at(1), &Is::Untouched);
    table.rows("LB-2", &From::EVERY, &To::node_port(&all, table.scene().node1()), &served);
    table.rows("LB-2", &From::NODE, &To::cluster(&all), &served);
    table.rows("LB-4", &From::EVERY, &at(2), &served);
    table.rows("LB-4", &From::EVERY, &at(3), &Is::Untouched);
    let free = Service::new("free", 99).addresses;
    table.scene().beyond(free, &[80]).unwrap();
    table.rows("CIP-9, NE-12", &From::EVERY, &To::at("free", free, 80), &Is::Untouched);
    let _ = table.check();
}

/// LB-7, B18, SVC-17: an address of a load balancer that is on the node itself, also where a node port
/// has the same number.
#[test]
fn an_address_on_the_node_goes_before_its_node_ports() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let netlink = scene.cluster.lab.nodes[0].netns.netlink();
    let on_lo = load_balancer_address(1);
    let on_eth0 = Addresses { v4: [10, 0, 0, 78].into(), v6: "fd00::78".parse().unwrap() };
    for ip in on_lo.both() {
        netlink.add_address("lo", Cidr::host(ip)).unwrap();
    }
    for (ip, length) in on_eth0.both().into_iter().zip([24, 64]) {
        netlink.add_address("eth0", Cidr(ip, length)).unwrap();
    }
    let mut table = Table::new(scene);
    let here = |table: &Table| table.scene().endpoints(&["pod1-2"]);
    let there = |table: &Table| table.scene().endpoints(&["pod2-2"]);

    table.put(&service("on-lo", 1).load_balancer(on_lo), &there(&table));
    // Port 30103 of that address is one Service's, and the node port of another.
    let vip = ports(Service::new("vip", 2), 30103, None).load_balancer(on_eth0);
    table.put(&vip, &here(&table));
    table.put(&ports(Service::new("node-port", 3), 80, Some(30103)), &there(&table));

    let node1 = table.scene().node1();
    table.rows("LB-7", &From::EVERY, &To::at("on-lo", on_lo, 80), &Is::by("pod2-2", Seen::Any));
    // The kernel may know no SCTP, and then says so in another way.
    for from in From::EVERY {
        let row = Row::new("LB-7", from, &To::at("on-lo", on_lo, 81), &Is::RefusedByPacket);
        table.row(Row { protos: vec![Proto::Tcp, Proto::Udp], ..row });
    }
    // Every address of the node serves node ports.
    table.rows(
        "LB-7",
        &From::EVERY,
        &To::at("NodePort", on_lo, 30103),
        &Is::by("pod2-2", Seen::Any),
    );
    table.rows(
        "SVC-17",
        &From::EVERY,
        &To::at("vip", on_eth0, 30103),
        &Is::by("pod1-2", Seen::Any),
    );
    table.rows(
        "SVC-17",
        &From::EVERY,
        &To::at("NodePort", node1, 30103),
        &Is::by("pod2-2", Seen::Any),
    );
    let _ = table.check();
}

/// EIP-5: an external IP that is an address of the node takes nothing over, and that is told.
#[test]
fn an_address_of_the_node_is_no_external_ip() {
    let Some(scene) = Scene::start_or_skip(&[]) else { return };
    let node1 = scene.node1();
    let mut table = Table::new(scene);
    // The node serves at 8080 itself.
    let service =
        ports(Service::new("grabs", 1), 8080, None).external(node1).external(external_address(1));
    table.put(&service, &table.scene().endpoints(&["pod2-2"]));
    table.scene().beyond(external_address(1), &[8080]).unwrap();
    let own = To::at("node 1", node1, 8080);
    table.rows("EIP-5", &[From::Outside, From::Pod], &own, &Is::by("node1", Seen::Client));
    table.rows("EIP-5", &From::NODE, &own, &Is::by("node1", Seen::Node1));
    // Its other external IP is served.
    let foreign = To::at("foreign", external_address(1), 8080);
    table.rows("EIP-5", &From::EVERY, &foreign, &Is::by("pod2-2", Seen::Masqueraded));
    let scene = table.check();
    let status = scene.cluster.agents[0].status().unwrap().to_string();
    for family in FAMILIES {
        let ip = node1.ip(family).to_string();
        assert!(status.contains("grabs") && status.contains(&ip), "{ip} is not told: {status}");
    }
}

/// One endpoint that is a pod of node 2, of a Service that is reached by every way.
fn exposed(scene: &Scene) -> (Service, Vec<Endpoint>) {
    (with_node_port("web", 1).exposed(1), scene.endpoints(&["pod2-2"]))
}

/// EIP-7: external IPs can be switched off, or on without limits.
#[test]
fn external_ips_can_be_switched_off_or_all_allowed() {
    for (flag, is) in [("off", Is::Untouched), ("all", Is::by("pod2-2", Seen::Masqueraded))] {
        let Some(scene) = Scene::start_or_skip(&[&format!("--external-ips={flag}")]) else {
            return;
        };
        let node1 = scene.node1();
        let mut table = Table::new(scene);
        let (web, endpoints) = exposed(table.scene());
        table.put(&web, &endpoints);
        table.scene().beyond(external_address(1), &[80]).unwrap();
        table.scene().beyond(load_balancer_address(1), &[80]).unwrap();
        let served = Is::by("pod2-2", Seen::Masqueraded);
        table.rows("EIP-7", &From::EVERY, &To::at("external", external_address(1), 80), &is);
        let balancer = To::at("load balancer", load_balancer_address(1), 80);
        table.rows("EIP-7", &From::EVERY, &balancer, &served);

        let grabs = ports(Service::new("grabs", 2), 8080, None).external(node1);
        table.put(&grabs, &table.scene().endpoints(&["pod2-2"]));
        let own = if flag == "all" { served } else { Is::by("node1", Seen::Client) };
        table.rows("EIP-5, EIP-7", &[From::Outside], &To::at("node 1", node1, 8080), &own);
        let _ = table.check();
    }
}
