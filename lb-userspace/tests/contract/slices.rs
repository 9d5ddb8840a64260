//! Random slices.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::discovery::v1::{
        Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    random::Random,
    world::{Name, PORT_NAMES, PROTOCOLS, SERVICES, owned},
};

const ENDPOINTS4: [&str; 8] = [
    "10.244.1.1",
    "10.244.1.2",
    "10.244.2.1",
    "10.244.2.2",
    "010.244.002.2",
    "192.0.2.1",
    "fd44::9",
    "10.244.1",
];
const ENDPOINTS6: [&str; 6] =
    ["fd44::1", "fd44::2", "fd44:0::3", "10.244.1.9", "::ffff:10.244.1.1", "fd44::x"];
const NODES: [Option<&str>; 6] =
    [Some("n1"), Some("n1"), Some("n2"), Some("N1"), Some("n1.example"), None];

/// A slice.
pub(crate) fn slice(random: &mut Random, name: &Name) -> EndpointSlice {
    let mut labels = BTreeMap::new();
    match random.below(20) {
        0 => {}
        1 => drop(labels.insert(owned("kubernetes.io/service-name"), String::new())),
        _ => {
            let service = owned(random.pick(&SERVICES));
            let _none = labels.insert(owned("kubernetes.io/service-name"), service);
        }
    }
    if random.percent(4) {
        let _none = labels.insert(owned("service.kubernetes.io/headless"), String::new());
    }
    let (family, pool): (_, &[&str]) = match random.below(16) {
        0 => ("FQDN", &["a.example"]),
        1..11 => ("IPv4", &ENDPOINTS4),
        _ => ("IPv6", &ENDPOINTS6),
    };
    // Real slices have hints on all endpoints or on none.
    let hinted = random.pick(&[0, 90, 100, 100, 100]);
    let ports = (0..1 + random.below(3)).map(|_| EndpointPort {
        name: (!random.percent(4)).then(|| owned(random.pick(&PORT_NAMES))),
        port: random.pick(&[Some(8080), Some(8080), Some(8081), Some(8080), Some(0), None]),
        protocol: random.pick(&PROTOCOLS).map(owned),
        app_protocol: None,
    });
    let ports: Vec<EndpointPort> = ports.collect();
    let endpoints = (0..random.below(6)).map(|_| endpoint(random, pool, hinted));
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: Some(owned(name.0)),
            name: Some(name.1.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        address_type: owned(family),
        endpoints: Some(endpoints.collect()),
        ports: Some(ports),
    }
}

fn endpoint(random: &mut Random, pool: &[&str], hinted: usize) -> Endpoint {
    let truth = |random: &mut Random, yes: usize| match random.below(10) {
        0 => None,
        _ => Some(random.percent(yes)),
    };
    let conditions = match random.below(10) {
        0 => None,
        1 => Some(EndpointConditions::default()),
        _ => Some(EndpointConditions {
            ready: truth(random, 55),
            serving: truth(random, 70),
            terminating: truth(random, 40),
        }),
    };
    let hints = random.percent(hinted).then(|| {
        let (some, any) = (1 + random.below(2), random.below(3));
        let nodes: Vec<&str> = (0..any).map(|_| random.pick(&["n1", "n2", "n3"])).collect();
        let zones: Vec<&str> = (0..some).map(|_| random.pick(&["z1", "z2"])).collect();
        let nodes = nodes.into_iter().map(|name| ForNode { name: owned(name) });
        let zones = zones.into_iter().map(|name| ForZone { name: owned(name) });
        EndpointHints {
            for_nodes: random.percent(80).then(|| nodes.collect()),
            for_zones: random.percent(95).then(|| zones.collect()),
        }
    });
    let mut addresses = random.some(pool, 1);
    if !random.percent(3) {
        addresses = vec![random.pick(pool)];
    }
    if random.percent(5) {
        addresses.push(random.pick(pool));
    }
    Endpoint {
        addresses: addresses.into_iter().map(owned).collect(),
        conditions,
        hints,
        node_name: random.pick(&NODES).map(owned),
        zone: random.pick(&[None, Some("z1")]).map(owned),
        ..Endpoint::default()
    }
}
