//! `lb dump`: everything that is in the maps, sorted, map by map.
//!
//! Two dumps of equal maps are equal texts, so that diff shows what changed.

use lb_common::{Address as _, DeviceRole, Hook, VIP_FILTER_WORDS, XdpDevice, names};
use serde::Serialize;

use super::{
    backends::{self, BackendRow},
    flows::{self, Clock, FlowRow, Query},
    services::{self, ServiceRow},
    snapshot::{Snapshot, kind_name, policy_name, range_text},
    table::{Table, span},
};
use crate::{
    plan::{ProtoName, ServiceId},
    telemetry::metrics::class_name,
};

/// Everything in the maps.
#[derive(Clone, Debug, Serialize)]
pub struct Dump {
    /// ABI version of whoever made the maps.
    pub abi: u32,
    /// Hash of the eBPF object that was loaded last.
    pub object: String,
    /// Generation of cached next hops.
    pub generation: u16,
    /// Bits of [`lb_common::Runtime`]: 1 when packets may be redirected past the stack, 2 when routing
    /// rules look at the source address.
    pub flags: u8,
    /// Service ports.
    pub services: Vec<ServiceRow>,
    /// Frontends and markers.
    pub frontends: Vec<FrontendRow>,
    /// Backends.
    pub backends: Vec<BackendRow>,
    /// Backend ids by slot, as far as slots were ever written.
    pub slots: Vec<u32>,
    /// Source ranges, set by set.
    pub ranges: Vec<RangeRow>,
    /// Clients that keep their backend.
    pub affinity: Vec<AffinityRow>,
    /// Datagrams whose first fragment passed.
    pub fragments: Vec<FragmentRow>,
    /// Bits that are set in the filter.
    pub filter_bits: u32,
    /// Devices.
    pub devices: Vec<DeviceRow>,
    /// What XDP may do at devices.
    pub xdp_devices: Vec<XdpDeviceRow>,
    /// Flows, both directions of each pair together.
    pub flows: Vec<FlowRow>,
    /// What was counted, zeros left out.
    pub reasons: Vec<ReasonRow>,
}

/// One frontend.
#[derive(Clone, Debug, Serialize)]
pub struct FrontendRow {
    /// Address, port and protocol.
    pub frontend: String,
    /// What sort of address it is, or `Marker`.
    pub kind: &'static str,
    /// The Service port.
    pub service: Option<String>,
    /// Service id.
    pub service_id: u32,
    /// First slot.
    pub base: u32,
    /// Number of slots of the cluster set.
    pub len: u32,
    /// Number of slots of the local set, which follow.
    pub local_len: u32,
    /// The policy that governs it: `Cluster` or `Local`.
    pub policy: &'static str,
    /// Id of the set of source ranges; 0 when everybody may use it.
    pub ranges: u32,
    /// Seconds for which a client keeps its backend; 0 without session affinity.
    pub affinity: u32,
}

/// One source range.
#[derive(Clone, Debug, Serialize)]
pub struct RangeRow {
    /// Id of its set.
    pub set: u32,
    /// The range.
    pub range: String,
}

/// One datagram in fragments: what the later ones become.
#[derive(Clone, Debug, Serialize)]
pub struct FragmentRow {
    /// Source as it arrives.
    pub source: String,
    /// Destination as it arrives.
    pub destination: String,
    /// Identification.
    pub id: u32,
    /// Protocol by name.
    pub protocol: String,
    /// The hook at which it was seen.
    pub hook: &'static str,
    /// Source as it leaves.
    pub new_source: String,
    /// Destination as it leaves.
    pub new_destination: String,
    /// Seconds since the first fragment.
    pub age: Option<u64>,
}

/// One client that keeps its backend.
#[derive(Clone, Debug, Serialize)]
pub struct AffinityRow {
    /// The Service port.
    pub service: String,
    /// Service id.
    pub service_id: u32,
    /// The client; the unspecified address for the processes of the node.
    pub client: String,
    /// Backend id.
    pub backend: u32,
    /// Seconds since its last new connection.
    pub age: Option<u64>,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceRow {
    /// Interface index.
    pub ifindex: u32,
    /// What it is to us.
    pub role: &'static str,
    /// Source address of translated packets, IPv4.
    pub snat4: String,
    /// The same, IPv6.
    pub snat6: String,
}

/// What XDP may do at one device.
#[derive(Clone, Debug, Serialize)]
pub struct XdpDeviceRow {
    /// Interface index.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: String,
    /// Whether XDP may take the frames that arrive here for this address.
    pub receives: bool,
    /// Whether the driver transmits frames that XDP redirects here.
    pub transmits: bool,
}

/// One counter.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonRow {
    /// Hook.
    pub hook: &'static str,
    /// Reason.
    pub reason: &'static str,
    /// What became of the packet: `pass`, `translate`, `refuse` or `drop`.
    pub class: &'static str,
    /// How often.
    pub count: u64,
}

