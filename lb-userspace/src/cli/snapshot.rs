//! The content of the maps at one moment, without map types: what every table is made of.
//!
//! Pure data, so that tables are tested without a kernel. Both families are in one list each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    Action, Addr4, Addr6, Address, AffinityKey, AffinityValue, BackendStats, DeviceValue, FlowKey,
    FlowValue, FragmentKey, FragmentValue, FrontendKey, FrontendKind, FrontendValue, Hook,
    RangeKey, Reason, Runtime, Schema, SockDirection, SockKey, SockValue, XdpDevice, names,
};

use crate::{
    maps::Contents,
    plan::{Backend, BackendId, Frontend, Range, ServiceId},
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
    /// Clients that keep their backend.
    pub affinity: Vec<Affinity>,
    /// Datagrams whose first fragment passed.
    pub fragments: Vec<(FragmentKey<Addr4>, FragmentValue<Addr4>)>,
    /// Devices by interface index.
    pub devices: BTreeMap<u32, DeviceValue>,
    /// What XDP may do at devices, by interface index.
    pub xdp_devices: Vec<XdpDevice>,
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
    /// The hook at which the entry applies.
    pub hook: Option<Hook>,
    /// The hook of the other entry of the pair.
    pub other_hook: Option<Hook>,
    /// The client's port between both legs of the road; 0 where there are none.
    pub road_port: u16,
    /// Whether this is the second leg of its direction.
    pub second: bool,
    /// Where packets go.
    pub action: Option<Action>,
    /// Whether this is the entry of the replies.
    pub reverse: bool,
    /// Packets so far.
    pub packets: u32,
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

/// One client that keeps its backend.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Affinity {
    /// Service port.
    pub service: ServiceId,
    /// The client; the unspecified address for the processes of the node.
    pub client: IpAddr,
    /// Backend.
    pub backend: BackendId,
    /// Jiffies of the last new connection, low half.
    pub last_used: u32,
}

impl Affinity {
    /// The entry as it lies in the affinity maps of either family.
    pub fn new<A: Address>(key: &AffinityKey<A>, value: &AffinityValue) -> Self {
        Self {
            service: ServiceId(key.service),
            client: key.client.ip(),
            backend: BackendId(value.backend),
            last_used: value.last_used,
        }
    }
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
            hook: Hook::from_u8(key.hook),
            other_hook: Hook::from_u8(value.other_hook),
            road_port: value.road_port,
            second: value.second != 0,
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

    /// Backend ids in the slots of a frontend: of the cluster set, and of the local set.
    pub fn slots_of(&self, value: &FrontendValue) -> (&[u32], &[u32]) {
        let base = usize::try_from(value.base).unwrap_or(usize::MAX);
        let slots = usize::try_from(value.slots()).unwrap_or(usize::MAX);
        let slots = self.contents.slots.get(base..base.saturating_add(slots)).unwrap_or_default();
        let len = usize::try_from(value.len).unwrap_or(usize::MAX);
        slots.split_at_checked(len).unwrap_or((slots, &[]))
    }

    /// Backend ids that new connections to any of these frontends can get, whoever begins them.
    pub fn selectable(&self, frontends: &[Programmed]) -> BTreeSet<BackendId> {
        let chosen = |value| {
            let (cluster, local) = self.slots_of(value);
            // Where the policy of a cluster IP is Local, nobody chooses from the cluster set.
            let cluster = if value.is_local() && !value.is_external() { &[] } else { cluster };
            let local = if value.is_local() { local } else { &[] };
            cluster.iter().chain(local)
        };
        let slots = frontends.iter().flat_map(|(_, value)| chosen(value));
        slots.map(|id| BackendId(*id)).collect()
    }

    /// The source ranges that a frontend names; `None` when everybody may use it.
    pub fn ranges_of(&self, value: &FrontendValue) -> Option<Vec<Range>> {
        let of_set = |range: &&Range| range.set.0 == value.ranges;
        let ranges = self.contents.ranges.iter();
        (value.ranges != 0).then(|| ranges.filter(of_set).copied().collect())
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

/// The map that holds a source range.
pub fn range_map(range: &Range) -> &'static str {
    if range.addr.is_ipv4() { names::LB4_RANGES } else { names::LB6_RANGES }
}

/// The key of a source range in its map.
pub fn range_key(range: &Range) -> Vec<u8> {
    let set = range.set.0;
    let key = match range.addr {
        IpAddr::V4(ip) => bytemuck::bytes_of(&RangeKey { set, addr: Addr4::from(ip) }).to_vec(),
        IpAddr::V6(ip) => bytemuck::bytes_of(&RangeKey { set, addr: Addr6::from(ip) }).to_vec(),
    };
    [range.bits.to_ne_bytes().to_vec(), key].concat()
}

/// The address and port of a backend.
pub fn backend_addr(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.addr, backend.port)
}

/// A source range without its set.
pub fn range_text(range: &Range) -> String {
    range.net().map_or_else(|| range.to_string(), |net| net.to_string())
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
