//! `lb dump`: everything that is in the maps, sorted, map by map.
//!
//! Two dumps of equal maps are equal texts, so that diff shows what changed.

use lb_common::{Address as _, DeviceRole, VIP_FILTER_WORDS, names};
use serde::Serialize;

use super::{
    backends::{self, BackendRow},
    flows::{self, Clock, FlowRow, Query},
    services::{self, ServiceRow},
    snapshot::{Snapshot, kind_name},
    table::Table,
};
use crate::{plan::ServiceId, telemetry::metrics::class_name};

/// Everything in the maps.
#[derive(Clone, Debug, Serialize)]
pub struct Dump {
    /// ABI version of whoever made the maps.
    pub abi: u32,
    /// Hash of the eBPF object that was loaded last.
    pub object: String,
    /// Generation of cached next hops.
    pub generation: u32,
    /// Service ports.
    pub services: Vec<ServiceRow>,
    /// Frontends and markers.
    pub frontends: Vec<FrontendRow>,
    /// Backends.
    pub backends: Vec<BackendRow>,
    /// Backend ids by slot, as far as slots were ever written.
    pub slots: Vec<u32>,
    /// Bits that are set in the filter.
    pub filter_bits: u32,
    /// Devices.
    pub devices: Vec<DeviceRow>,
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
    /// `ClusterIP`, `NodePort` or `Marker`.
    pub kind: &'static str,
    /// The Service port.
    pub service: Option<String>,
    /// Service id.
    pub service_id: u32,
    /// First slot.
    pub base: u32,
    /// Number of slots.
    pub len: u32,
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
    });
    let devices = snapshot.devices.iter().map(|(ifindex, device)| DeviceRow {
        ifindex: *ifindex,
        role: DeviceRole::from_u8(device.role).map_or("unknown", DeviceRole::name),
        snat4: device.snat4.ip().to_string(),
        snat6: device.snat6.ip().to_string(),
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
        services: services::rows(snapshot),
        frontends: frontends.collect(),
        backends: backends::rows(snapshot, None),
        slots: contents.slots.clone(),
        filter_bits: contents.filter.values().map(|word| word.count_ones()).sum(),
        devices: devices.collect(),
        flows: flows::select(snapshot, &Query { clock, ..Query::default() }).rows,
        reasons: reasons.collect(),
    }
}

/// The dump for people.
pub fn text(dump: &Dump) -> String {
    let Dump { abi, object, generation, services, frontends, backends, .. } = dump;
    let Dump { slots, filter_bits, devices, flows, reasons, .. } = dump;
    let mut text = format!("ABI {abi}, object {object}, generation {generation}\n");

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

    let mut table = Table::new(["FRONTEND", "KIND", "SERVICE", ">ID", ">BASE", ">LEN"]);
    for row in frontends {
        table.row([
            row.frontend.clone(),
            row.kind.to_owned(),
            row.service.clone().unwrap_or_default(),
            row.service_id.to_string(),
            row.base.to_string(),
            row.len.to_string(),
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
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn every_map_has_its_section() {
        let text = text(&dump(&sample::vote(), None));
        for map in names::MAPS {
            let implied = [names::LB_SCHEMA, names::LB_RUNTIME].contains(&map);
            assert!(implied || text.contains(map), "{map} in\n{text}");
        }
        assert!(text.starts_with("ABI 1, object 0000000000000000, generation 7\n"), "{text}");
        assert!(text.contains("\n       0: 0 0 1 2 4\n"), "{text}");
        assert!(text.contains("10.96.0.10 (any other port)  Marker"), "{text}");
    }

    #[test]
    fn equal_maps_give_equal_json() {
        let json = |snapshot| serde_json::to_string(&dump(&snapshot, None)).unwrap();
        let mut shuffled = sample::vote();
        shuffled.flows.reverse();
        assert_eq!(json(sample::vote()), json(shuffled));
    }
}
