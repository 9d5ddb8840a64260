//! `lb services describe NAME`: one Service as it is programmed, entry by entry.
//!
//! Every entry is shown with its map and key, so that bpftool shows the same bytes.

mod text;

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use lb_common::{FrontendKind, FrontendValue, names};
use serde::Serialize;

use super::{
    backends::{self, BackendRow},
    service_ref::ServiceRef,
    services::{self, ServiceRow},
    snapshot::{
        Snapshot, backend_map, frontend_key, frontend_map, hex, kind_name, policy_name, range_key,
        range_map, range_text,
    },
};
use crate::plan::{BackendId, Frontend, ServiceId};

pub use self::text::text;

/// A Service.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Description {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`, by its addresses.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Addresses of the Service in the cluster.
    pub cluster_ips: Vec<String>,
    /// External IPs.
    pub external_ips: Vec<String>,
    /// Addresses of its load balancer.
    pub ingress: Vec<String>,
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
    /// The source ranges of its load balancer's frontends.
    pub range_entries: Vec<RangeEntry>,
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
    /// What sort of address it is, or `Marker` for all other ports of the address.
    pub kind: &'static str,
    /// The policy that governs it: `Cluster` or `Local`.
    pub policy: &'static str,
    /// First slot.
    pub base: u32,
    /// Number of slots of the cluster set.
    pub len: u32,
    /// Number of slots of the local set, which follow.
    pub local_len: u32,
    /// Id of the set of source ranges; 0 when everybody may use it.
    pub ranges: u32,
    /// Where it lies.
    pub entry: Entry,
}

/// One source range.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RangeEntry {
    /// The range.
    pub range: String,
    /// Id of its set.
    pub set: u32,
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
    /// The set that it is of: `cluster` or `local`.
    pub set: &'static str,
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
                frontend_entries.push(FrontendEntry::new(frontend, value, &entry));
                let addr = frontend.addr.to_string();
                if value.kind == FrontendKind::ClusterIp as u8 && !cluster_ips.contains(&addr) {
                    cluster_ips.push(addr);
                    frontend_entries.extend(marker_entry(snapshot, frontend, &entry));
                }
            }
            let first = frontends.first().map(|(_, value)| *value).unwrap_or_default();
            let (cluster, local) = snapshot.slots_of(&first);
            let cluster = cluster.iter().map(|backend| (backend, "cluster"));
            let local = local.iter().map(|backend| (backend, "local"));
            let slot_entries = (first.base..)
                .zip(cluster.chain(local))
                .map(|(slot, (backend, set))| SlotEntry {
                    slot,
                    backend: *backend,
                    set,
                    entry: entry(names::LB_SLOTS, &slot.to_ne_bytes()),
                })
                .collect();
            let ranges = frontends.iter().find_map(|(_, value)| snapshot.ranges_of(value));
            let range_entries = ranges
                .into_iter()
                .flatten()
                .map(|range| RangeEntry {
                    range: range_text(&range),
                    set: range.set.0,
                    entry: entry(range_map(&range), &range_key(&range)),
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
                range_entries,
                slot_entries,
                backend_entries,
            }
        })
        .collect();
    let kinds = ["LoadBalancer", "NodePort"];
    let is = |kind: &&&str| ports.iter().any(|port| port.summary.kind == **kind);
    let addresses = |of: fn(&ServiceRow) -> &Vec<IpAddr>| {
        let all: BTreeSet<IpAddr> =
            ports.iter().flat_map(|port| of(&port.summary)).copied().collect();
        all.iter().map(ToString::to_string).collect()
    };
    Description {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        kind: kinds.iter().find(is).copied().unwrap_or("ClusterIP"),
        cluster_ips,
        external_ips: addresses(|row| &row.external_ips),
        ingress: addresses(|row| &row.load_balancer_ips),
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
    Some(FrontendEntry::new(&marker, value, entry))
}

