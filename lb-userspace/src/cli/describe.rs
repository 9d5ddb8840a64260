//! `lb services describe NAME`: one Service as it is programmed, entry by entry.
//!
//! Every entry is shown with its map and key, so that bpftool shows the same bytes.

use std::path::Path;

use lb_common::{FrontendKind, names};
use serde::Serialize;

use super::{
    backends::{self, BackendRow},
    service_ref::ServiceRef,
    services::{self, ServiceRow},
    snapshot::{Snapshot, backend_map, frontend_key, frontend_map, hex, kind_name},
    table::{Table, bytes, percent},
};
use crate::plan::{BackendId, Frontend, ServiceId};

/// A Service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Description {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `ClusterIP` or `NodePort`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Addresses of the Service.
    pub cluster_ips: Vec<String>,
    /// Directory of the pinned maps.
    pub maps: String,
    /// Its ports, each family.
    pub ports: Vec<Port>,
}

/// One port in one family.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Port {
    /// What `lb services` says of it.
    #[serde(flatten)]
    pub summary: ServiceRow,
    /// Where its name lies.
    pub entry: Entry,
    /// Its frontends.
    pub frontend_entries: Vec<FrontendEntry>,
    /// The slots that its frontends name.
    pub slot_entries: Vec<SlotEntry>,
    /// Its backends.
    pub backend_entries: Vec<BackendEntry>,
}

/// Where something lies.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// Name of the map.
    pub map: &'static str,
    /// Key, in hexadecimal bytes.
    pub key: String,
    /// The command that shows the same bytes.
    pub bpftool: String,
}

/// One frontend.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FrontendEntry {
    /// Address, port and protocol.
    pub frontend: String,
    /// `ClusterIP`, `NodePort`, or `Marker` for all other ports of the address.
    pub kind: &'static str,
    /// First slot.
    pub base: u32,
    /// Number of slots.
    pub len: u32,
    /// Where it lies.
    pub entry: Entry,
}

/// One slot.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct SlotEntry {
    /// Index.
    pub slot: u32,
    /// Backend id.
    pub backend: u32,
    /// Where it lies.
    pub entry: Entry,
}

/// One backend.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct BackendEntry {
    /// What `lb backends` says of it.
    #[serde(flatten)]
    pub summary: BackendRow,
    /// Where it lies.
    pub entry: Entry,
    /// Where its counters lie.
    pub counters: Entry,
}

/// Describes a Service of which at least one port is in the maps.
pub fn describe(snapshot: &Snapshot, service: &ServiceRef, maps: &Path) -> Description {
    let entry = |map: &'static str, key: &[u8]| {
        let key = hex(key);
        let bpftool = format!("bpftool map lookup pinned {}/{map} key hex {key}", maps.display());
        Entry { map, key, bpftool }
    };
    let backend_rows = backends::rows(snapshot, Some(service));
    let frontends = snapshot.frontends_by_service();
    let mut cluster_ips: Vec<String> = Vec::new();
    let of_service =
        |row: &ServiceRow| row.namespace == service.namespace && row.name == service.name;
    let ports: Vec<Port> = services::rows(snapshot)
        .into_iter()
        .filter(of_service)
        .map(|summary| {
            let frontends = frontends.get(&ServiceId(summary.id)).map_or(&[][..], Vec::as_slice);
            let mut frontend_entries = Vec::new();
            for (frontend, value) in frontends {
                frontend_entries.push(FrontendEntry {
                    frontend: frontend.to_string(),
                    kind: kind_name(value),
                    base: value.base,
                    len: value.len,
                    entry: entry(frontend_map(frontend), &frontend_key(frontend)),
                });
                let addr = frontend.addr.to_string();
                if value.kind == FrontendKind::ClusterIp as u8 && !cluster_ips.contains(&addr) {
                    cluster_ips.push(addr);
                    frontend_entries.extend(marker_entry(snapshot, frontend, &entry));
                }
            }
            let range = frontends.first().map(|(_, value)| *value);
            let slots = range.as_ref().map_or(&[][..], |value| snapshot.slots_of(value));
            let slot_entries = (range.map_or(0, |value| value.base)..)
                .zip(slots)
                .map(|(slot, backend)| SlotEntry {
                    slot,
                    backend: *backend,
                    entry: entry(names::LB_SLOTS, &slot.to_ne_bytes()),
                })
                .collect();
            let backend_entries = backend_rows
                .iter()
                .filter(|row| row.service_id == summary.id)
                .filter_map(|row| {
                    let backend = snapshot.contents.backends.get(&BackendId(row.id))?;
                    let key = row.id.to_ne_bytes();
                    Some(BackendEntry {
                        summary: row.clone(),
                        entry: entry(backend_map(backend), &key),
                        counters: entry(names::LB_BACKEND_STAT, &key),
                    })
                })
                .collect();
            Port {
                entry: entry(names::LB_SERVICES, &summary.id.to_ne_bytes()),
                summary,
                frontend_entries,
                slot_entries,
                backend_entries,
            }
        })
        .collect();
    let node_port = ports.iter().any(|port| port.summary.node_port.is_some());
    Description {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        kind: if node_port { "NodePort" } else { "ClusterIP" },
        cluster_ips,
        maps: maps.display().to_string(),
        ports,
    }
}

