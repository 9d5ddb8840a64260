//! Conversions, object by object.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::model::{Exposure, Service, Slice, TrafficPolicy};

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A Service with VIPs of both families, and these fields besides.
fn convert(spec: Value, status: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.1", "fd96::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"port": 80}],
        },
        "status": status,
    });
    let fields = spec.as_object().expect("fields").clone();
    object["spec"].as_object_mut().expect("fields").extend(fields);
    service(&typed(object), None).expect("a Service")
}

fn text<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn remarks(service: &Service) -> Vec<&str> {
    service.remarks.iter().map(|remark| &*remark.reason).collect()
}

fn ranges(list: Value) -> (Service, [Option<Vec<String>>; 2]) {
    let ingress = json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]);
    let status = json!({"loadBalancer": {"ingress": ingress}});
    let service = convert(json!({"loadBalancerSourceRanges": list}), status);
    let both = [&service.source_ranges.v4, &service.source_ranges.v6];
    let both = both.map(|ranges| ranges.as_ref().map(|ranges| text(ranges)));
    (service, both)
}

fn some(list: &[&str]) -> Option<Vec<String>> {
    Some(text(list))
}

/// SVC-3, LB-1, LB-2, LB-3, LB-4, FAM-7, FAM-10, FAM-11.
#[test]
fn each_address_of_a_load_balancer_counts_by_its_mode() {
    let ingress = json!([
        {"ip": "192.0.2.9"},
        {"ip": "010.0.0.7", "ipMode": "VIP"},
        {"ip": "192.0.2.8", "ipMode": "Proxy"},
        {"hostname": "lb.example"},
        {"ip": "2001:db8::1", "hostname": "lb.example"},
        {"ip": "192.0.2.9"},
        {"ip": "10.96.0.1"},
        {"ip": "::ffff:192.0.2.1"},
        {"ip": ""},
    ]);
    let status = json!({"loadBalancer": {"ingress": ingress}});
    let service = convert(json!({}), status.clone());
    assert_eq!(text(&service.load_balancer_ips), ["10.0.0.7", "192.0.2.9", "2001:db8::1"]);
    let mapped = "address of the load balancer ::ffff:192.0.2.1 is an IPv4-mapped IPv6 address: \
                  not programmed";
    assert_eq!(remarks(&service), [mapped]);

    let one_family = json!({"clusterIPs": ["fd96::1"], "ipFamilies": ["IPv6"]});
    let service = convert(one_family, status.clone());
    assert_eq!(text(&service.load_balancer_ips), ["2001:db8::1"]);

    let service = convert(json!({"type": "NodePort"}), status);
    assert_eq!(text(&service.load_balancer_ips), [""; 0]);
    assert_eq!(service.remarks.len(), 1, "{:?}", service.remarks);
}

