//! What the maps hold: a few Services of every sort, the same in both families, in memory.

use std::net::IpAddr;

use lb_common::{
    Addr4, Addr6, Address, BackendSets, BackendState, BackendValue, DeviceRole, DeviceValue,
    FrontendKey, FrontendKind, FrontendValue, MacAddr, NextHop, Settings, proto,
};
use lb_ebpf::{
    Route,
    host::{MemoryEnv, MemoryTables},
    refuse::Answer,
};

use super::ground::Ground;

/// Both families.
pub struct Scene {
    /// IPv4.
    pub v4: World<Addr4>,
    /// IPv6.
    pub v6: World<Addr6>,
}

/// One family: maps, routes and devices.
pub struct World<A: Answer> {
    /// The maps.
    pub tables: MemoryTables<A>,
    /// The node around them.
    pub env: MemoryEnv<A>,
}

/// Room for flow entries in each family: small, so that it runs full.
pub(super) const MAX_FLOWS: u32 = 500;

/// The constants of the programs: jiffies count for nothing in a test that takes seconds.
pub(super) const SETTINGS: Settings = Settings {
    hz: 100_000,
    udp_unreplied: 3000,
    udp_replied: 12_000,
    snat_first: 16384,
    snat_count: 16384,
    socket_all: 0,
    pad: 0,
    host_netns_cookie: 0,
};

impl Scene {
    /// The Services, for a node on this ground.
    pub fn new(ground: &Ground) -> Self {
        // Both families share the slots and the counters of backends.
        Self { v4: World::new(ground, 1), v6: World::new(ground, 1000) }
    }

    /// The devices, both families' addresses together.
    pub fn devices(&self) -> impl Iterator<Item = (u32, DeviceValue)> {
        self.v4.env.devices.iter().map(|(ifindex, device)| (*ifindex, *device))
    }
}

/// The address of this name.
///
/// # Panics
/// When there is none.
pub fn addr<A: Address>(name: &str) -> A {
    let (v4, v6) = match name {
        "node" => ("192.0.2.1", "2001:db8:1::1"),
        "router" => ("192.0.2.254", "2001:db8:1::fe"),
        "unresolved" => ("192.0.2.77", "2001:db8:1::77"),
        "node-at-pods" => ("10.1.0.1", "2001:db8:a1::1"),
        "pod" => ("10.1.0.5", "2001:db8:a1::5"),
        "other-pod" => ("10.1.0.6", "2001:db8:a1::6"),
        "remote-pod" => ("10.2.0.9", "2001:db8:a2::9"),
        "client" => ("198.51.100.7", "2001:db8:f::7"),
        "vip" => ("10.96.0.10", "fd00:10:96::a"),
        "other-vip" => ("10.96.0.11", "fd00:10:96::b"),
        "loopback" => ("127.0.0.1", "::1"),
        _ => panic!("no address is called {name}"),
    };
    let ip: IpAddr =
        if A::FAMILY == lb_common::Family::V4 { v4 } else { v6 }.parse().expect("an address");
    A::from_ip(ip).expect("an address of the family")
}

impl<A: Answer> World<A> {
    fn new(ground: &Ground, first_id: u32) -> Self {
        let mut tables = MemoryTables::new(MAX_FLOWS as usize);
        tables.slots.resize(first_id as usize, 0);
        let mut env = MemoryEnv { generation: 1, settings: SETTINGS, ..MemoryEnv::default() };
        let device = |name4: &str, name6: &str, role: DeviceRole| DeviceValue {
            snat4: addr(name4),
            snat6: addr(name6),
            role: role as u8,
            pad: [0; 3],
        };
        let at_pods = device("node-at-pods", "node-at-pods", DeviceRole::Workload);
        let lo = DeviceValue { role: DeviceRole::Loopback as u8, ..DeviceValue::default() };
        for (ifindex, value) in [
            (Ground::LOOPBACK, lo),
            (ground.external, device("node", "node", DeviceRole::External)),
            (ground.pod, at_pods),
            (ground.other_pod, at_pods),
        ] {
            let _ = env.devices.insert(ifindex, value);
        }
        let via = |ifindex, dmac: MacAddr, smac: MacAddr| {
            Route::Via(NextHop { ifindex, generation: 1, dmac, smac })
        };
        let router = via(ground.external, Ground::ROUTER, Ground::OWN);
        for (name, route) in [
            ("node", Route::Local),
            ("node-at-pods", Route::Local),
            ("loopback", Route::Local),
            ("pod", via(ground.pod, Ground::POD, Ground::POD_OWN)),
            ("other-pod", via(ground.other_pod, Ground::OTHER_POD, Ground::OTHER_POD_OWN)),
            ("remote-pod", router),
            ("client", router),
            ("router", router),
            ("unresolved", Route::Unresolved(ground.external)),
        ] {
            let _ = env.routes.insert(addr(name), route);
        }
        let mut world = Self { tables, env };
        world.fill(first_id);
        world
    }

    fn fill(&mut self, first_id: u32) {
        use FrontendKind::{ClusterIp, NodePort};
        let services: [(FrontendKind, &str, u16, &[&str]); 12] = [
            (ClusterIp, "vip", 80, &["pod", "other-pod", "remote-pod"]),
            (ClusterIp, "vip", 81, &[]),
            (ClusterIp, "vip", 85, &["unresolved"]),
            (ClusterIp, "other-vip", 80, &["other-pod"]),
            (ClusterIp, "other-vip", 82, &["pod"]),
            (ClusterIp, "other-vip", 83, &["node"]),
            (ClusterIp, "other-vip", 84, &["nobody"]),
            (NodePort, "node", 30000, &["remote-pod", "pod", "other-pod"]),
            (NodePort, "node", 30001, &[]),
            (NodePort, "node", 30002, &["unresolved"]),
            (NodePort, "node", 30003, &["node"]),
            (NodePort, "loopback", 30000, &["remote-pod", "pod"]),
        ];
        let mut id = first_id;
        for proto in [proto::TCP, proto::UDP] {
            for (kind, name, port, backends) in services {
                let service = id;
                let base = len(&self.tables.slots);
                for backend in backends {
                    self.tables.slots.push(id);
                    if *backend != "nobody" {
                        let value = BackendValue {
                            addr: addr(backend),
                            port: 8080,
                            proto,
                            state: BackendState::Serving as u8,
                            service,
                            sets: BackendSets::CLUSTER,
                            ..BackendValue::default()
                        };
                        let _ = self.tables.backends.insert(id, value);
                    } else {
                        // Free: the kernel's array holds zeros.
                        let _ = self.tables.backends.insert(id, BackendValue::default());
                    }
                    id += 1;
                }
                let value = FrontendValue {
                    service,
                    base,
                    len: len(backends),
                    kind: kind as u8,
                    ..FrontendValue::default()
                };
                self.tables.add_frontend(FrontendKey::new(addr(name), port, proto), value);
                id += 1;
            }
        }
        for vip in ["vip", "other-vip"] {
            let marker = FrontendValue::default();
            self.tables.add_frontend(FrontendKey::marker(addr(vip)), marker);
        }
    }
}

fn len<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("a few items")
}
