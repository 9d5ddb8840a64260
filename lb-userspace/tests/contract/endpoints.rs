//! Endpoints as the contract reads them.
//!
//! Invariant: like the rest of the reading, this shares no code with the agent.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::{
    naive::At,
    network::address,
    world::{NODE, Name, World},
};

/// One endpoint of a port: what is left of several entries for one address and port.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) at: At,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    terminating: bool,
    pub(crate) here: bool,
    pub(crate) elsewhere: bool,
    nodes: Vec<String>,
    zones: Vec<String>,
}

/// ES-1 to ES-6, PORT-2 to PORT-6, SVC-10, FAM-8.
pub(crate) fn entries(
    world: &World,
    service: &Name,
    port: &str,
    proto: u8,
    v4: bool,
) -> Vec<Entry> {
    let mut all: BTreeMap<At, Vec<Entry>> = BTreeMap::new();
    for slice in slices(world, service, v4) {
        for slice_port in slice.ports.iter().flatten() {
            let Some(number) = slice_port.port.filter(|number| *number != 0) else { continue };
            let number = u16::try_from(number).expect("a port");
            if slice_port.name.as_deref() != Some(port)
                || protocol_number(slice_port.protocol.clone()) != proto
            {
                continue;
            }
            for endpoint in slice.endpoints.iter().flatten() {
                if let Some(entry) = entry(endpoint, number, v4) {
                    all.entry(entry.at).or_default().push(entry);
                }
            }
        }
    }
    // ES-3, and where that leaves it open: the one that is ready, then the one that serves, then the
    // nearest, then the one that says where it is.
    let best = |entries: Vec<Entry>| {
        entries
            .into_iter()
            .max_by_key(|e| {
                let near = |hints: &[String], ours: Option<&str>| match hints {
                    [] => 0,
                    hints if hints.iter().any(|hint| Some(&**hint) == ours) => 2,
                    _ => 1,
                };
                let hinted = (near(&e.nodes, Some(NODE)), near(&e.zones, world.zone));
                (!e.terminating, e.ready, e.serving, e.here, hinted, e.elsewhere)
            })
            .expect("an entry")
    };
    all.into_values().map(best).collect()
}

pub(crate) fn slices<'a>(
    world: &'a World,
    service: &'a Name,
    v4: bool,
) -> impl Iterator<Item = &'a EndpointSlice> {
    let family = if v4 { "IPv4" } else { "IPv6" };
    world.slices.iter().filter(move |(name, _)| name.0 == service.0).map(|(_, slice)| slice).filter(
        move |slice| {
            let labels = slice.metadata.labels.clone().unwrap_or_default();
            labels.get("kubernetes.io/service-name") == Some(&service.1)
                && !labels.contains_key("service.kubernetes.io/headless")
                && slice.address_type == family
        },
    )
}

fn entry(endpoint: &Endpoint, port: u16, v4: bool) -> Option<Entry> {
    let ip = address(endpoint.addresses.first()?).filter(|ip| ip.is_ipv4() == v4)?;
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    Some(Entry {
        at: (ip, port),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        here: endpoint.node_name.as_deref() == Some(NODE),
        elsewhere: !matches!(endpoint.node_name.as_deref(), None | Some("" | NODE)),
        nodes: hints.for_nodes.unwrap_or_default().into_iter().map(|hint| hint.name).collect(),
        zones: hints.for_zones.unwrap_or_default().into_iter().map(|hint| hint.name).collect(),
    })
}

/// EP-1, EP-4, EP-5, EP-7, TOP-1 to TOP-6.
pub(crate) fn cluster_set(entries: &[Entry], zone: Option<&str>) -> BTreeSet<At> {
    let ready: Vec<&Entry> = entries.iter().filter(|entry| entry.ready).collect();
    if ready.is_empty() {
        let draining = entries.iter().filter(|entry| entry.serving && entry.terminating);
        return draining.map(|entry| entry.at).collect();
    }
    let for_node = |entry: &Entry| entry.nodes.iter().any(|name| name == NODE);
    if ready.iter().all(|entry| !entry.nodes.is_empty()) && ready.iter().any(|e| for_node(e)) {
        return ready.iter().filter(|entry| for_node(entry)).map(|entry| entry.at).collect();
    }
    let for_zone = |entry: &Entry| entry.zones.iter().any(|name| Some(&**name) == zone);
    if ready.iter().all(|entry| !entry.zones.is_empty()) && ready.iter().any(|e| for_zone(e)) {
        return ready.iter().filter(|entry| for_zone(entry)).map(|entry| entry.at).collect();
    }
    ready.iter().map(|entry| entry.at).collect()
}

/// EP-2, EP-3, ES-5, TOP-8, TP-13.
pub(crate) fn local_set(entries: &[Entry]) -> BTreeSet<At> {
    let here: Vec<&Entry> = entries.iter().filter(|entry| entry.here).collect();
    let ready: BTreeSet<At> = here.iter().filter(|e| e.ready).map(|e| e.at).collect();
    if !ready.is_empty() {
        return ready;
    }
    here.iter().filter(|entry| entry.serving && entry.terminating).map(|entry| entry.at).collect()
}

pub(crate) fn protocol_number(protocol: Option<String>) -> u8 {
    match protocol.as_deref() {
        None | Some("TCP") => 6,
        Some("UDP") => 17,
        Some("SCTP") => 132,
        Some(other) => panic!("no world has {other}"),
    }
}
