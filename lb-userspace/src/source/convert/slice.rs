//! EndpointSlices.

use std::{path::Path, sync::Arc};

use k8s_openapi::{
    api::discovery::v1::{Endpoint as EndpointObject, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use lb_common::Family;

use super::{
    super::address, HEADLESS, has_label, intern, label, object_name, port_number, protocol_number,
};
use crate::model::{Conditions, Endpoint, Hints, Remark, Slice, SlicePort, family};

/// The label that says which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The annotation that says when what led to the last change of a slice happened.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Converts an EndpointSlice.
///
/// # Errors
///
/// Why nothing of it can be used.
pub fn slice(object: &EndpointSlice, file: Option<&Arc<Path>>) -> Result<Slice, String> {
    let EndpointSlice { address_type, endpoints, metadata, ports } = object;
    let mut remarks = Vec::new();
    let service = label(metadata, SERVICE_NAME).filter(|name| !name.is_empty());
    if service.is_none() {
        remarks.push(Remark::warning(format!("it has no label {SERVICE_NAME}: not used")));
    }
    let family = match address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => {
            remarks.push(Remark::notice("its endpoints are names (FQDN): not used"));
            None
        }
        other => return Err(format!("addressType {other:?} is none of IPv4, IPv6, FQDN")),
    };
    let endpoints = endpoints.as_deref().unwrap_or_default();
    Ok(Slice {
        name: object_name(metadata)?,
        file: file.cloned(),
        service: service.map(Into::into),
        family,
        headless: has_label(metadata, HEADLESS),
        triggered: triggered(metadata),
        ports: slice_ports(ports.as_deref().unwrap_or_default(), &mut remarks),
        endpoints: family
            .map(|family| slice_endpoints(endpoints, family, &mut remarks))
            .unwrap_or_default(),
        remarks,
    })
}

/// When what made the controller change the slice happened, in microseconds since 1970.
fn triggered(metadata: &ObjectMeta) -> Option<i64> {
    let text = metadata.annotations.as_ref()?.get(TRIGGER_TIME)?;
    Some(text.parse::<jiff::Timestamp>().ok()?.as_microsecond())
}

fn slice_ports(objects: &[EndpointPort], remarks: &mut Vec<Remark>) -> Vec<SlicePort> {
    let convert = |object: &EndpointPort| {
        let EndpointPort { name, port, protocol, app_protocol: _ } = object;
        let name = name.as_deref().ok_or("a port without a name cannot be used")?;
        let proto = protocol_number(protocol.as_deref())?;
        let Some(number) = port.filter(|number| *number != 0) else {
            return Err(format!("port {name:?} has no number, which is not supported"));
        };
        let port = port_number(number).map_err(|why| format!("port {name:?}: {why}"))?;
        Ok(SlicePort { name: name.into(), proto, port })
    };
    let mut ports = Vec::with_capacity(objects.len());
    for object in objects {
        match convert(object) {
            Ok(port) => ports.push(port),
            Err(why) => remarks.push(Remark::warning(format!("{why}: not used"))),
        }
    }
    ports
}

/// For whom an endpoint is meant, in an order of our own.
fn hints(object: &EndpointObject, names: &mut intern::Names) -> Option<Arc<Hints>> {
    let object = object.hints.as_ref()?;
    let nodes = object.for_nodes.iter().flatten().map(|hint| &*hint.name);
    let zones = object.for_zones.iter().flatten().map(|hint| &*hint.name);
    names.hints(nodes, zones)
}

fn slice_endpoints(
    objects: &[EndpointObject],
    of: Family,
    remarks: &mut Vec<Remark>,
) -> Vec<Endpoint> {
    let mut names = intern::names();
    let mut convert = |object: &EndpointObject| {
        let text = object.addresses.first().ok_or("an endpoint has no address")?;
        let addr = address::parse(text).map_err(|why| format!("endpoint {why}"))?;
        if family(addr) != of {
            return Err(format!("endpoint {addr} is not {of}, as addressType says"));
        }
        let conditions = object.conditions.as_ref();
        let said =
            |condition: Option<Option<bool>>, otherwise| condition.flatten().unwrap_or(otherwise);
        Ok(Endpoint {
            addr,
            conditions: Conditions {
                ready: said(conditions.map(|c| c.ready), true),
                serving: said(conditions.map(|c| c.serving), true),
                terminating: said(conditions.map(|c| c.terminating), false),
            },
            node: object
                .node_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(|name| names.text(name)),
            hints: hints(object, &mut names),
        })
    };
    let mut endpoints = Vec::with_capacity(objects.len());
    for object in objects {
        match convert(object) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(why) => remarks.push(Remark::warning(format!("{why}: not used"))),
        }
    }
    endpoints
}
