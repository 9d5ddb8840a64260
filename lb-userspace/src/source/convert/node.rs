//! Nodes.

use k8s_openapi::api::core::v1::Node as NodeObject;

use super::{super::address, label};
use crate::model::Node;

/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Converts a Node.
pub fn node(object: &NodeObject) -> Node {
    let status = object.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of_type = |kind: &'static str| {
        let kind = addresses.iter().filter(move |address| address.type_ == kind);
        kind.filter_map(|address| address::parse(&address.address).ok())
    };
    let spec = object.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    Node {
        name: object.metadata.name.as_deref().unwrap_or_default().into(),
        zone: label(&object.metadata, ZONE).filter(|zone| !zone.is_empty()).map(Into::into),
        deleting: object.metadata.deletion_timestamp.is_some(),
        taints: taints.iter().map(|taint| taint.key.as_str().into()).collect(),
        addresses: of_type("InternalIP").chain(of_type("ExternalIP")).collect(),
    }
}