/// Puts the snapshot in order.
pub fn dump(snapshot: &Snapshot, clock: Option<Clock>) -> Dump {
    let contents = &snapshot.contents;
    let frontends = contents.frontends.iter().map(|(frontend, value)| FrontendRow {
        frontend: frontend.to_string(),
        kind: kind_name(value),
        service: (value.service != 0).then(|| snapshot.service_name(ServiceId(value.service))),
        service_id: value.service,
        base: value.base,
        len: value.len,
        local_len: value.local_len,
        policy: policy_name(value),
        ranges: value.ranges,
        affinity: value.affinity,
    });
    let ranges = contents.ranges.iter();
    let ranges = ranges.map(|range| RangeRow { set: range.set.0, range: range_text(range) });
    let mut affinity = snapshot.affinity.clone();
    affinity.sort_unstable();
    let affinity = affinity.iter().map(|entry| AffinityRow {
        service: snapshot.service_name(entry.service),
        service_id: entry.service.0,
        client: entry.client.to_string(),
        backend: entry.backend.0,
        age: flows::age(clock, entry.last_used),
    });
    let mut fragments = snapshot.fragments.clone();
    fragments.sort_unstable_by_key(|(key, _)| (key.src, key.dst, key.id, key.hook));
    let fragments = fragments.iter().map(|(key, value)| FragmentRow {
        source: key.src.to_string(),
        destination: key.dst.to_string(),
        id: key.id,
        protocol: ProtoName(key.proto).to_string(),
        hook: Hook::from_u8(key.hook).map_or("unknown", Hook::name),
        new_source: value.src.to_string(),
        new_destination: value.dst.to_string(),
        age: flows::age(clock, value.seen_at),
    });
    let devices = snapshot.devices.iter().map(|(ifindex, device)| DeviceRow {
        ifindex: *ifindex,
        role: DeviceRole::from_u8(device.role).map_or("unknown", DeviceRole::name),
        snat4: device.snat4.ip().to_string(),
        snat6: device.snat6.ip().to_string(),
    });
    let xdp_devices = snapshot.xdp_devices.iter().map(|device| XdpDeviceRow {
        ifindex: device.ifindex,
        mac: device.mac.octets.map(|octet| format!("{octet:02x}")).join(":"),
        receives: device.flags & XdpDevice::RECEIVES != 0,
        transmits: device.flags & XdpDevice::TRANSMITS != 0,
    });
    let reasons = snapshot.reasons.iter().map(|(hook, reason, count)| ReasonRow {
        hook: hook.name(),
        reason: reason.name(),
        class: class_name(reason.class()),
        count: *count,
    });
    Dump {
        abi: snapshot.schema.abi_version,
        object: format!("{:016x}", snapshot.schema.object_hash),
        generation: snapshot.runtime.generation,
        flags: snapshot.runtime.flags,
        services: services::rows(snapshot),
        frontends: frontends.collect(),
        backends: backends::rows(snapshot, None),
        slots: contents.slots.clone(),
        ranges: ranges.collect(),
        affinity: affinity.collect(),
        fragments: fragments.collect(),
        filter_bits: contents.filter.values().map(|word| word.count_ones()).sum(),
        devices: devices.collect(),
        xdp_devices: xdp_devices.collect(),
        flows: flows::select(snapshot, &Query { clock, ..Query::default() }).rows,
        reasons: reasons.collect(),
    }
}

