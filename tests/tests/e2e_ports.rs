//! Which port of which object meets which: names, numbers and protocols of Service and slice ports.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{net::SocketAddr, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Family, PATIENCE, Setup, until},
    worker::{MonitorKind, Outcome, Proto, Worker},
};

fn start() -> Option<Cluster> {
    let cluster = Cluster::start_or_skip(Setup { pods: vec![2, 1], ..Setup::default() }, &[])?;
    cluster.lab.serve(8080).unwrap();
    cluster.lab.serve(9090).unwrap();
    Some(cluster)
}

/// Waits until requests get this outcome: a name, or `refused`.
fn becomes(client: &Worker, proto: Proto, at: SocketAddr, wanted: &str) {
    let mut last = None;
    let is = until(&format!("{proto} {at} to be {wanted}"), PATIENCE, || {
        let outcome = client.probe(proto, at)?;
        let is = outcome.by().unwrap_or(&outcome.to_string()) == wanted;
        last = Some(outcome);
        Ok(is.then_some(()))
    });
    is.unwrap_or_else(|error| panic!("{error}: {last:?}"));
}

/// An EndpointSlice of Service `web` with the ports and endpoints given as YAML flow style.
fn slice(name: &str, ports: &str, endpoints: &[&str]) -> String {
    let kind = if endpoints.iter().any(|one| one.contains(':')) { "IPv6" } else { "IPv4" };
    let mut yaml = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: default
  name: {name}
  labels: {{kubernetes.io/service-name: web}}
addressType: {kind}
ports: {ports}
endpoints:
"
    );
    for address in endpoints {
        yaml += &format!("  - {{addresses: [\"{address}\"], conditions: {{ready: true}}}}\n");
    }
    yaml
}

#[test]
fn each_port_of_a_service_has_its_own_endpoints() {
    let Some(cluster) = start() else { return };
    let [one, two, _] = &cluster.lab.pods().collect::<Vec<_>>()[..] else { panic!("three pods") };
    let client = &cluster.lab.client.worker;
    let node = &cluster.lab.nodes[0];
    let service = Service::new("web", 20)
        .port("a", Proto::Tcp, 80, 8080, Some(30080))
        .port("b", Proto::Tcp, 81, 9090, Some(30081))
        .port("c", Proto::Udp, 80, 8080, Some(30080));
    cluster.directory.put_service(&service).unwrap();
    let ports = |name: &str, proto: &str, number: u16| {
        format!("[{{name: {name}, protocol: {proto}, port: {number}}}]")
    };
    for family in FAMILIES {
        let write = |file: &str, ports: &str, ips: &[String]| {
            let name = format!("{file}-{}", family.to_string().to_lowercase());
            let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
            cluster.directory.write(&format!("{name}.yaml"), &slice(&name, ports, &ips)).unwrap();
        };
        let (ip_one, ip_two) =
            (one.addresses.ip(family).to_string(), two.addresses.ip(family).to_string());
        write("a", &ports("a", "TCP", 8080), std::slice::from_ref(&ip_one));
        write("b", &ports("b", "TCP", 9090), std::slice::from_ref(&ip_two));
        write("c", &ports("c", "UDP", 9090), std::slice::from_ref(&ip_two));
        let at = |port| node.addresses.at(family, port);
        becomes(client, Proto::Tcp, at(30080), one.name());
        becomes(client, Proto::Tcp, at(30081), two.name());
        // The same number under another protocol is another port.
        becomes(client, Proto::Udp, at(30080), two.name());
        let pod = &two.worker;
        becomes(pod, Proto::Tcp, service.addresses.at(family, 80), one.name());
        becomes(pod, Proto::Tcp, service.addresses.at(family, 81), two.name());
        becomes(pod, Proto::Udp, service.addresses.at(family, 80), two.name());
        // One port loses its endpoints: only that one is refused.
        write("b", &ports("b", "TCP", 9090), &[]);
        becomes(client, Proto::Tcp, at(30081), "refused");
        assert_eq!(client.probe(Proto::Tcp, at(30080)).unwrap().by(), Some(one.name()));
        assert_eq!(client.probe(Proto::Udp, at(30080)).unwrap().by(), Some(two.name()));
    }
}

