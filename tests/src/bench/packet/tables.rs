//! Fills the maps of the program that is measured, and reads the counters that prove what it did.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, PerCpuArray},
};
use lb_common::{
    Addr4, Addr6, Address, BackendSets, BackendState, BackendValue, DeviceRole, DeviceValue,
    FrontendKey, FrontendKind, FrontendValue, HOOKS, Hook, Location, MacAddr, REASON_SLOTS, Reason,
    Runtime, XdpDevice, names, proto, vip_bit,
};

use super::{
    case::{At, Case, Leg, Subject},
    frames::{self, GATEWAY_MAC, NODE_MAC},
    ground::Devices,
};

/// Where Services are asked.
pub(super) const SERVICE_PORT: u16 = 80;
/// Where backends serve.
pub(super) const PORT: u16 = 8080;

/// `FloorBackend` of the reference programs.
#[derive(Clone, Copy)]
#[repr(C)]
struct FloorBackend {
    addr: Addr4,
    port: u16,
    dmac: MacAddr,
    smac: MacAddr,
    pad: u16,
    ifindex: u32,
}

// SAFETY: plain integers without padding, as the assertion below proves.
unsafe impl Pod for FloorBackend {}
const _: () = assert!(size_of::<FloorBackend>() == 4 + 2 + 6 + 6 + 2 + 4);

/// `Template` of the wrapper programs.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Template {
    /// The packet.
    pub frame: [u8; frames::LENGTH],
    /// Number of flows less one.
    pub mask: u32,
    /// 1 to take flows in turn.
    pub in_turn: u32,
    /// 1 for IPv6.
    pub ipv6: u32,
    /// Device to which live frames are sent.
    pub to: u32,
}

// SAFETY: as above.
unsafe impl Pod for Template {}
const _: () = assert!(size_of::<Template>() == frames::LENGTH + 16);

impl Template {
    /// No packet yet.
    pub(super) fn empty(case: &Case) -> Self {
        let ipv6 = u32::from(case.ipv6);
        Self { frame: [0; frames::LENGTH], mask: 0, in_turn: 1, ipv6, to: 0 }
    }
}

/// The ids of the endpoints of a Service.
pub(super) fn endpoints(case: &Case, service: u32) -> std::ops::Range<u32> {
    let first = (service - 1) * case.endpoints() + 1;
    first..first + case.endpoints()
}

/// Fills the maps of the case's program with its Services.
pub(super) fn fill(ebpf: &mut Ebpf, case: &Case, devices: Devices) -> Result<()> {
    match (case.subject, case.ipv6) {
        (Subject::Floor, _) => floor(ebpf, case, devices),
        (Subject::Ours, false) => {
            ours::<Addr4>(ebpf, case, devices, names::LB4_FRONTENDS, names::LB4_BACKENDS)
        }
        (Subject::Ours, true) => {
            ours::<Addr6>(ebpf, case, devices, names::LB6_FRONTENDS, names::LB6_BACKENDS)
        }
    }
}

fn frontend(case: &Case, service: u32) -> FrontendValue {
    let (base, len) = (endpoints(case, service).start, case.endpoints());
    let kind = FrontendKind::ClusterIp as u8;
    FrontendValue { service, base, len, kind, ..FrontendValue::default() }
}

fn floor(ebpf: &mut Ebpf, case: &Case, devices: Devices) -> Result<()> {
    for service in 1..=case.services {
        let vip = address::<Addr4>(frames::vip(false, service));
        put(
            ebpf,
            "FLOOR_SERVICES",
            FrontendKey::new(vip, SERVICE_PORT, proto::TCP),
            frontend(case, service),
        )?;
        for id in endpoints(case, service) {
            let backend = FloorBackend {
                addr: address(frames::backend(false, id)),
                port: PORT.to_be(),
                dmac: MacAddr { octets: GATEWAY_MAC },
                smac: MacAddr { octets: [2, 0, 0, 0, 0, 1] },
                pad: 0,
                ifindex: devices.outside,
            };
            set(ebpf, "FLOOR_BACKENDS", id, backend)?;
        }
    }
    Ok(())
}