/// EIP-1, FAM-7, FAM-10, FAM-11.
#[test]
fn external_ips_are_kept_apart_from_other_addresses_of_the_service() {
    let external = json!([
        "203.0.113.2",
        "203.0.113.002",
        "2001:db8::2",
        "10.96.0.1",
        "192.0.2.9",
        "192.0.2.8",
        "::ffff:192.0.2.1",
        "nonsense",
        "127.0.0.1",
    ]);
    let ingress = json!([{"ip": "192.0.2.9"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]);
    let status = json!({"loadBalancer": {"ingress": ingress}});
    let service = convert(json!({"externalIPs": external}), status);
    assert_eq!(text(&service.load_balancer_ips), ["192.0.2.9"]);
    assert_eq!(text(&service.external_ips), ["192.0.2.8", "203.0.113.2", "2001:db8::2"]);
    assert_eq!(
        remarks(&service),
        [
            "external IP ::ffff:192.0.2.1 is an IPv4-mapped IPv6 address: not programmed",
            "external IP \"nonsense\" is not an IP address: not programmed",
            "external IP 127.0.0.1 is a loopback address: not programmed",
        ]
    );

    let one_family = json!({
        "clusterIPs": ["fd96::1"], "ipFamilies": ["IPv6"], "externalIPs": ["203.0.113.2"],
    });
    let service = convert(one_family, json!({}));
    assert_eq!(text(&service.external_ips), [""; 0]);
    let without = "external IP 203.0.113.2: the Service has no IPv4 cluster IP: not programmed";
    assert_eq!(remarks(&service), [without]);
}

/// SR-4, SR-5, SR-10, FAM-7, FAM-10.
#[test]
fn source_ranges_are_by_family_and_never_open_by_a_typing_error() {
    let (service, both) = ranges(json!([]));
    assert_eq!((both, remarks(&service)), ([None, None], vec![]));

    let lists = json!(["fd00::/8", " 010.0.0.0/8 ", "10.1.2.3/8", "192.0.2.0/24"]);
    let (service, both) = ranges(lists);
    assert_eq!(both, [some(&["10.0.0.0/8", "192.0.2.0/24"]), some(&["fd00::/8"])]);
    assert_eq!(remarks(&service), [""; 0]);

    let (_, both) = ranges(json!(["10.0.0.0/8", "0.0.0.0/0", "fd00::/8"]));
    assert_eq!(both, [None, some(&["fd00::/8"])]);

    let (service, both) = ranges(json!(["10.0.0.0/8", "garbage"]));
    assert_eq!(both, [some(&["10.0.0.0/8"]), None]);
    assert_eq!(
        remarks(&service),
        [
            "source range \"garbage\" is not a network: ignored",
            "none of its source ranges is IPv6: everybody may use the IPv6 addresses of its load \
         balancer",
        ]
    );

    let (service, both) = ranges(json!(["garbage", "10.0.0.0/99"]));
    assert_eq!(both, [some(&[]), some(&[])]);
    assert!(remarks(&service)[2].contains("nobody may use"), "{:?}", service.remarks);

    let node_port = json!({"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]});
    assert_eq!(convert(node_port, json!({})).source_ranges, Default::default());
}

/// SR-9.
#[test]
fn source_ranges_in_an_annotation_are_not_read() {
    let object = json!({
        "metadata": {"name": "web", "annotations": {
            "service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8",
        }},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    let service = service(&typed(object), None).expect("a Service");
    assert_eq!((service.exposure, &service.source_ranges.v4), (Exposure::Vips, &None));
}

/// TP-1, TP-3, HC-1.
#[test]
fn policies_count_where_they_mean_something() {
    use TrafficPolicy::{Cluster, Local};
    let both = json!({
        "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30000,
    });
    for (more, external, check) in [
        (json!({"type": "LoadBalancer"}), Local, Some(30000)),
        (json!({"type": "NodePort"}), Local, None),
        (json!({"type": "ClusterIP"}), Cluster, None),
        (json!({"type": null}), Cluster, None),
        (json!({"type": "ClusterIP", "externalIPs": ["203.0.113.2"]}), Local, None),
        (json!({"externalTrafficPolicy": "Cluster"}), Cluster, None),
        (json!({"externalTrafficPolicy": null}), Cluster, None),
        (json!({"healthCheckNodePort": 0}), Local, None),
        (json!({"healthCheckNodePort": null}), Local, None),
    ] {
        let mut spec = both.clone();
        spec.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        let service = convert(spec, json!({}));
        assert_eq!(service.internal_policy, Local, "{more}");
        assert_eq!(service.external_policy, external, "{more}");
        assert_eq!(service.health_check_node_port, check, "{more}");
        assert_eq!(remarks(&service), [""; 0], "{more}");
    }
    let odd = json!({
        "internalTrafficPolicy": "local", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 70000,
    });
    let service = convert(odd, json!({}));
    assert_eq!((service.internal_policy, service.health_check_node_port), (Cluster, None));
    assert_eq!(service.remarks.len(), 2, "{:?}", service.remarks);
}

/// AFF-2.
#[test]
fn affinity_has_a_time_that_makes_sense() {
    let config = |seconds: Value| json!({"clientIP": {"timeoutSeconds": seconds}});
    for (kind, config, seconds, problems) in [
        (json!("None"), json!(null), None, 0),
        (json!(null), config(json!(5)), None, 0),
        (json!("ClientIP"), json!(null), Some(10_800), 0),
        (json!("ClientIP"), json!({}), Some(10_800), 0),
        (json!("ClientIP"), config(json!(null)), Some(10_800), 0),
        (json!("ClientIP"), config(json!(1)), Some(1), 0),
        (json!("ClientIP"), config(json!(86_400)), Some(86_400), 0),
        (json!("ClientIP"), config(json!(0)), Some(1), 1),
        (json!("ClientIP"), config(json!(-7)), Some(1), 1),
        (json!("ClientIP"), config(json!(86_401)), Some(86_400), 1),
        (json!("clientip"), json!(null), None, 1),
    ] {
        let spec = json!({"sessionAffinity": kind, "sessionAffinityConfig": config});
        let service = convert(spec.clone(), json!({}));
        assert_eq!(service.affinity.map(|seconds| seconds.get()), seconds, "{spec}");
        assert_eq!(service.remarks.len(), problems, "{spec} {:?}", service.remarks);
    }
}

fn slice_of(ports: Value, endpoints: Value) -> Slice {
    let object = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    });
    slice(&typed(object), None).expect("a slice")
}

/// PORT-4, PORT-5, PORT-6.
#[test]
fn ports_of_slices_that_say_too_little_are_left_out() {
    let ports = json!([
        {"name": null, "port": 8080, "protocol": "TCP"},
        {"name": "a", "port": null, "protocol": "TCP"},
        {"name": "b", "port": 0, "protocol": "TCP"},
        {"name": "c", "port": 8080, "protocol": null},
        {"name": "", "port": 8081, "protocol": "SCTP"},
    ]);
    let slice = slice_of(ports, json!([]));
    let left: Vec<_> = slice.ports.iter().map(|p| (&*p.name, p.proto, p.port)).collect();
    assert_eq!(left, [("c", proto::TCP, 8080), ("", proto::SCTP, 8081)]);
    assert_eq!(slice.remarks.len(), 3, "{:?}", slice.remarks);
}

/// ES-4, ES-5, ES-6, ES-15, TOP-1, TOP-6.
#[test]
fn endpoints_keep_what_decides_who_gets_them() {
    let hints = json!({
        "forNodes": [{"name": "n2"}, {"name": "n1"}, {"name": "n1"}], "forZones": [{"name": "z1"}],
    });
    let endpoints = json!([
        {"addresses": ["10.244.1.1", "10.244.1.9"], "nodeName": "n1", "zone": "z1", "hints": hints},
        {"addresses": ["10.244.1.2"], "nodeName": "n1", "hints": hints, "conditions": {}},
        {"addresses": ["10.244.1.3"], "nodeName": "", "hints": {}, "zone": "z1",
         "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": []},
        {"addresses": ["fd44::1"]},
    ]);
    let slice = slice_of(json!([{"name": "", "port": 8080}]), endpoints);
    let [one, two, three] = &slice.endpoints[..] else { panic!("{:?}", slice.endpoints) };
    assert_eq!(text(&[one.addr, two.addr, three.addr]), ["10.244.1.1", "10.244.1.2", "10.244.1.3"]);
    let flags = |c: crate::model::Conditions| (c.ready, c.serving, c.terminating);
    assert_eq!(flags(one.conditions), (true, true, false));
    assert_eq!(flags(two.conditions), (true, true, false));
    assert_eq!(flags(three.conditions), (false, true, true));
    assert_eq!((one.node.as_deref(), three.node.as_deref()), (Some("n1"), None));
    let hints = one.hints.as_deref().expect("hints");
    assert_eq!((text(&hints.nodes), text(&hints.zones)), (text(&["n1", "n2"]), text(&["z1"])));
    assert!(std::sync::Arc::ptr_eq(
        one.hints.as_ref().expect("hints"),
        two.hints.as_ref().expect("hints")
    ));
    assert_eq!(three.hints, None);
    assert_eq!(slice.remarks.len(), 2, "{:?}", slice.remarks);
}

/// NODE-4.
#[test]
fn the_networks_of_pods_are_not_read() {
    let object = |network: &str| {
        let spec = json!({"podCIDR": network, "podCIDRs": [network, "fd00:10::/64"]});
        node(&typed(json!({"metadata": {"name": "n1"}, "spec": spec})))
    };
    let without = node(&typed(json!({"metadata": {"name": "n1"}})));
    assert_eq!(object("10.244.0.0/24"), object("10.9.0.0/24"));
    assert_eq!(object("10.244.0.0/24"), without);
}

/// NODE-2, TOP-9, SVC-12.
#[test]
fn of_a_node_only_what_decides_something_is_read() {
    let object = |ready: &str| {
        typed(json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1", "a": "b"}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "ExternalIP", "address": "203.0.113.1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "2001:db8::1"},
                ],
            },
        }))
    };
    let ready = node(&object("True"));
    assert_eq!(ready, node(&object("False")));
    assert_eq!(ready.zone.as_deref(), Some("z1"));
    assert_eq!(text(&ready.addresses), ["192.0.2.1", "2001:db8::1", "203.0.113.1"]);
    let without = node(&typed(json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": ""}},
    })));
    assert_eq!(without.zone, None);
}