/// The dump for people.
pub fn text(dump: &Dump) -> String {
    let Dump { abi, object, generation, flags, services, frontends, backends, .. } = dump;
    let Dump { slots, ranges, affinity, fragments, filter_bits, devices, .. } = dump;
    let Dump { xdp_devices, flows, reasons, .. } = dump;
    let mut text = format!("ABI {abi}, object {object}, generation {generation}, flags {flags}\n");

    let mut table = Table::new([">ID", "SERVICE", "PORT NAME", "PROTO", "FAMILY"]);
    for row in services {
        table.row([
            row.id.to_string(),
            format!("{}/{}", row.namespace, row.name),
            row.port_name.clone(),
            row.protocol.clone(),
            row.family.to_owned(),
        ]);
    }
    section(&mut text, names::LB_SERVICES, services.len(), &table);

    let mut table = Table::new([
        "FRONTEND",
        "KIND",
        "SERVICE",
        ">ID",
        "POLICY",
        ">BASE",
        ">LEN",
        ">LOCAL",
        ">RANGES",
        ">AFFINITY",
    ]);
    for row in frontends {
        table.row([
            row.frontend.clone(),
            row.kind.to_owned(),
            row.service.clone().unwrap_or_default(),
            row.service_id.to_string(),
            row.policy.to_owned(),
            row.base.to_string(),
            row.len.to_string(),
            row.local_len.to_string(),
            row.ranges.to_string(),
            row.affinity.to_string(),
        ]);
    }
    section(&mut text, "LB4_FRONTENDS, LB6_FRONTENDS", frontends.len(), &table);

    let title = "LB4_BACKENDS, LB6_BACKENDS, LB_BACKEND_STAT";
    text += &format!("\n{title}: {}\n", backends.len());
    if !backends.is_empty() {
        text += &backends::table(backends);
    }

    text += &format!("\n{}: {} ever written\n", names::LB_SLOTS, slots.len());
    for (n, slots) in slots.chunks(16).enumerate() {
        let ids: Vec<String> = slots.iter().map(ToString::to_string).collect();
        text += &format!("{:>8}: {}\n", n * 16, ids.join(" "));
    }

    let mut table = Table::new([">SET", "RANGE"]);
    for row in ranges {
        table.row([row.set.to_string(), row.range.clone()]);
    }
    section(&mut text, "LB4_RANGES, LB6_RANGES", ranges.len(), &table);

    let mut table = Table::new(["SERVICE", ">ID", "CLIENT", ">BACKEND", ">AGE"]);
    for row in affinity {
        table.row([
            row.service.clone(),
            row.service_id.to_string(),
            row.client.clone(),
            row.backend.to_string(),
            row.age.map_or_else(|| "-".to_owned(), span),
        ]);
    }
    section(&mut text, "LB4_AFFINITY, LB6_AFFINITY", affinity.len(), &table);

    let mut table = Table::new(["PROTO", "FRAGMENT", ">ID", "BECOMES", "HOOK", ">AGE"]);
    for row in fragments {
        table.row([
            row.protocol.clone(),
            format!("{} → {}", row.source, row.destination),
            row.id.to_string(),
            format!("{} → {}", row.new_source, row.new_destination),
            row.hook.to_owned(),
            row.age.map_or_else(|| "-".to_owned(), span),
        ]);
    }
    section(&mut text, names::LB4_FRAGMENTS, fragments.len(), &table);

    text += &format!(
        "\n{}: {filter_bits} of {} bits set\n",
        names::LB_VIP_FILTER,
        VIP_FILTER_WORDS * 64
    );

    let mut table = Table::new([">IFINDEX", "ROLE", "SNAT4", "SNAT6"]);
    for row in devices {
        table.row([
            row.ifindex.to_string(),
            row.role.to_owned(),
            row.snat4.clone(),
            row.snat6.clone(),
        ]);
    }
    section(&mut text, names::LB_DEVICES, devices.len(), &table);

    let mut table = Table::new([">IFINDEX", "MAC", "RECEIVES", "TRANSMITS"]);
    for row in xdp_devices {
        let word = |is: bool| if is { "yes" } else { "no" }.to_owned();
        table.row([
            row.ifindex.to_string(),
            row.mac.clone(),
            word(row.receives),
            word(row.transmits),
        ]);
    }
    section(&mut text, names::LB_XDP_DEVICES, xdp_devices.len(), &table);

    text += &format!("\nLB4_FLOWS, LB6_FLOWS, LB4_SOCKS, LB6_SOCKS: {}\n", flows.len());
    if !flows.is_empty() {
        let all = flows::Flows { matching: 0, shown: 0, rows: flows.clone() };
        text += &flows::table(&all);
    }

    let mut table = Table::new(["HOOK", "REASON", "CLASS", ">COUNT"]);
    for row in reasons {
        table.row([
            row.hook.to_owned(),
            row.reason.to_owned(),
            row.class.to_owned(),
            row.count.to_string(),
        ]);
    }
    section(&mut text, names::LB_REASONS, reasons.len(), &table);
    text
}

fn section(text: &mut String, map: &str, entries: usize, table: &Table) {
    *text += &format!("\n{map}: {entries}\n");
    if !table.is_empty() {
        *text += &table.to_string();
    }
}

#[cfg(test)]
mod tests;