fn ours<A: Address>(
    ebpf: &mut Ebpf,
    case: &Case,
    devices: Devices,
    frontends: &str,
    backends: &str,
) -> Result<()>
where
    FrontendKey<A>: Pod,
    BackendValue<A>: Pod,
{
    let mut filter: BTreeMap<u32, u64> = BTreeMap::new();
    for service in 1..=case.services {
        let vip: A = address(frames::vip(case.ipv6, service));
        let bit = vip_bit(&vip);
        *filter.entry(bit.word).or_default() |= bit.mask;
        put(
            ebpf,
            frontends,
            FrontendKey::new(vip, SERVICE_PORT, proto::TCP),
            frontend(case, service),
        )?;
        put(ebpf, frontends, FrontendKey::marker(vip), FrontendValue::default())?;
        for id in endpoints(case, service) {
            let backend = BackendValue::<A> {
                addr: address(frames::backend(case.ipv6, id)),
                port: PORT,
                proto: proto::TCP,
                state: BackendState::Serving as u8,
                service,
                sets: BackendSets::CLUSTER,
                location: Location::Elsewhere as u8,
                ..BackendValue::default()
            };
            set(ebpf, backends, id, backend)?;
            set(ebpf, names::LB_SLOTS, id, id)?;
        }
    }
    for (word, mask) in filter {
        set(ebpf, names::LB_VIP_FILTER, word, mask)?;
    }
    let flags = if case.may_redirect() { Runtime::SHORTCUT } else { 0 };
    let runtime = Runtime { generation: 1, flags, ..Runtime::default() };
    set(ebpf, names::LB_RUNTIME, 0, runtime)?;
    let arrival = if case.at == At::Pod { DeviceRole::Workload } else { DeviceRole::External };
    for (ifindex, role) in [(devices.inside, arrival), (devices.outside, DeviceRole::External)] {
        let device = DeviceValue {
            snat4: Addr4 { octets: [192, 0, 2, 1] },
            snat6: address("fd02::1".parse().context("an address")?),
            role: role as u8,
            ethernet: 1,
            pad: [0; 2],
        };
        put(ebpf, names::LB_DEVICES, ifindex, device)?;
        let (mac, flags) =
            (MacAddr { octets: NODE_MAC }, XdpDevice::RECEIVES | XdpDevice::TRANSMITS);
        let device = XdpDevice { ifindex, mac, flags, pad: 0 };
        set(ebpf, names::LB_XDP_DEVICES, XdpDevice::slot(ifindex), device)?;
    }
    Ok(())
}

/// What programs counted: how many packets for each hook and reason.
pub(super) type Counts = BTreeMap<(&'static str, &'static str), u64>;

/// The names under which a program counts.
pub(super) fn counter(case: &Case, leg: &Leg) -> (&'static str, &'static str) {
    (if case.subject == Subject::Floor { FLOOR } else { leg.hook.name() }, leg.reason.name())
}

/// In place of a hook: the reference counts at one for all.
const FLOOR: &str = "floor";

/// Reads the counters.
pub(super) fn counted(ebpf: &Ebpf, case: &Case) -> Result<Counts> {
    let cells: Vec<(u32, (&str, &str))> = match case.subject {
        // The reference knows no more than these two.
        Subject::Floor => {
            vec![(0, (FLOOR, Reason::Forward.name())), (1, (FLOOR, Reason::NewFlow.name()))]
        }
        Subject::Ours => {
            let of = |hook: Hook, reason: Reason| {
                (hook as u32 * REASON_SLOTS + reason as u32, (hook.name(), reason.name()))
            };
            let at = |hook| Reason::ALL.iter().map(move |reason| of(hook, *reason));
            HOOKS.into_iter().flat_map(at).collect()
        }
    };
    let name = if case.subject == Subject::Floor { "FLOOR_COUNT" } else { names::LB_REASONS };
    let map = ebpf.map(name).with_context(|| format!("the object has no map {name}"))?;
    let counters = PerCpuArray::<_, u64>::try_from(map)?;
    let mut counts = Counts::new();
    for (index, names) in cells {
        let count: u64 = counters.get(&index, 0)?.iter().sum();
        if count != 0 {
            let _new = counts.insert(names, count);
        }
    }
    Ok(counts)
}

/// What was counted after `before`.
pub(super) fn since(now: &Counts, before: &Counts) -> Counts {
    let new = |(names, count): (&_, &u64)| (*names, count - before.get(names).unwrap_or(&0));
    now.iter().map(new).filter(|(_, count)| *count != 0).collect()
}

fn address<A: Address>(ip: std::net::IpAddr) -> A {
    A::from_ip(ip).expect("the family of the case")
}

fn put<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, key: K, value: V) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
    HashMap::try_from(map)?.insert(key, value, 0).with_context(|| format!("filling {name}"))
}

/// Writes an element of an array.
pub(super) fn set<V: Pod>(ebpf: &mut Ebpf, name: &str, index: u32, value: V) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))?;
    Array::try_from(map)?.set(index, value, 0).with_context(|| format!("filling {name}"))
}
