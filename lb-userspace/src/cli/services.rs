//! `lb services`: one line a Service port and family.
//!
//! Everything comes from the maps: what is shown is what forwards, not what was asked for.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{FrontendKind, ServiceInfo};
use serde::Serialize;

use super::{
    snapshot::{Programmed, Snapshot, policy_name, range_text},
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
    /// `ClusterIP`, `NodePort` or `LoadBalancer`, by its addresses.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// External IPs.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Port at all addresses but the node's.
    pub port: Option<u16>,
    /// Port at the addresses of the node.
    pub node_port: Option<u16>,
    /// Protocol by name.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// `Cluster` or `Local`; none without a cluster IP.
    pub internal_policy: Option<&'static str>,
    /// `Cluster` or `Local`; none without any other address.
    pub external_policy: Option<&'static str>,
    /// Seconds for which a client keeps its backend; 0 without session affinity.
    pub affinity: u32,
    /// From where the load balancer's addresses may be used; none when from everywhere.
    pub source_ranges: Option<Vec<String>>,
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
            let mut row = row(snapshot, *id, info, frontends);
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

fn row(
    snapshot: &Snapshot,
    ServiceId(id): ServiceId,
    info: &ServiceInfo,
    frontends: &[Programmed],
) -> ServiceRow {
    let of_kind =
        |kind: FrontendKind| frontends.iter().filter(move |(_, value)| value.kind == kind as u8);
    let ips = |kind| of_kind(kind).map(|(frontend, _)| frontend.addr).collect::<Vec<_>>();
    let policy = |external: bool| {
        let governed = frontends.iter().find(|(_, value)| value.is_external() == external);
        governed.map(|(_, value)| policy_name(value))
    };
    let node_port = of_kind(FrontendKind::NodePort).next().map(|(frontend, _)| frontend.port);
    let others = frontends.iter().find(|(_, v)| v.kind != FrontendKind::NodePort as u8);
    let restricted = frontends.iter().find_map(|(_, value)| snapshot.ranges_of(value));
    let load_balancer_ips = ips(FrontendKind::LoadBalancer);
    ServiceRow {
        id,
        namespace: info.namespace().to_owned(),
        name: info.name().to_owned(),
        port_name: info.port_name().to_owned(),
        kind: match (load_balancer_ips.is_empty(), node_port) {
            (false, _) => "LoadBalancer",
            (true, Some(_)) => "NodePort",
            (true, None) => "ClusterIP",
        },
        external_ips: ips(FrontendKind::ExternalIp),
        load_balancer_ips,
        port: others.map(|(frontend, _)| frontend.port),
        node_port,
        protocol: ProtoName(info.proto).to_string(),
        family: if info.family == 6 { "IPv6" } else { "IPv4" },
        internal_policy: policy(false),
        external_policy: policy(true),
        affinity: frontends.first().map_or(0, |(_, value)| value.affinity),
        source_ranges: restricted.map(|ranges| ranges.iter().map(range_text).collect()),
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
        "EXTERNAL-IP",
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
            row.external(),
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
    /// Addresses from outside the cluster, as kubectl prints them: the load balancer's, then others.
    pub fn external(&self) -> String {
        let all: Vec<String> = self
            .load_balancer_ips
            .iter()
            .chain(&self.external_ips)
            .map(ToString::to_string)
            .collect();
        if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
    }

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
SERVICE       TYPE       EXTERNAL-IP  PORT      PROTO  FAMILY  FRONTENDS  READY  FLOWS  SHARE
default/dns   ClusterIP  <none>       53        UDP    IPv4            1    0/1      0   0.0%
default/vote  NodePort   <none>       80:30000  TCP    IPv4            2    2/3     30  75.0%
default/vote  NodePort   <none>       80:30000  TCP    IPv6            2    1/1     10  25.0%
";
        assert_eq!(table(&rows), expected);
        assert_eq!(count(&sample::vote()), 2);
    }

    #[test]
    fn a_load_balancer_is_shown_with_its_addresses() {
        let rows = rows(&sample::shop());
        let expected = "\
SERVICE       TYPE          EXTERNAL-IP               PORT      PROTO  FAMILY  FRONTENDS  READY  FLOWS  SHARE
default/shop  LoadBalancer  198.51.100.7,203.0.113.7  80:30001  TCP    IPv4            4    2/2      0      -
";
        assert_eq!(table(&rows), expected);
        let row = serde_json::to_value(&rows[0]).unwrap();
        assert_eq!(row["load_balancer_ips"], serde_json::json!(["198.51.100.7"]));
        assert_eq!(
            (&row["internal_policy"], &row["external_policy"]),
            (&"Cluster".into(), &"Local".into())
        );
        assert_eq!(row["affinity"], 10800);
        assert_eq!(row["source_ranges"], serde_json::json!(["10.0.0.0/8", "192.0.2.0/24"]));
    }

    #[test]
    fn empty_maps_say_so() {
        assert_eq!(table(&rows(&Snapshot::default())), "no Services in the maps\n");
    }
}
