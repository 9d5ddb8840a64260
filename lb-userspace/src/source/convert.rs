//! From Kubernetes objects to those of the model: the one place that knows both.
//!
//! Invariant: a conversion is a pure function. What cannot be used is left out with a remark that
//! says so; an object that cannot be used at all is an error.

use std::{net::IpAddr, path::Path, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{
            Node as NodeObject, Service as ServiceObject, ServicePort as ServicePortObject,
        },
        discovery::v1::{Endpoint as EndpointObject, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use lb_common::{Family, proto};

use super::address;
use crate::model::{
    Conditions, Endpoint, Exposure, Node, ObjectName, ProtoName, Remark, Service, ServicePort,
    Slice, SlicePort, family,
};

/// The label that says which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that gives a Service to another proxy, whatever its value.
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label of slices that no proxy shall use, whatever its value.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The annotation that says when what led to the last change of a slice happened.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Longest name that fits into the maps.
const MAX_NAME: usize = 63;

/// Converts a Service.
///
/// # Errors
///
/// Why nothing of it can be used.
pub fn service(object: &ServiceObject, file: Option<&Arc<Path>>) -> Result<Service, String> {
    let name = object_name(&object.metadata)?;
    for (what, text) in [("namespace", &name.namespace), ("name", &name.name)] {
        if text.len() > MAX_NAME {
            return Err(format!("its {what} is longer than {MAX_NAME} bytes: not programmed"));
        }
    }
    let mut remarks = Vec::new();
    let mut service = Service {
        file: file.cloned(),
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        uid: object.metadata.uid.as_deref().map(Into::into),
        exposure: exposure(object),
        ..Service::new(name)
    };
    if service.exposure == Exposure::Vips {
        for vip in vips(object, &mut remarks) {
            match vip {
                IpAddr::V4(vip) => service.vip4 = service.vip4.or(Some(vip)),
                IpAddr::V6(vip) => service.vip6 = service.vip6.or(Some(vip)),
            }
        }
        if service.vips().next().is_none() {
            service.exposure = Exposure::Unallocated;
        }
    }
    match service.exposure {
        Exposure::Vips => {
            service.ports = ports(object, &mut remarks);
            remarks.extend(not_honoured(object).map(Remark::notice));
        }
        Exposure::Unallocated if remarks.is_empty() => {
            remarks.push(Remark::notice("it has no cluster IP yet: not programmed"));
        }
        Exposure::Unallocated
        | Exposure::Headless
        | Exposure::ExternalName
        | Exposure::OtherProxy => {}
    }
    service.remarks = remarks;
    Ok(service)
}

fn object_name(metadata: &ObjectMeta) -> Result<ObjectName, String> {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    match metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(ObjectName::new(namespace.unwrap_or("default"), name)),
        Some(_) | None => Err("it has no name".into()),
    }
}

fn exposure(object: &ServiceObject) -> Exposure {
    let spec = object.spec.as_ref();
    if has_label(&object.metadata, PROXY_NAME) {
        return Exposure::OtherProxy;
    }
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Exposure::ExternalName;
    }
    match cluster_ips(object).next() {
        Some("None") => Exposure::Headless,
        Some(_) => Exposure::Vips,
        None => Exposure::Unallocated,
    }
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

fn label<'a>(metadata: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(label).map(String::as_str)
}

/// `clusterIPs`, or `clusterIP` where an old object has only that.
fn cluster_ips(object: &ServiceObject) -> impl Iterator<Item = &str> {
    let spec = object.spec.as_ref();
    let list = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.cluster_ip.as_ref()).filter(|_| list.is_empty());
    list.iter().chain(one).map(String::as_str).filter(|ip| !ip.is_empty())
}

/// The VIPs, at most one a family. Which family an address is for is said by `ipFamilies` at the
/// same place; where that says nothing, by the address.
fn vips(object: &ServiceObject, remarks: &mut Vec<Remark>) -> Vec<IpAddr> {
    let spec = object.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let mut vips: Vec<IpAddr> = Vec::new();
    for (index, text) in cluster_ips(object).enumerate() {
        let vip = match address::parse(text) {
            Ok(vip) => vip,
            Err(why) => {
                remarks.push(Remark::warning(format!("cluster IP {why}: not programmed")));
                continue;
            }
        };
        let of = family(vip);
        let said = families.get(index).map(String::as_str);
        let problem = match said {
            Some(said) if said != of.to_string() => format!("is not {said}, as ipFamilies says"),
            None if !families.is_empty() => "is in none of its ipFamilies".into(),
            Some(_) | None if vips.iter().any(|other| family(*other) == of) => {
                format!("is a second {of} address")
            }
            Some(_) | None => {
                vips.push(vip);
                continue;
            }
        };
        remarks.push(Remark::warning(format!("cluster IP {vip} {problem}: not programmed")));
    }
    vips
}

