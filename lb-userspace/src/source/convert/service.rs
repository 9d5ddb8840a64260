//! Services.

use std::{net::IpAddr, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{Service as ServiceObject, ServicePort as ServicePortObject};

use super::{
    super::address, PROXY_NAME, has_label, object_name, port_number, protocol_number, reach,
};
use crate::model::{Exposure, ProtoName, Remark, Service, ServicePort, family};

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
            reach::add(object, &mut service, &mut remarks);
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