fn marker_entry(
    snapshot: &Snapshot,
    frontend: &Frontend,
    entry: &dyn Fn(&'static str, &[u8]) -> Entry,
) -> Option<FrontendEntry> {
    let marker = Frontend::marker(frontend.addr);
    let value = snapshot.contents.frontends.get(&marker)?;
    Some(FrontendEntry {
        frontend: marker.to_string(),
        kind: kind_name(value),
        base: value.base,
        len: value.len,
        entry: entry(frontend_map(&marker), &frontend_key(&marker)),
    })
}

/// The description for people; with `all_commands`, a bpftool command for every entry.
pub fn text(description: &Description, all_commands: bool) -> String {
    let Description { namespace, name, kind, cluster_ips, maps, ports } = description;
    let families: Vec<&str> = ports.iter().map(|port| port.summary.family).collect();
    let mut families = families;
    families.sort_unstable();
    families.dedup();
    let mut text = format!(
        "Name:         {name}\nNamespace:    {namespace}\nType:         {kind}\n\
         IP Families:  {}\nIPs:          {}\nMaps:         {maps}\n",
        families.join(","),
        if cluster_ips.is_empty() { "<none>".to_owned() } else { cluster_ips.join(",") },
    );
    for port in ports {
        text += &port_text(port);
    }
    text += "\nThe same by bpftool:\n";
    for port in ports {
        let entries = port.entries();
        let mut shown: Vec<&str> = Vec::new();
        for entry in entries {
            if all_commands || !shown.contains(&entry.map) {
                text += &format!("  {}\n", entry.bpftool);
                shown.push(entry.map);
            }
        }
    }
    if !all_commands {
        text +=
            "  (--bpftool prints one for every entry; `bpftool map dump pinned MAP` prints all)\n";
    }
    text
}

impl Port {
    /// All places where something of it lies.
    fn entries(&self) -> Vec<&Entry> {
        let frontends = self.frontend_entries.iter().map(|frontend| &frontend.entry);
        let slots = self.slot_entries.iter().map(|slot| &slot.entry);
        let backends = self.backend_entries.iter().flat_map(|b| [&b.entry, &b.counters]);
        std::iter::once(&self.entry).chain(frontends).chain(slots).chain(backends).collect()
    }
}

fn port_text(port: &Port) -> String {
    let Port { summary, entry, frontend_entries, slot_entries, backend_entries } = port;
    let name = if summary.port_name.is_empty() { "<unset>" } else { &summary.port_name };
    let mut text = format!(
        "\nPort:         {name}  {}/{} {}\nService id:   {} ({} key {})\n",
        summary.ports(),
        summary.protocol,
        summary.family,
        summary.id,
        entry.map,
        entry.key
    );
    if let Some(first) = frontend_entries.first() {
        let mut table = Table::new(["FRONTEND", "KIND", "SLOTS", "KEY"]).indented(2);
        for frontend in frontend_entries {
            let slots = match (frontend.kind, frontend.len) {
                ("Marker", _) => "refused".to_owned(),
                (_, 0) => "none: refused".to_owned(),
                (_, len) => format!("{}..{}", frontend.base, frontend.base + len),
            };
            table.row([
                frontend.frontend.clone(),
                frontend.kind.to_owned(),
                slots,
                frontend.entry.key.clone(),
            ]);
        }
        text += &format!("Frontends:    {}\n{table}", first.entry.map);
    } else {
        text += "Frontends:    <none>\n";
    }
    match slot_entries.first() {
        Some(first) => {
            let ids: Vec<String> =
                slot_entries.iter().map(|slot| slot.backend.to_string()).collect();
            text += &format!(
                "Slots:        {} from key {}: backends {}\n",
                first.entry.map,
                first.entry.key,
                ids.join(" ")
            );
        }
        None => text += "Slots:        <none>: new connections are refused\n",
    }
    let Some(first) = backend_entries.first() else {
        return text + "Backends:     <none>\n";
    };
    let mut table = Table::new([
        ">ID", "ADDRESS", "STATE", ">SLOTS", ">FLOWS", ">SHARE", ">PACKETS", ">BYTES", "KEY",
    ])
    .indented(2);
    for BackendEntry { summary, entry, counters: _ } in backend_entries {
        table.row([
            summary.id.to_string(),
            summary.address.clone(),
            summary.state.to_owned(),
            summary.slots.to_string(),
            summary.flows.to_string(),
            percent(summary.flows, summary.flows_of_service),
            summary.packets.to_string(),
            bytes(summary.bytes),
            entry.key.clone(),
        ]);
    }
    text + &format!("Backends:     {}, counters {}\n{table}", first.entry.map, first.counters.map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{sample, service_ref};

    fn described(name: &str) -> Description {
        let snapshot = sample::vote();
        let service = service_ref::find(&snapshot, name).unwrap();
        describe(&snapshot, &service, Path::new("/sys/fs/bpf/lb/v1/maps"))
    }

    #[test]
    fn every_entry_stands_with_its_key() {
        let text = text(&described("vote"), false);
        let begins = "\
Name:         vote
Namespace:    default
Type:         NodePort
IP Families:  IPv4,IPv6
IPs:          10.96.0.10,fd00:96::10
Maps:         /sys/fs/bpf/lb/v1/maps

Port:         http  80:30000/TCP IPv4
Service id:   1 (LB_SERVICES key 01 00 00 00)
Frontends:    LB4_FRONTENDS
  FRONTEND                     KIND       SLOTS    KEY
  10.96.0.10:80/TCP            ClusterIP  2..4     0a 60 00 0a 50 00 06 00
  10.96.0.10 (any other port)  Marker     refused  0a 60 00 0a 00 00 00 00
  192.0.2.1:30000/TCP          NodePort   2..4     c0 00 02 01 30 75 06 00
Slots:        LB_SLOTS from key 02 00 00 00: backends 1 2
Backends:     LB4_BACKENDS, counters LB_BACKEND_STAT
  ID  ADDRESS          STATE    SLOTS  FLOWS  SHARE  PACKETS     BYTES  KEY
   1  10.244.0.2:8080  serving      1     18  60.0%      180  17.5 KiB  01 00 00 00
   2  10.244.1.2:8080  serving      1     10  33.3%      100   9.7 KiB  02 00 00 00
   3  10.244.1.3:8080  gone         0      2   6.7%       20   1.9 KiB  03 00 00 00
";
        assert!(text.starts_with(begins), "{text}");
        let command = "\n  bpftool map lookup pinned /sys/fs/bpf/lb/v1/maps/LB4_FRONTENDS \
                       key hex 0a 60 00 0a 50 00 06 00\n";
        assert!(text.contains(command), "{text}");
    }

    #[test]
    fn commands_for_every_entry_come_on_request() {
        let description = described("vote");
        let commands = |text: String| text.matches("bpftool map lookup").count();
        assert!(commands(text(&description, false)) < commands(text(&description, true)));
        let entries: usize = description.ports.iter().map(|port| port.entries().len()).sum();
        assert_eq!(commands(text(&description, true)), entries);
    }

    #[test]
    fn a_service_without_backend_says_that_it_refuses() {
        let text = text(&described("dns"), false);
        assert!(text.contains("Slots:        <none>: new connections are refused\n"), "{text}");
        assert!(text.contains("none: refused"), "{text}");
    }
}
