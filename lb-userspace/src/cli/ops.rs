//! Ops as JSON: what `lb plan -o json` prints, one object a write.

use lb_common::{FrontendKind, names};
use serde::Serialize;

use super::snapshot::{backend_addr, backend_map, frontend_map, policy_name};
use crate::plan::{Op, ProtoName};

/// One write.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpRow {
    /// What is done: `put-service`, say.
    pub op: &'static str,
    /// Name of the map.
    pub map: &'static str,
    /// The same as text.
    pub text: String,
    /// Service id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<u32>,
    /// `namespace/name` of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Backend id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<u32>,
    /// Address and port of a backend, or of a frontend (port 0 in a marker).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Protocol by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// State of a backend, or kind of a frontend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// First slot, or index of a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<u32>,
    /// Number of slots, in a frontend of the cluster set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<u32>,
    /// Number of slots of the local set of a frontend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_len: Option<u32>,
    /// Policy of a frontend: `Cluster` or `Local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'static str>,
    /// Seconds of session affinity of a frontend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<u32>,
    /// The sets that a backend stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sets: Option<&'static str>,
    /// Id of a set of source ranges: of a range, or the one that a frontend names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<u32>,
    /// A source range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// Backend ids of the slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<u32>>,
}

/// What an op does, as the label of a metric and the word in JSON.
pub const fn kind(op: &Op) -> &'static str {
    match op {
        Op::PutService(..) => "put-service",
        Op::DeleteService(_) => "delete-service",
        Op::PutBackend(..) => "put-backend",
        Op::WriteSlots { .. } => "write-slots",
        Op::PutRange(_) => "put-range",
        Op::DeleteRange(_) => "delete-range",
        Op::SetFilter { .. } => "set-filter",
        Op::PutFrontend(..) => "put-frontend",
        Op::DeleteFrontend(_) => "delete-frontend",
    }
}

/// An op as JSON.
pub fn row(op: &Op) -> OpRow {
    let row = OpRow { op: kind(op), text: op.to_string(), ..OpRow::default() };
    match op {
        Op::PutService(id, info) => OpRow {
            map: names::LB_SERVICES,
            service: Some(id.0),
            name: Some(format!("{}/{}", info.namespace(), info.name())),
            protocol: Some(ProtoName(info.proto).to_string()),
            ..row
        },
        Op::DeleteService(id) => OpRow { map: names::LB_SERVICES, service: Some(id.0), ..row },
        Op::PutBackend(id, backend) => OpRow {
            map: backend_map(backend),
            service: Some(backend.service.0),
            backend: Some(id.0),
            address: Some(backend_addr(backend).to_string()),
            protocol: Some(ProtoName(backend.proto).to_string()),
            kind: Some(backend.state.name()),
            sets: Some(crate::plan::set_names(backend.sets)),
            ..row
        },
        Op::WriteSlots { base, backends } => OpRow {
            map: names::LB_SLOTS,
            base: Some(*base),
            len: u32::try_from(backends.len()).ok(),
            backends: Some(backends.iter().map(|id| id.0).collect()),
            ..row
        },
        Op::PutRange(range) | Op::DeleteRange(range) => OpRow {
            map: crate::maps::map_of(op),
            set: Some(range.set.0),
            range: range.net().map(|net| net.to_string()),
            ..row
        },
        Op::SetFilter { word, value: _ } => {
            OpRow { map: names::LB_VIP_FILTER, base: Some(*word), ..row }
        }
        Op::PutFrontend(frontend, value) => OpRow {
            map: frontend_map(frontend),
            service: (!frontend.is_marker()).then_some(value.service),
            address: Some(std::net::SocketAddr::new(frontend.addr, frontend.port).to_string()),
            protocol: (!frontend.is_marker()).then(|| ProtoName(frontend.proto).to_string()),
            kind: FrontendKind::from_u8(value.kind).map(FrontendKind::name),
            base: (value.slots() > 0).then_some(value.base),
            len: (!frontend.is_marker()).then_some(value.len),
            local_len: (!frontend.is_marker()).then_some(value.local_len),
            policy: (!frontend.is_marker()).then(|| policy_name(value)),
            affinity: (value.affinity > 0).then_some(value.affinity),
            set: (value.ranges > 0).then_some(value.ranges),
            ..row
        },
        Op::DeleteFrontend(frontend) => OpRow {
            map: frontend_map(frontend),
            address: Some(std::net::SocketAddr::new(frontend.addr, frontend.port).to_string()),
            protocol: (!frontend.is_marker()).then(|| ProtoName(frontend.proto).to_string()),
            ..row
        },
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{BackendState, FrontendValue, Location, proto};

    use super::*;
    use crate::plan::{Backend, BackendId, Frontend, ServiceId};

    #[test]
    fn ops_have_what_programs_ask_for() {
        let backend = Backend {
            addr: "fd44::5".parse().unwrap(),
            port: 8080,
            proto: proto::UDP,
            state: BackendState::Gone,
            service: ServiceId(3),
            sets: 0,
            location: Location::Unknown,
        };
        let json = serde_json::to_value(row(&Op::PutBackend(BackendId(7), backend))).unwrap();
        assert_eq!(json["op"], "put-backend");
        assert_eq!(json["map"], "LB6_BACKENDS");
        assert_eq!(json["address"], "[fd44::5]:8080");
        assert_eq!(json["service"], 3);
        assert_eq!(json["kind"], "gone");
        let marker =
            Op::PutFrontend(Frontend::marker([10, 0, 0, 1].into()), FrontendValue::default());
        let json = serde_json::to_value(row(&marker)).unwrap();
        assert_eq!(json["kind"], "Marker");
        assert_eq!(json.get("service"), None);
    }
}