#[test]
fn slice_ports_join_by_name_and_protocol_and_broken_ones_are_no_endpoints() {
    let Some(cluster) = start() else { return };
    let pod = &cluster.lab.nodes[0].pods[0];
    let client = &cluster.lab.client.worker;
    let service = Service::new("web", 20).port("http", Proto::Tcp, 80, 8080, Some(30080));
    cluster.directory.put_service(&service).unwrap();
    let at = cluster.lab.nodes[0].addresses.at(Family::V4, 30080);
    let ip = pod.addresses.v4.to_string();
    // Each wrong one follows a right one, so that "refused" is its own doing.
    for (what, ports) in [
        ("another name", "[{name: web, protocol: TCP, port: 8080}]"),
        ("another protocol", "[{name: http, protocol: UDP, port: 8080}]"),
        ("no name", "[{protocol: TCP, port: 8080}]"),
        ("the name null", "[{name: null, protocol: TCP, port: 8080}]"),
        ("no number", "[{name: http, protocol: TCP}]"),
        ("the number 0", "[{name: http, protocol: TCP, port: 0}]"),
        ("no ports", "[]"),
    ] {
        println!("a slice with {what}");
        let right = slice("web-1", "[{name: http, protocol: TCP, port: 8080}]", &[&ip]);
        cluster.directory.write("slice.yaml", &right).unwrap();
        becomes(client, Proto::Tcp, at, pod.name());
        cluster.directory.write("slice.yaml", &slice("web-1", ports, &[&ip])).unwrap();
        becomes(client, Proto::Tcp, at, "refused");
    }
    // No protocol means TCP.
    for ports in ["[{name: http, port: 8080}]", "[{name: http, protocol: null, port: 8080}]"] {
        cluster.directory.write("slice.yaml", &slice("web-1", "[]", &[&ip])).unwrap();
        becomes(client, Proto::Tcp, at, "refused");
        cluster.directory.write("slice.yaml", &slice("web-1", ports, &[&ip])).unwrap();
        becomes(client, Proto::Tcp, at, pod.name());
    }
}

#[test]
fn slices_with_the_same_port_name_and_different_numbers_are_merged() {
    let Some(cluster) = start() else { return };
    let lab = &cluster.lab;
    let service = Service::new("web", 20).port("http", Proto::Tcp, 80, 8080, Some(30080));
    cluster.directory.put_service(&service).unwrap();
    let one = lab.nodes[0].pods[0].addresses.v4.to_string();
    let two = lab.nodes[1].pods[0].addresses.v4.to_string();
    let first = slice("web-1", "[{name: http, protocol: TCP, port: 8080}]", &[&one]);
    let second = slice("web-2", "[{name: http, protocol: TCP, port: 9090}]", &[&two]);
    cluster.directory.write("slices.yaml", &format!("{first}---\n{second}")).unwrap();
    let at = lab.nodes[0].addresses.at(Family::V4, 30080);
    until("both pods to answer", PATIENCE, || {
        let share = lab.client.worker.many(Proto::Tcp, at, 40)?;
        Ok((share.by.len() == 2 && share.failures.is_empty()).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_slice_port_waits_for_the_service_port_of_its_name() {
    let Some(cluster) = start() else { return };
    let pod = &cluster.lab.nodes[1].pods[0];
    let client = &cluster.lab.client.worker;
    let ip = pod.addresses.v4.to_string();
    let ports = "[{name: a, protocol: TCP, port: 8080}, {name: b, protocol: TCP, port: 9090}]";
    cluster.directory.write("slice.yaml", &slice("web-1", ports, &[&ip])).unwrap();
    let service = Service::new("web", 20).port("a", Proto::Tcp, 80, 8080, Some(30080));
    cluster.directory.put_service(&service).unwrap();
    let at = |port| cluster.lab.nodes[0].addresses.at(Family::V4, port);
    becomes(client, Proto::Tcp, at(30080), pod.name());
    assert_eq!(client.probe(Proto::Tcp, at(30081)).unwrap(), Outcome::Refused);
    let service = service.port("b", Proto::Tcp, 81, 9090, Some(30081));
    cluster.directory.put_service(&service).unwrap();
    becomes(client, Proto::Tcp, at(30081), pod.name());
}

#[test]
fn connections_of_one_port_live_while_another_is_deleted_or_renumbered() {
    let Some(cluster) = start() else { return };
    let client = &cluster.lab.client.worker;
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    let a = Service::new("web", 20).port("a", Proto::Tcp, 80, 8080, Some(30080));
    for family in FAMILIES {
        let both = a.clone().port("b", Proto::Tcp, 81, 9090, Some(30081));
        cluster.put(&both, &endpoints).unwrap();
        let at = |port| cluster.lab.nodes[0].addresses.at(family, port);
        let stream =
            client.monitor(MonitorKind::Stream, at(30080), Duration::from_millis(2)).unwrap();
        let moved = a.clone().port("b", Proto::Tcp, 81, 9090, Some(30082));
        cluster.put(&moved, &endpoints).unwrap();
        until("the new node port", PATIENCE, || {
            Ok(client.probe(Proto::Tcp, at(30082))?.by().map(drop))
        })
        .unwrap();
        becomes(client, Proto::Tcp, at(30081), "refused");
        cluster.put(&a, &endpoints).unwrap();
        becomes(client, Proto::Tcp, at(30082), "refused");
        let seen = client.end(stream).unwrap();
        assert!(seen.answered > 0 && seen.lost == 0 && seen.broken.is_empty(), "{seen:?}");
    }
}
