//! The content of the maps at one moment, without map types: what every table is made of.
//!
//! Pure data, so that tables are tested without a kernel. Both families are in one list each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    Action, Addr4, Addr6, Address, BackendStats, DeviceValue, FlowKey, FlowValue, FrontendKey,
    FrontendKind, FrontendValue, Hook, Reason, Runtime, Schema, SockDirection, SockKey, SockValue,
    names,
};

use crate::{
    maps::Contents,
    plan::{Backend, BackendId, Frontend, ServiceId},
};

/// The content of the maps at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the agent wrote.
    pub contents: Contents,
    /// What each backend got.
    pub stats: BTreeMap<BackendId, BackendStats>,
    /// Flow entries.
    pub flows: Vec<Flow>,
    /// Translated sockets.
    pub socks: Vec<Sock>,
    /// Devices by interface index.
    pub devices: BTreeMap<u32, DeviceValue>,
    /// How often each reason was counted at each hook, zeros left out.
    pub reasons: Vec<(Hook, Reason, u64)>,
    /// Who made the maps.
    pub schema: Schema,
    /// What concerns the whole datapath.
    pub runtime: Runtime,
}

/// A frontend with its value.
pub type Programmed = (Frontend, FrontendValue);

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tuple {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// IANA protocol number.
    pub proto: u8,
}

/// One flow entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Packets as they arrive.
    pub key: Tuple,
    /// Packets as they leave.
    pub translated: Tuple,
    /// Backend.
    pub backend: BackendId,
    /// Service port.
    pub service: ServiceId,
    /// Jiffies of the last packet, low half.
    pub last_seen: u32,
    /// Bits of [`lb_common::Seen`].
    pub seen: u8,
    /// Hooks at which the entry applies.
    pub hooks: u8,
    /// Where packets go.
    pub action: Option<Action>,
    /// Whether this is the entry of the replies.
    pub reverse: bool,
    /// Packets so far.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// One translated socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sock {
    /// Cookie of the socket.
    pub cookie: u64,
    /// What the socket sends to.
    pub frontend: SocketAddr,
    /// What it reaches.
    pub backend_addr: SocketAddr,
    /// IANA protocol number.
    pub proto: u8,
    /// Backend.
    pub backend: BackendId,
    /// Service port.
    pub service: ServiceId,
    /// Jiffies of the last use, low half.
    pub last_seen: u32,
}

impl Flow {
    /// The entry as it lies in the flow maps of either family; `service` is its backend's.
    pub fn new<A: Address>(key: &FlowKey<A>, value: &FlowValue<A>, service: ServiceId) -> Self {
        Self {
            key: Tuple::new(key),
            translated: Tuple::new(&value.translated(key.proto)),
            backend: BackendId(value.backend),
            service,
            last_seen: value.last_seen,
            seen: value.seen,
            hooks: value.hooks,
            action: Action::from_u8(value.action),
            reverse: value.reverse != 0,
            packets: value.packets,
            bytes: value.bytes,
        }
    }
}

impl Tuple {
    fn new<A: Address>(key: &FlowKey<A>) -> Self {
        Self {
            src: SocketAddr::new(key.src.ip(), key.sport),
            dst: SocketAddr::new(key.dst.ip(), key.dport),
            proto: key.proto,
        }
    }

    /// The tuple of packets in the opposite direction.
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, proto: self.proto }
    }
}

impl Sock {
    /// The entry as it lies in the socket maps of either family; `None` for the entries that
    /// translate back, which say the same the other way round.
    pub fn new<A: Address>(key: &SockKey<A>, value: &SockValue<A>) -> Option<Self> {
        (key.direction == SockDirection::Out as u8).then(|| Self {
            cookie: u64::from(key.cookie_high) << 32 | u64::from(key.cookie_low),
            frontend: SocketAddr::new(key.addr.ip(), key.port),
            backend_addr: SocketAddr::new(value.addr.ip(), value.port),
            proto: key.proto,
            backend: BackendId(value.backend),
            service: ServiceId(value.service),
            last_seen: value.last_seen,
        })
    }
}

impl Snapshot {
    /// Frontends by Service port, markers left out.
    pub fn frontends_by_service(&self) -> BTreeMap<ServiceId, Vec<Programmed>> {
        let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (frontend, value) in self.contents.frontends.iter().filter(|(f, _)| !f.is_marker()) {
            by_service.entry(ServiceId(value.service)).or_default().push((*frontend, *value));
        }
        by_service
    }

    /// Backends by Service port.
    pub fn backends_by_service(&self) -> BTreeMap<ServiceId, Vec<(BackendId, Backend)>> {
        let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, backend) in &self.contents.backends {
            by_service.entry(backend.service).or_default().push((*id, *backend));
        }
        by_service
    }

    /// Backend ids in the slots of a frontend.
    pub fn slots_of(&self, value: &FrontendValue) -> &[u32] {
        let base = usize::try_from(value.base).unwrap_or(usize::MAX);
        let len = usize::try_from(value.len).unwrap_or(usize::MAX);
        self.contents.slots.get(base..base.saturating_add(len)).unwrap_or_default()
    }

    /// Backend ids that new connections to any of these frontends can get.
    pub fn selectable(&self, frontends: &[Programmed]) -> BTreeSet<BackendId> {
        let slots = frontends.iter().flat_map(|(_, value)| self.slots_of(value));
        slots.map(|id| BackendId(*id)).collect()
    }

    /// What a backend got.
    pub fn stats_of(&self, backend: BackendId) -> BackendStats {
        self.stats.get(&backend).copied().unwrap_or_default()
    }

    /// A Service port by id, as people write it: `shop/vote:http`.
    pub fn service_name(&self, service: ServiceId) -> String {
        match self.contents.services.get(&service) {
            Some(info) if info.port_name().is_empty() => {
                format!("{}/{}", info.namespace(), info.name())
            }
            Some(info) => format!("{}/{}:{}", info.namespace(), info.name(), info.port_name()),
            None => format!("service {service}"),
        }
    }
}

/// The map that holds a frontend.
pub fn frontend_map(frontend: &Frontend) -> &'static str {
    if frontend.addr.is_ipv4() { names::LB4_FRONTENDS } else { names::LB6_FRONTENDS }
}

/// The key of a frontend in its map.
pub fn frontend_key(frontend: &Frontend) -> Vec<u8> {
    let Frontend { addr, port, proto } = *frontend;
    match addr {
        IpAddr::V4(ip) => {
            bytemuck::bytes_of(&FrontendKey::new(Addr4::from(ip), port, proto)).to_vec()
        }
        IpAddr::V6(ip) => {
            bytemuck::bytes_of(&FrontendKey::new(Addr6::from(ip), port, proto)).to_vec()
        }
    }
}

/// The map that holds a backend.
pub fn backend_map(backend: &Backend) -> &'static str {
    if backend.addr.is_ipv4() { names::LB4_BACKENDS } else { names::LB6_BACKENDS }
}

/// The address and port of a backend.
pub fn backend_addr(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.addr, backend.port)
}

/// The kind of a frontend by name.
pub fn kind_name(value: &FrontendValue) -> &'static str {
    FrontendKind::from_u8(value.kind).map_or("unknown", FrontendKind::name)
}

/// The policy of a frontend by name.
pub fn policy_name(value: &FrontendValue) -> &'static str {
    if value.is_local() { "Local" } else { "Cluster" }
}

/// Bytes as bpftool takes and prints them.
pub fn hex(bytes: &[u8]) -> String {
    let octets: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    octets.join(" ")
}
