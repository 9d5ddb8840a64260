//! `lb backends`: one line a backend, with what it got.

use serde::Serialize;

use super::{
    service_ref::ServiceRef,
    snapshot::{Snapshot, backend_addr},
    table::{Table, bytes, percent},
};
use crate::plan::{BackendId, ProtoName, set_names};

/// One backend.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct BackendRow {
    /// Backend id.
    pub id: u32,
    /// The Service port that it belongs to.
    pub service: String,
    /// Service id of that.
    pub service_id: u32,
    /// Address and port.
    pub address: String,
    /// Protocol by name.
    pub protocol: String,
    /// `serving`, or `gone` while only old flows use it.
    pub state: &'static str,
    /// The sets that it stands in: `cluster`, `local`, both, or `none`.
    pub sets: &'static str,
    /// Where it is: `here` for this node, `elsewhere`, or `unknown`.
    pub location: &'static str,
    /// Slots that name it: 0 when new connections do not get it.
    pub slots: usize,
    /// Flows that selected it.
    pub flows: u64,
    /// Flows that selected any backend of the same Service port.
    pub flows_of_service: u64,
    /// Packets of its flows.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// One row for each backend, sorted by Service and id; of one Service where one is given.
pub fn rows(snapshot: &Snapshot, only: Option<&ServiceRef>) -> Vec<BackendRow> {
    let wanted = only.map(|only| only.ids(snapshot));
    let frontends = snapshot.frontends_by_service();
    let mut rows = Vec::new();
    for (service, backends) in snapshot.backends_by_service() {
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&service)) {
            continue;
        }
        let flows_of_service =
            backends.iter().map(|(id, _)| snapshot.stats_of(*id).flows).sum::<u64>();
        // All frontends of a Service port name the same slots.
        let slots = frontends
            .get(&service)
            .and_then(|frontends| frontends.first())
            .map(|(_, value)| snapshot.slots_of(value))
            .map_or_else(Vec::new, |(cluster, local)| [cluster, local].concat());
        let name = snapshot.service_name(service);
        rows.extend(backends.iter().map(|(id, backend)| {
            let BackendId(number) = *id;
            let stats = snapshot.stats_of(*id);
            BackendRow {
                id: number,
                service: name.clone(),
                service_id: service.0,
                address: backend_addr(backend).to_string(),
                protocol: ProtoName(backend.proto).to_string(),
                state: backend.state.name(),
                sets: set_names(backend.sets),
                location: backend.location.name(),
                slots: slots.iter().filter(|slot| **slot == number).count(),
                flows: stats.flows,
                flows_of_service,
                packets: stats.packets,
                bytes: stats.bytes,
            }
        }));
    }
    rows.sort_by(|a, b| (&a.service, a.service_id, a.id).cmp(&(&b.service, b.service_id, b.id)));
    rows
}

/// The rows as a table.
pub fn table(rows: &[BackendRow]) -> String {
    if rows.is_empty() {
        return "no backends in the maps\n".to_owned();
    }
    let mut table = Table::new([
        "SERVICE", ">ID", "ADDRESS", "PROTO", "STATE", "SETS", "NODE", ">SLOTS", ">FLOWS",
        ">SHARE", ">PACKETS", ">BYTES",
    ]);
    for row in rows {
        table.row([
            row.service.clone(),
            row.id.to_string(),
            row.address.clone(),
            row.protocol.clone(),
            row.state.to_owned(),
            row.sets.to_owned(),
            row.location.to_owned(),
            row.slots.to_string(),
            row.flows.to_string(),
            percent(row.flows, row.flows_of_service),
            row.packets.to_string(),
            bytes(row.bytes),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{sample, service_ref};

    #[test]
    fn a_backend_has_its_share_of_its_own_service() {
        let snapshot = sample::vote();
        let vote = service_ref::find(&snapshot, "vote").unwrap();
        let expected = "\
SERVICE            ID  ADDRESS             PROTO  STATE    SETS     NODE     SLOTS  FLOWS   SHARE  PACKETS     BYTES
default/vote:http   1  10.244.0.2:8080     TCP    serving  cluster  unknown      1     18   60.0%      180  17.5 KiB
default/vote:http   2  10.244.1.2:8080     TCP    serving  cluster  unknown      1     10   33.3%      100   9.7 KiB
default/vote:http   3  10.244.1.3:8080     TCP    gone     none     unknown      0      2    6.7%       20   1.9 KiB
default/vote:http   4  [fd00:244::2]:8080  TCP    serving  cluster  unknown      1     10  100.0%      100   9.7 KiB
";
        assert_eq!(table(&rows(&snapshot, Some(&vote))), expected);
        assert_eq!(rows(&snapshot, None).len(), 5);
    }
}
