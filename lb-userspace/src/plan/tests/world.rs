//! Random worlds: Services and slices as sources deliver them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::{Family, proto};
use proptest::prelude::*;

use crate::model::{
    Conditions, Endpoint, Event, ObjectName, Service, ServicePort, Slice, SlicePort,
};

/// Services and slices by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct World {
    pub(super) services: BTreeMap<ObjectName, Arc<Service>>,
    pub(super) slices: BTreeMap<ObjectName, Arc<Slice>>,
}

impl World {
    /// The events that lead from `self` to `other`.
    pub(super) fn events_to(&self, other: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        for name in self.services.keys().filter(|name| !other.services.contains_key(name)) {
            events.push(Event::DeleteService(name.clone()));
        }
        for name in self.slices.keys().filter(|name| !other.slices.contains_key(name)) {
            events.push(Event::DeleteSlice(name.clone()));
        }
        for (name, service) in &other.services {
            if self.services.get(name) != Some(service) {
                events.push(Event::PutService(service.clone()));
            }
        }
        for (name, slice) in &other.slices {
            if self.slices.get(name) != Some(slice) {
                events.push(Event::PutSlice(slice.clone()));
            }
        }
        events
    }
}

pub(super) fn name(index: u8) -> ObjectName {
    ObjectName::new("default", format!("s{index}"))
}

/// A small world, so that Services often want the same and endpoints often come back. The second
/// VIP of either family is an address of the node.
pub(super) fn world() -> impl Strategy<Value = World> {
    let services = proptest::collection::btree_map(0u8..5, service(), 0..5);
    let slices = proptest::collection::btree_map((0u8..5, 0u8..3), slice(), 0..8);
    (services, slices).prop_map(|(services, slices)| World {
        services: services
            .into_iter()
            .map(|(i, service)| (name(i), Arc::new(Service { name: name(i), ..service })))
            .collect(),
        slices: slices
            .into_iter()
            .map(|((of, i), slice)| {
                let name = ObjectName::new("default", format!("s{of}-{i}"));
                let service = Some(format!("s{of}").into());
                (name.clone(), Arc::new(Slice { name, service, ..slice }))
            })
            .collect(),
    })
}

fn service() -> impl Strategy<Value = Service> {
    let vip4 = proptest::option::weighted(0.9, 0usize..3);
    let vip6 = proptest::option::of(0usize..3);
    let node_port = || proptest::option::of(0u16..3);
    let ports = proptest::collection::btree_map(0usize..3, (0u16..2, node_port()), 0..3);
    let created = proptest::option::of(0i64..3);
    (vip4, vip6, ports, created).prop_map(|(vip4, vip6, ports, created)| {
        let vips4 = [[10, 96, 0, 1], [192, 0, 2, 1], [10, 96, 0, 3]];
        let vips6 = ["fd96::1", "2001:db8::1", "fd96::3"];
        let mut service = Service {
            created,
            vip4: vip4.map(|i| vips4[i].into()),
            vip6: vip6.map(|i| vips6[i].parse().expect("an address")),
            ..Service::new(name(0))
        };
        for (kind, (port, node_port)) in ports {
            let (name, proto) = PORTS[kind];
            let port = 30080 + port;
            if service.ports.iter().any(|other| other.proto == proto && other.port == port) {
                continue;
            }
            let taken = |n: &u16| {
                service.ports.iter().any(|o| o.proto == proto && o.node_port == Some(30080 + n))
            };
            let node_port = node_port.filter(|n| !taken(n)).map(|n| 30080 + n);
            service.ports.push(ServicePort { name: name.into(), proto, port, node_port });
        }
        service
    })
}

const PORTS: [(&str, u8); 3] = [("http", proto::TCP), ("dns", proto::UDP), ("admin", proto::TCP)];

fn slice() -> impl Strategy<Value = Slice> {
    let endpoints = proptest::collection::vec((0u8..6, 0u8..8), 0..6);
    let ports = proptest::collection::vec((0usize..3, 0u16..2), 0..4);
    (any::<bool>(), ports, endpoints).prop_map(|(v4, ports, endpoints)| Slice {
        ports: ports
            .into_iter()
            .map(|(kind, port)| {
                let (name, proto) = PORTS[kind];
                SlicePort { name: name.into(), proto, port: 8080 + port }
            })
            .collect(),
        endpoints: endpoints
            .into_iter()
            .map(|(host, conditions)| {
                let addr = match v4 {
                    true => IpAddr::from([10, 244, 0, host + 1]),
                    false => IpAddr::from([0xfd44, 0, 0, 0, 0, 0, 0, u16::from(host) + 1]),
                };
                Endpoint::new(
                    addr,
                    Conditions {
                        ready: conditions & 1 != 0,
                        serving: conditions & 2 != 0,
                        terminating: conditions & 4 != 0,
                    },
                )
            })
            .collect(),
        ..Slice::new(name(0), if v4 { Family::V4 } else { Family::V6 })
    })
}
