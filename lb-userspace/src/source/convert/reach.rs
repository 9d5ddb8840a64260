//! By which addresses other than its VIPs a Service is reached, by whom, and whom they get.

use std::{net::IpAddr, num::NonZeroU32};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service as ServiceObject, ServiceSpec};
use lb_common::Family;

use super::{super::address, port_number};
use crate::model::{Remark, Service, SourceRanges, TrafficPolicy, family};

/// Seconds of session affinity: what a Service that says nothing gets, and the most.
const AFFINITY: (i32, i32) = (10_800, 86_400);

/// Adds everything to a Service whose VIPs are known.
pub(super) fn add(object: &ServiceObject, service: &mut Service, remarks: &mut Vec<Remark>) {
    let Some(spec) = &object.spec else { return };
    let kind = spec.type_.as_deref();
    let balanced = kind == Some("LoadBalancer");
    if balanced {
        service.load_balancer_ips = load_balancer_ips(object, service, remarks);
        service.source_ranges = source_ranges(spec, service, remarks);
    } else if ingress(object).iter().any(|ingress| ingress.ip.is_some()) {
        remarks.push(Remark::notice(
            "the addresses of its load balancer are not used: it is not of type LoadBalancer",
        ));
    }
    service.external_ips = external_ips(spec, service, remarks);
    let listed = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    service.internal_policy =
        policy("internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), remarks);
    // Elsewhere the policy has no meaning.
    if balanced || kind == Some("NodePort") || listed {
        service.external_policy =
            policy("externalTrafficPolicy", spec.external_traffic_policy.as_deref(), remarks);
    }
    service.affinity = affinity(spec, remarks);
    if balanced && service.external_policy == TrafficPolicy::Local {
        service.health_check_node_port = health_check_node_port(spec, remarks);
    }
}

fn ingress(object: &ServiceObject) -> &[LoadBalancerIngress] {
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// Traffic to an address of mode `Proxy` is for the load balancer itself; one that has only a name
/// needs no help.
fn load_balancer_ips(
    object: &ServiceObject,
    service: &Service,
    remarks: &mut Vec<Remark>,
) -> Vec<IpAddr> {
    let ours = |ingress: &&LoadBalancerIngress| ingress.ip_mode.as_deref() != Some("Proxy");
    let texts = ingress(object).iter().filter(ours).filter_map(|ingress| ingress.ip.as_deref());
    let mut ips = usable("address of the load balancer", texts, service, remarks);
    ips.retain(|ip| service.vips().all(|vip| vip != *ip));
    ips
}

/// An address that is also one of the load balancer counts as that: otherwise it would be a way
/// around the source ranges.
fn external_ips(spec: &ServiceSpec, service: &Service, remarks: &mut Vec<Remark>) -> Vec<IpAddr> {
    let texts = spec.external_ips.iter().flatten().map(String::as_str);
    let mut ips = usable("external IP", texts, service, remarks);
    ips.retain(|ip| {
        service.vips().all(|vip| vip != *ip) && !service.load_balancer_ips.contains(ip)
    });
    ips
}

/// The addresses in `texts` of the families that the Service has, sorted, each once.
fn usable<'a>(
    what: &str,
    texts: impl Iterator<Item = &'a str>,
    service: &Service,
    remarks: &mut Vec<Remark>,
) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        match address::parse(text) {
            Ok(ip) if service.vip(family(ip)).is_some() => ips.push(ip),
            Ok(ip) => {
                let of = family(ip);
                remarks.push(Remark::notice(format!(
                    "{what} {ip}: the Service has no {of} cluster IP: not programmed"
                )));
            }
            Err(why) => {
                remarks.push(Remark::warning(format!("{what} {why}: not programmed")));
            }
        }
    }
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// Where no range can be read, nobody may use the addresses: whoever wrote the list did not mean
/// everybody.
fn source_ranges(spec: &ServiceSpec, service: &Service, remarks: &mut Vec<Remark>) -> SourceRanges {
    let texts = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if texts.is_empty() {
        return SourceRanges::default();
    }
    let mut ranges = Vec::with_capacity(texts.len());
    for text in texts {
        match address::parse_network(text) {
            Ok(range) => ranges.push(range),
            Err(why) => remarks.push(Remark::warning(format!("source range {why}: ignored"))),
        }
    }
    if ranges.is_empty() {
        remarks.push(Remark::warning(
            "none of its source ranges can be read: nobody may use the addresses of its load \
             balancer",
        ));
        return SourceRanges { v4: Some(Vec::new()), v6: Some(Vec::new()) };
    }
    let of = |of: Family| {
        let mut ranges: Vec<IpNet> =
            ranges.iter().copied().filter(|range| family(range.addr()) == of).collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    };
    let mut restricted = |of: Family, ranges: Vec<IpNet>| {
        if ranges.is_empty() && service.load_balancer_ips.iter().any(|ip| family(*ip) == of) {
            remarks.push(Remark::warning(format!(
                "none of its source ranges is {of}: everybody may use the {of} addresses of its \
                 load balancer"
            )));
        }
        let all = ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0);
        (!all).then_some(ranges)
    };
    SourceRanges {
        v4: restricted(Family::V4, of(Family::V4)),
        v6: restricted(Family::V6, of(Family::V6)),
    }
}

fn policy(field: &str, text: Option<&str>, remarks: &mut Vec<Remark>) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            remarks.push(Remark::warning(format!(
                "{field} {other:?} is neither Cluster nor Local: treated as Cluster"
            )));
            TrafficPolicy::Cluster
        }
    }
}

fn affinity(spec: &ServiceSpec, remarks: &mut Vec<Remark>) -> Option<NonZeroU32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            remarks.push(Remark::warning(format!(
                "sessionAffinity {other:?} is neither ClientIP nor None: treated as None"
            )));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let (otherwise, most) = AFFINITY;
    let asked = config.and_then(|config| config.timeout_seconds).unwrap_or(otherwise);
    let given = asked.clamp(1, most);
    if given != asked {
        remarks.push(Remark::warning(format!(
            "session affinity of {asked} s is not between 1 and {most}: treated as {given} s"
        )));
    }
    u32::try_from(given).ok().and_then(NonZeroU32::new)
}

fn health_check_node_port(spec: &ServiceSpec, remarks: &mut Vec<Remark>) -> Option<u16> {
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    match port_number(number) {
        Ok(port) => Some(port),
        Err(why) => {
            remarks.push(Remark::warning(format!("health check node port: {why}: not served")));
            None
        }
    }
}
