//! Attempts to take addresses by external IPs, and what of a load balancer's entries is served.

use std::time::Duration;

use lb_tests::{
    cluster::{Ingress, Service, ServiceType},
    lab::{FAMILIES, Family, PATIENCE, external_address, load_balancer_address, until},
    worker::{MonitorKind, Proto, UdpStyle},
};

use crate::{Attempts, TCP, UDP, Want, clients, endpoints, start, web};

/// EIP-5: an external IP that is the node's own address takes nothing from the node, and that is told;
/// with `--external-ips=all` it does, as with kube-proxy. SVC-17: there it goes before a node port.
#[test]
fn an_external_ip_takes_the_nodes_own_address_only_when_that_is_allowed() {
    for (flags, stolen) in
        [(&["--xdp=off"][..], false), (&["--xdp=off", "--external-ips=all"], true)]
    {
        let Some(cluster) = start(flags) else { return };
        let node = &cluster.lab.nodes[0];
        let thief = Service::new("thief", 1).external(node.addresses).port(
            "tcp",
            Proto::Tcp,
            22,
            8080,
            None,
        );
        cluster.put(&thief, &endpoints(&cluster)).unwrap();
        let client = &cluster.lab.client.worker;
        for family in FAMILIES {
            let at = node.addresses.at(family, 22);
            node.host.serve(Proto::Tcp, at).unwrap();
            let by = client.probe(Proto::Tcp, at).unwrap();
            let taken = by.by().is_some_and(|by| by.starts_with("pod"));
            assert_eq!(taken, stolen, "{at} with {flags:?}: {by}");
            assert!(by.by().is_some(), "{at} with {flags:?}: {by}");
        }
        let told = |status: &serde_json::Value| {
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            problems.iter().any(|problem| {
                let text = problem.to_string();
                text.contains("default/thief") && text.contains(&node.addresses.v4.to_string())
            })
        };
        if !stolen {
            let _status = cluster.agents[0].wait_status("the refusal in lb status", told).unwrap();
        }
    }
}

/// EIP-7: nothing is programmed where external IPs are switched off.
#[test]
fn external_ips_that_are_switched_off_serve_nobody() {
    let Some(cluster) = start(&["--xdp=off", "--external-ips=off"]) else { return };
    cluster.put(&web(1), &endpoints(&cluster)).unwrap();
    let mut tried = Attempts::default();
    for family in FAMILIES {
        for (who, by, _) in clients(&cluster) {
            tried.attempt(who, by, TCP, external_address(1).at(family, 80), Want::Untouched);
            tried.attempt(who, by, UDP, external_address(1).at(family, 80), Want::Untouched);
            tried.attempt(who, by, TCP, load_balancer_address(1).at(family, 80), Want::Served);
        }
    }
    tried.end();
}

/// LB-2, LB-4, LB-8, FAM-7: of a mixed list exactly the addresses of mode VIP are served.
#[test]
fn of_mixed_ingress_entries_exactly_the_vips_are_served() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let (vip, proxy) = (load_balancer_address(1), load_balancer_address(2));
    let entry = |ip, mode| Ingress { ip, mode };
    let service = Service {
        kind: ServiceType::LoadBalancer,
        ingress: vec![
            entry(vip.v4, Some("VIP")),
            entry(proxy.v4, Some("Proxy")),
            entry(proxy.v6, Some("Proxy")),
            entry(vip.v6, None),
        ],
        ..Service::new("web", 1).port("tcp", Proto::Tcp, 80, 8080, None)
    };
    cluster.put(&service, &endpoints(&cluster)).unwrap();
    let mut tried = Attempts::default();
    for family in [Family::V4, Family::V6] {
        for (who, by, _) in clients(&cluster) {
            tried.attempt(who, by, TCP, vip.at(family, 80), Want::Served);
            tried.attempt(who, by, TCP, proxy.at(family, 80), Want::Untouched);
            tried.attempt(who, by, TCP, vip.at(family, 81), Want::Untouched);
        }
    }
    tried.end();
}

/// LB-5: another mode counts for new connections; those that are established live on.
#[test]
fn another_ip_mode_counts_for_new_connections_only() {
    let Some(cluster) = start(&["--xdp=off"]) else { return };
    let service = |mode| {
        let ips = load_balancer_address(1).both();
        Service {
            kind: ServiceType::LoadBalancer,
            ingress: ips.map(|ip| Ingress { ip, mode: Some(mode) }).into(),
            ..Service::new("web", 1).port("tcp", Proto::Tcp, 80, 8080, None)
        }
    };
    cluster.put(&service("VIP"), &endpoints(&cluster)).unwrap();
    let pod = &cluster.lab.nodes[0].pods[0].worker;
    for family in FAMILIES {
        let vip = load_balancer_address(1).at(family, 80);
        let every = Duration::from_millis(20);
        let stream = pod.monitor(MonitorKind::Stream, vip, every).unwrap();
        let answers = |more: u64| {
            until(&format!("{more} answers"), PATIENCE, || {
                Ok((pod.peek(stream)?.answered >= more).then_some(()))
            })
            .unwrap();
        };
        answers(5);
        for (mode, served) in [("Proxy", false), ("VIP", true)] {
            cluster.directory.put_service(&service(mode)).unwrap();
            until(&format!("{vip} to be served: {served}"), PATIENCE, || {
                let wait = Duration::from_millis(300);
                let got = pod.probe_with(Proto::Tcp, UdpStyle::Connected, vip, None, wait)?;
                Ok((got.by().is_some() == served).then_some(()))
            })
            .unwrap();
            answers(pod.peek(stream).unwrap().answered + 5);
        }
        let report = pod.end(stream).unwrap();
        assert!(report.broken.is_empty() && report.lost == 0, "{vip}: {report:?}");
    }
}
