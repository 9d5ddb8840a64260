//! What is wrong with a Service as seen together with its slices and with other Services.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use lb_common::Family;

use super::{
    claims::{self, Claims, Right},
    object::{Exposure, ProtoName, Service, Slice},
    problem::{Problem, Remark, Subject},
    select::is_used,
};

/// Problems of the Service itself, as far as it is served, beside what is `refused` of it.
pub(super) fn service(
    service: &Service,
    refused: impl Iterator<Item = Remark>,
    slices: &[Arc<Slice>],
    claims: &Claims,
) -> Vec<Problem> {
    let mut remarks = service.remarks.clone();
    remarks.extend(refused);
    // One sentence per claim and holder: a node port lost in both families is one loss.
    let mut lost = BTreeSet::new();
    claims::of(service, |claim| {
        if let Some(holder) = claims.holder(&claim)
            && holder.name != service.name
        {
            let right = claim.right(holder);
            let why = match right {
                _ if right == claim.right(service) => "which is older or had it first",
                Right::Allocated => "whose cluster IP it is",
                Right::LoadBalancer | Right::ExternalIp => "whose load balancer has it",
            };
            let holder = &holder.name;
            let _new =
                lost.insert(format!("{claim} belongs to Service {holder}, {why}: not programmed"));
        }
    });
    remarks.extend(lost.into_iter().map(Remark::warning));
    let serving = slices.iter().any(|slice| is_used(slice) && !slice.endpoints.is_empty());
    if service.exposure == Exposure::Vips && serving {
        for port in &service.ports {
            let joins = |slice: &Arc<Slice>| {
                slice.ports.iter().any(|p| p.name == port.name && p.proto == port.proto)
            };
            if !slices.iter().any(joins) {
                remarks.push(Remark::warning(format!(
                    "port {:?} ({}) is in none of its EndpointSlices: connections to it are refused",
                    port.name,
                    ProtoName(port.proto)
                )));
            }
        }
    }
    let subject = || Subject::Service(service.name.clone());
    remarks.iter().map(|remark| remark.about(subject(), service.file.clone())).collect()
}

/// Problems of a slice, given the Service that it names, if there is one.
pub(super) fn slice(slice: &Slice, service: Option<&Service>) -> Vec<Problem> {
    let mut remarks = slice.remarks.clone();
    if let Some(service) = service
        && service.exposure == Exposure::Vips
        && is_used(slice)
        && let Some(family) = slice.family
    {
        remarks.extend(contradiction(slice, service, family).map(Remark::warning));
    }
    let subject = || Subject::Slice(slice.name.clone());
    remarks.iter().map(|remark| remark.about(subject(), slice.file.clone())).collect()
}

/// Why nothing of `slice` can ever serve `service`, if so.
fn contradiction(slice: &Slice, service: &Service, family: Family) -> Option<String> {
    let name = &service.name;
    if service.vip(family).is_none() {
        return Some(format!(
            "its addresses are {family} but Service {name} has no {family} cluster IP: not used"
        ));
    }
    let joins = slice.ports.iter().any(|port| {
        service.ports.iter().any(|other| other.name == port.name && other.proto == port.proto)
    });
    if joins || service.ports.is_empty() || slice.ports.is_empty() {
        return None;
    }
    let mut text = String::from("none of its ports (");
    list(&mut text, slice.ports.iter().map(|port| (&*port.name, port.proto)));
    text.push_str(") is a port of Service ");
    let _infallible = write!(text, "{name} (");
    list(&mut text, service.ports.iter().map(|port| (&*port.name, port.proto)));
    text.push_str("), by name and protocol: not used");
    Some(text)
}

fn list<'a>(text: &mut String, ports: impl Iterator<Item = (&'a str, u8)>) {
    for (index, (name, proto)) in ports.enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _infallible = write!(text, "{comma}{name:?} {}", ProtoName(proto));
    }
}
