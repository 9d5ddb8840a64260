//! What the maps hold: a few Services of every sort, the same in both families, in memory.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    Addr4, Addr6, Address, BackendSets, BackendState, BackendValue, DeviceRole, DeviceValue,
    FrontendKey, FrontendKind, FrontendValue, Location, MacAddr, NextHop, Runtime, Settings,
    XdpDevice, proto,
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
    external: u32,
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
        Self { v4: World::new(ground, 1), v6: World::new(ground, 1000), external: ground.external }
    }

    /// What XDP may do at the devices.
    pub fn xdp_devices(&self) -> [XdpDevice; 1] {
        let flags = XdpDevice::RECEIVES | XdpDevice::TRANSMITS;
        [XdpDevice { ifindex: self.external, mac: Ground::OWN, flags, pad: 0 }]
    }

    /// What the agent would have written into the maps that it changes while the programs run.
    pub fn runtime(&self) -> Runtime {
        let env = &self.v4.env;
        let mut flags = 0;
        if !env.stack_only {
            flags |= Runtime::SHORTCUT;
        }
        if env.source_rules {
            flags |= Runtime::SOURCE_RULES;
        }
        Runtime { generation: env.generation, flags, ..Runtime::default() }
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
        "public" => ("203.0.113.10", "2001:db8:b::a"),
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
        let mut env = MemoryEnv {
            generation: 1,
            settings: SETTINGS,
            transmitters: vec![ground.external],
            ..MemoryEnv::default()
        };
        let device = |name4: &str, name6: &str, role: DeviceRole| DeviceValue {
            snat4: addr(name4),
            snat6: addr(name6),
            role: role as u8,
            ethernet: 1,
            pad: [0; 2],
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
            Route::Via(NextHop { ifindex, generation: 1, mtu: 1500, dmac, smac })
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
        let mut id = first_id;
        for proto in [proto::TCP, proto::UDP, proto::SCTP] {
            for service in SERVICES {
                id = self.offer(service, proto, id);
            }
        }
        for vip in ["vip", "other-vip"] {
            let marker = FrontendValue::default();
            self.tables.add_frontend(FrontendKey::marker(addr(vip)), marker);
        }
        let bits = 8 * u8::try_from(size_of::<A>()).expect("an address");
        self.tables.ranges =
            vec![(CLIENTS, addr("client"), bits), (CLIENTS, addr("node"), bits / 4 * 3)];
    }

    /// Adds a Service whose id, and that of its first backend, is `id`; returns the next free one.
    fn offer(&mut self, offered: &Offered, proto: u8, mut id: u32) -> u32 {
        let Offered { kind, name, port, cluster, local, policy, ranges, affinity } = *offered;
        let service = id;
        let base = len(&self.tables.slots);
        let sets = [(cluster, BackendSets::CLUSTER), (local, BackendSets::LOCAL)];
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        for (names, bit) in sets {
            for backend in names {
                let number = *ids.entry(backend).or_insert_with(|| {
                    id += 1;
                    id - 1
                });
                self.tables.slots.push(number);
                // Free: the kernel's array holds zeros.
                let value = self.tables.backends.entry(number).or_default();
                if *backend != "nobody" {
                    *value = BackendValue {
                        addr: addr(backend),
                        port: 8080,
                        proto,
                        state: BackendState::Serving as u8,
                        service,
                        location: location(backend) as u8,
                        sets: value.sets | bit,
                        ..BackendValue::default()
                    };
                }
            }
        }
        let value = FrontendValue {
            service,
            base,
            len: len(cluster),
            local_len: len(local),
            ranges,
            affinity,
            kind: kind as u8,
            local: policy,
            pad: 0,
        };
        self.tables.add_frontend(FrontendKey::new(addr(name), port, proto), value);
        id + 1
    }
}

/// A Service of the scene.
#[derive(Clone, Copy)]
struct Offered {
    kind: FrontendKind,
    name: &'static str,
    port: u16,
    cluster: &'static [&'static str],
    local: &'static [&'static str],
    /// 1 when the policy that governs the kind is Local.
    policy: u8,
    ranges: u32,
    affinity: u32,
}

impl Offered {
    const fn new(
        kind: FrontendKind,
        name: &'static str,
        port: u16,
        cluster: &'static [&'static str],
    ) -> Self {
        Self { kind, name, port, cluster, local: &[], policy: 0, ranges: 0, affinity: 0 }
    }

    const fn local(self, local: &'static [&'static str]) -> Self {
        Self { local, policy: 1, ..self }
    }

    const fn sticky(self, affinity: u32) -> Self {
        Self { affinity, ..self }
    }

    const fn ranges(self, ranges: u32) -> Self {
        Self { ranges, ..self }
    }
}

/// What the slices say of where a backend is: of some they do not.
fn location(name: &str) -> Location {
    match name {
        "pod" => Location::Here,
        "remote-pod" => Location::Elsewhere,
        _ => Location::Unknown,
    }
}

/// The set of ranges that has clients outside and the node in it, and no pod.
const CLIENTS: u32 = 7;

const SERVICES: &[Offered] = {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    const ALL: &[&str] = &["pod", "other-pod", "remote-pod"];
    &[
        Offered::new(ClusterIp, "vip", 80, ALL),
        Offered::new(ClusterIp, "vip", 81, &[]),
        Offered::new(ClusterIp, "vip", 85, &["unresolved"]),
        Offered::new(ClusterIp, "vip", 86, ALL).local(&["pod", "other-pod"]),
        Offered::new(ClusterIp, "vip", 87, ALL).local(&[]),
        Offered::new(ClusterIp, "vip", 88, ALL).sticky(10_800),
        Offered::new(ClusterIp, "other-vip", 80, &["other-pod"]),
        Offered::new(ClusterIp, "other-vip", 82, &["pod"]),
        Offered::new(ClusterIp, "other-vip", 83, &["node"]),
        Offered::new(ClusterIp, "other-vip", 84, &["nobody"]),
        Offered::new(NodePort, "node", 30000, &["remote-pod", "pod", "other-pod"]),
        Offered::new(NodePort, "node", 30001, &[]),
        Offered::new(NodePort, "node", 30002, &["unresolved"]),
        Offered::new(NodePort, "node", 30003, &["node"]),
        Offered::new(NodePort, "node", 30004, &["remote-pod"]).local(&["other-pod"]),
        Offered::new(NodePort, "node", 30005, ALL).local(&["pod", "other-pod"]).sticky(10_800),
        Offered::new(NodePort, "node", 30006, &["remote-pod"]),
        Offered::new(NodePort, "loopback", 30000, &["remote-pod", "pod"]),
        Offered::new(ExternalIp, "public", 80, ALL),
        Offered::new(ExternalIp, "public", 81, &["remote-pod"]).local(&[]),
        Offered::new(LoadBalancer, "public", 82, &["other-pod"]).ranges(CLIENTS),
        Offered::new(LoadBalancer, "public", 83, ALL).local(&["other-pod"]).ranges(CLIENTS),
        Offered::new(LoadBalancer, "public", 84, &[]).ranges(CLIENTS),
    ]
};

fn len<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("a few items")
}
