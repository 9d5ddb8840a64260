//! From Kubernetes objects to those of the model: the one place that knows both.
//!
//! Invariant: a conversion is a pure function. What cannot be used is left out with a remark that
//! says so; an object that cannot be used at all is an error.

mod intern;
mod node;
mod reach;
mod service;
mod slice;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lb_common::proto;

pub use self::{node::node, service::service, slice::slice};
use crate::model::ObjectName;

/// The label that gives a Service to another proxy, whatever its value.
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label of slices that no proxy shall use, whatever its value.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

fn object_name(metadata: &ObjectMeta) -> Result<ObjectName, String> {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    match metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(ObjectName::new(namespace.unwrap_or("default"), name)),
        Some(_) | None => Err("it has no name".into()),
    }
}

fn label<'a>(metadata: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(label).map(String::as_str)
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    self::label(metadata, label).is_some()
}

fn protocol_number(protocol: Option<&str>) -> Result<u8, String> {
    match protocol {
        None | Some("TCP") => Ok(proto::TCP),
        Some("UDP") => Ok(proto::UDP),
        Some("SCTP") => Ok(proto::SCTP),
        Some(other) => Err(format!("{other:?} is none of TCP, UDP, SCTP")),
    }
}

fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(format!("{number} is not a port number (1 to 65535)")),
    }
}
