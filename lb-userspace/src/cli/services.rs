//! `lb services`: one line a Service port and family.
//!
//! Everything comes from the maps: what is shown is what forwards, not what was asked for.

use std::collections::BTreeSet;

use lb_common::{FrontendKind, ServiceInfo};
use serde::Serialize;

use super::{
    snapshot::{Programmed, Snapshot},
    table::{Table, percent},
};
use crate::plan::{ProtoName, ServiceId};

/// One Service port in one family.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ServiceRow {
    /// Service id.
    pub id: u32,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Name of the port.
    pub port_name: String,
    /// `ClusterIP` or `NodePort`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Port at the ClusterIPs.
    pub port: Option<u16>,
    /// Port at the addresses of the node.
    pub node_port: Option<u16>,
    /// Protocol by name.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Frontends that are programmed.
    pub frontends: usize,
    /// Backends that new connections can get.
    pub ready: usize,
    /// Backends whose id is in use, those that left and still have flows too.
    pub backends: usize,
    /// Flows that selected a backend of it.
    pub flows: u64,
    /// Packets of those flows.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// One row for each Service port, sorted by name.
pub fn rows(snapshot: &Snapshot) -> Vec<ServiceRow> {
    let frontends = snapshot.frontends_by_service();
    let backends = snapshot.backends_by_service();
    let mut rows: Vec<ServiceRow> = snapshot
        .contents
        .services
        .iter()
        .map(|(id, info)| {
            let frontends = frontends.get(id).map_or(&[][..], Vec::as_slice);
            let backends = backends.get(id).map_or(&[][..], Vec::as_slice);
            let mut row = row(*id, info, frontends);
            row.ready = snapshot.selectable(frontends).len();
            row.backends = backends.len();
            for (backend, _) in backends {
                let stats = snapshot.stats_of(*backend);
                row.flows += stats.flows;
                row.packets += stats.packets;
                row.bytes += stats.bytes;
            }
            row
        })
        .collect();
    rows.sort_by(|a, b| {
        let key = |row: &ServiceRow| {
            (row.namespace.clone(), row.name.clone(), row.port, row.protocol.clone(), row.family)
        };
        key(a).cmp(&key(b)).then(a.id.cmp(&b.id))
    });
    rows
}

fn row(ServiceId(id): ServiceId, info: &ServiceInfo, frontends: &[Programmed]) -> ServiceRow {
    let port_of = |kind: FrontendKind| {
        let of_kind = |(_, value): &&Programmed| value.kind == kind as u8;
        frontends.iter().find(of_kind).map(|(frontend, _)| frontend.port)
    };
    let node_port = port_of(FrontendKind::NodePort);
    ServiceRow {
        id,
        namespace: info.namespace().to_owned(),
        name: info.name().to_owned(),
        port_name: info.port_name().to_owned(),
        kind: if node_port.is_some() { "NodePort" } else { "ClusterIP" },
        port: port_of(FrontendKind::ClusterIp),
        node_port,
        protocol: ProtoName(info.proto).to_string(),
        family: if info.family == 6 { "IPv6" } else { "IPv4" },
        frontends: frontends.len(),
        ready: 0,
        backends: 0,
        flows: 0,
        packets: 0,
        bytes: 0,
    }
}

/// The rows as a table.
pub fn table(rows: &[ServiceRow]) -> String {
    if rows.is_empty() {
        return "no Services in the maps\n".to_owned();
    }
    let all: u64 = rows.iter().map(|row| row.flows).sum();
    let mut table = Table::new([
        "SERVICE",
        "TYPE",
        "PORT",
        "PROTO",
        "FAMILY",
        ">FRONTENDS",
        ">READY",
        ">FLOWS",
        ">SHARE",
    ]);
    for row in rows {
        table.row([
            format!("{}/{}", row.namespace, row.name),
            row.kind.to_owned(),
            row.ports(),
            row.protocol.clone(),
            row.family.to_owned(),
            row.frontends.to_string(),
            format!("{}/{}", row.ready, row.backends),
            row.flows.to_string(),
            percent(row.flows, all),
        ]);
    }
    table.to_string()
}

impl ServiceRow {
    /// Port and node port as kubectl prints them.
    pub fn ports(&self) -> String {
        match (self.port, self.node_port) {
            (Some(port), Some(node_port)) => format!("{port}:{node_port}"),
            (Some(port), None) => port.to_string(),
            (None, Some(node_port)) => format!("-:{node_port}"),
            (None, None) => "-".to_owned(),
        }
    }
}

/// How many different Services there are, whatever their ports and families.
pub fn count(snapshot: &Snapshot) -> usize {
    let names: BTreeSet<(&str, &str)> =
        snapshot.contents.services.values().map(|info| (info.namespace(), info.name())).collect();
    names.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn a_service_has_one_line_a_port_and_family() {
        let rows = rows(&sample::vote());
        let expected = "\
SERVICE       TYPE       PORT      PROTO  FAMILY  FRONTENDS  READY  FLOWS  SHARE
default/dns   ClusterIP  53        UDP    IPv4            1    0/1      0   0.0%
default/vote  NodePort   80:30000  TCP    IPv4            2    2/3     30  75.0%
default/vote  NodePort   80:30000  TCP    IPv6            2    1/1     10  25.0%
";
        assert_eq!(table(&rows), expected);
        assert_eq!(count(&sample::vote()), 2);
    }

    #[test]
    fn empty_maps_say_so() {
        assert_eq!(table(&rows(&Snapshot::default())), "no Services in the maps\n");
    }
}