impl FrontendEntry {
    fn new(
        frontend: &Frontend,
        value: &FrontendValue,
        entry: &dyn Fn(&'static str, &[u8]) -> Entry,
    ) -> Self {
        Self {
            frontend: frontend.to_string(),
            kind: kind_name(value),
            policy: policy_name(value),
            base: value.base,
            len: value.len,
            local_len: value.local_len,
            ranges: value.ranges,
            entry: entry(frontend_map(frontend), &frontend_key(frontend)),
        }
    }
}

impl Port {
    /// All places where something of it lies.
    fn entries(&self) -> Vec<&Entry> {
        let frontends = self.frontend_entries.iter().map(|frontend| &frontend.entry);
        let ranges = self.range_entries.iter().map(|range| &range.entry);
        let slots = self.slot_entries.iter().map(|slot| &slot.entry);
        let backends = self.backend_entries.iter().flat_map(|b| [&b.entry, &b.counters]);
        std::iter::once(&self.entry)
            .chain(frontends)
            .chain(ranges)
            .chain(slots)
            .chain(backends)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{sample, service_ref};

    fn described(name: &str) -> Description {
        let snapshot = sample::vote();
        let service = service_ref::find(&snapshot, name).unwrap();
        describe(&snapshot, &service, Path::new("/sys/fs/bpf/lb/v3/maps"))
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
External IPs: <none>
Ingress:      <none>
Maps:         /sys/fs/bpf/lb/v3/maps

Port:         http  80:30000/TCP IPv4
Service id:   1 (LB_SERVICES key 01 00 00 00)
Policies:     internal Cluster, external Cluster
Affinity:     none
Frontends:    LB4_FRONTENDS
  FRONTEND                     KIND       POLICY   SLOTS    LOCAL SLOTS  KEY
  10.96.0.10:80/TCP            ClusterIP  Cluster  2..4     -            0a 60 00 0a 50 00 06 00
  10.96.0.10 (any other port)  Marker     -        refused  -            0a 60 00 0a 00 00 00 00
  192.0.2.1:30000/TCP          NodePort   Cluster  2..4     -            c0 00 02 01 30 75 06 00
Slots:        LB_SLOTS from key 02 00 00 00: backends 1 2
Backends:     LB4_BACKENDS, counters LB_BACKEND_STAT
  ID  ADDRESS          STATE    SETS     NODE     SLOTS  FLOWS  SHARE  PACKETS     BYTES  KEY
   1  10.244.0.2:8080  serving  cluster  unknown      1     18  60.0%      180  17.5 KiB  01 00 00 00
   2  10.244.1.2:8080  serving  cluster  unknown      1     10  33.3%      100   9.7 KiB  02 00 00 00
   3  10.244.1.3:8080  gone     none     unknown      0      2   6.7%       20   1.9 KiB  03 00 00 00
";
        assert!(text.starts_with(begins), "{text}");
        let command = "\n  bpftool map lookup pinned /sys/fs/bpf/lb/v3/maps/LB4_FRONTENDS \
                       key hex 0a 60 00 0a 50 00 06 00\n";
        assert!(text.contains(command), "{text}");
    }

    #[test]
    fn policies_affinity_and_source_ranges_are_shown() {
        let mut snapshot = sample::shop();
        let service = service_ref::find(&snapshot, "shop").unwrap();
        let maps = Path::new("/sys/fs/bpf/lb/v3/maps");
        let description = describe(&snapshot, &service, maps);
        let begins = "\
Name:         shop
Namespace:    default
Type:         LoadBalancer
IP Families:  IPv4
IPs:          10.96.0.20
External IPs: 203.0.113.7
Ingress:      198.51.100.7
Maps:         /sys/fs/bpf/lb/v3/maps

Port:         <unset>  80:30001/TCP IPv4
Service id:   1 (LB_SERVICES key 01 00 00 00)
Policies:     internal Cluster, external Local
Affinity:     ClientIP, 10800 s
Sources:      10.0.0.0/8, 192.0.2.0/24 (LB4_RANGES set 5)
Frontends:    LB4_FRONTENDS
  FRONTEND             KIND          POLICY   SLOTS  LOCAL SLOTS  KEY
  10.96.0.20:80/TCP    ClusterIP     Cluster  0..2   2..3         0a 60 00 14 50 00 06 00
  192.0.2.1:30001/TCP  NodePort      Local    0..2   2..3         c0 00 02 01 31 75 06 00
  198.51.100.7:80/TCP  LoadBalancer  Local    0..2   2..3         c6 33 64 07 50 00 06 00
  203.0.113.7:80/TCP   ExternalIP    Local    0..2   2..3         cb 00 71 07 50 00 06 00
Slots:        LB_SLOTS from key 00 00 00 00: backends 1 2, local 2
Backends:     LB4_BACKENDS, counters LB_BACKEND_STAT
  ID  ADDRESS          STATE    SETS           NODE       SLOTS  FLOWS  SHARE  PACKETS  BYTES  KEY
   1  10.244.0.2:8080  serving  cluster        elsewhere      1      0      -        0    0 B  01 00 00 00
   2  10.244.0.3:8080  serving  cluster,local  here           2      0      -        0    0 B  02 00 00 00
";
        let shown = text(&description, true);
        assert!(shown.starts_with(begins), "{shown}");
        let command = "LB4_RANGES key hex 28 00 00 00 05 00 00 00 0a 00 00 00\n";
        assert!(shown.contains(command), "{shown}");
        let json = serde_json::to_value(&description).unwrap();
        assert_eq!(json["ingress"], serde_json::json!(["198.51.100.7"]));
        assert_eq!(json["ports"][0]["backend_entries"][1]["sets"], "cluster,local");
        assert_eq!(json["ports"][0]["backend_entries"][1]["location"], "here");

        snapshot.contents.ranges.clear();
        let shown = text(&describe(&snapshot, &service, maps), false);
        assert!(shown.contains("Sources:      nobody may use"), "{shown}");
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