fn ports(object: &ServiceObject, remarks: &mut Vec<Remark>) -> Vec<ServicePort> {
    let Some(spec) = &object.spec else { return Vec::new() };
    let exposed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let mut ports: Vec<ServicePort> = Vec::new();
    for object in spec.ports.as_deref().unwrap_or_default() {
        match service_port(object, exposed, &ports, remarks) {
            Ok(port) => ports.push(port),
            Err(why) => {
                let name = object.name.as_deref().unwrap_or_default();
                let number = object.port;
                remarks.push(Remark::warning(format!(
                    "port {name:?} ({number}): {why}: not programmed"
                )));
            }
        }
    }
    ports
}

fn service_port(
    object: &ServicePortObject,
    exposed: bool,
    others: &[ServicePort],
    remarks: &mut Vec<Remark>,
) -> Result<ServicePort, String> {
    let ServicePortObject { name, node_port, port, protocol, app_protocol: _, target_port: _ } =
        object;
    let name = name.as_deref().unwrap_or_default();
    if name.len() > MAX_NAME {
        return Err(format!("its name is longer than {MAX_NAME} bytes"));
    }
    let proto = protocol_number(protocol.as_deref())?;
    if proto == proto::SCTP {
        return Err("SCTP is not supported yet".into());
    }
    let port = port_number(*port)?;
    if others.iter().any(|other| other.proto == proto && &*other.name == name) {
        return Err(format!("another {} port has this name", ProtoName(proto)));
    }
    if others.iter().any(|other| other.proto == proto && other.port == port) {
        return Err(format!("another {} port has this number", ProtoName(proto)));
    }
    let node_port = match node_port.filter(|port| *port != 0) {
        None => None,
        Some(number) if !exposed => {
            remarks.push(Remark::notice(format!(
                "node port {number} is not used: the Service is not of type NodePort or LoadBalancer"
            )));
            None
        }
        Some(number) => match port_number(number) {
            Ok(number)
                if others.iter().any(|o| o.proto == proto && o.node_port == Some(number)) =>
            {
                remarks.push(Remark::warning(format!(
                    "node port {number}/{} is given twice: used for the first port",
                    ProtoName(proto)
                )));
                None
            }
            Ok(number) => Some(number),
            Err(why) => {
                remarks.push(Remark::warning(format!("node port: {why}: not programmed")));
                None
            }
        },
    };
    Ok(ServicePort { name: name.into(), proto, port, node_port })
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

/// What a Service asks for that is not there yet, and what happens instead: one sentence.
fn not_honoured(object: &ServiceObject) -> Option<String> {
    let spec = object.spec.as_ref()?;
    let external = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let mut wishes = Vec::new();
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        wishes.push("sessionAffinity ClientIP (treated as None)");
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        wishes.push("internalTrafficPolicy Local (treated as Cluster)");
    }
    if external && spec.external_traffic_policy.as_deref() == Some("Local") {
        wishes.push("externalTrafficPolicy Local (treated as Cluster)");
    }
    if some(&spec.external_ips) {
        wishes.push("externalIPs (not served)");
    }
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    if ingress.iter().any(|ingress| ingress.ip.is_some()) {
        wishes.push("addresses of the load balancer (not served)");
    }
    if some(&spec.load_balancer_source_ranges) {
        wishes.push("loadBalancerSourceRanges (every client is admitted)");
    }
    (!wishes.is_empty()).then(|| format!("not honoured yet: {}", wishes.join(", ")))
}

/// Converts an EndpointSlice.
///
/// # Errors
///
/// Why nothing of it can be used.
pub fn slice(object: &EndpointSlice, file: Option<&Arc<Path>>) -> Result<Slice, String> {
    let EndpointSlice { address_type, endpoints, metadata, ports } = object;
    let mut remarks = Vec::new();
    let labels = metadata.labels.as_ref();
    let service =
        labels.and_then(|labels| labels.get(SERVICE_NAME)).filter(|name| !name.is_empty());
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
        service: service.map(|name| name.as_str().into()),
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

fn slice_endpoints(
    objects: &[EndpointObject],
    of: Family,
    remarks: &mut Vec<Remark>,
) -> Vec<Endpoint> {
    let convert = |object: &EndpointObject| {
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
            node: object.node_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            hints: None,
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
