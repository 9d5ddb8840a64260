//! The agent without kernel and API server: objects in, maps out, and what the maps mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{BackendSets, BackendState, Family, FrontendKind, Location};
use lb_userspace::{
    maps::{Contents, MemoryMaps},
    model::{Coverage, Event, Model, ObjectName},
    plan::{BackendId, Frontend, Limits, NodeAddresses, Planner, ServiceId},
    source::convert,
};

use crate::{
    naive::{self, At, Contract, Kind},
    world::{CLIENTS, LOCAL, NODE, Name, PRIMARY, World, addresses},
};

/// One agent.
pub(crate) struct Agent {
    model: Model,
    planner: Planner,
    maps: MemoryMaps,
    now: Instant,
}

impl Agent {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let mut planner = Planner::adopt(&Contents::default(), LIMITS, now);
        planner.set_node(NodeAddresses {
            local: addresses(&LOCAL).into_iter().collect(),
            node_port: addresses(&LOCAL).into_iter().collect(),
            primary: addresses(&PRIMARY).into_iter().collect(),
        });
        let mut model = Model::new();
        model.set_node_name(NODE);
        let _none = model.set_primary(addresses(&PRIMARY).into_iter().collect());
        let mut agent = Self { model, planner, maps: MemoryMaps::new(LIMITS), now };
        agent.feed([Event::Coverage(Coverage::Full)]);
        agent
    }

    /// Takes in a batch and writes what follows.
    pub(crate) fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        let touched = self.model.apply(events);
        self.planner.mark(touched);
        loop {
            self.now += Duration::from_secs(2);
            let _ops = self.planner.execute(&self.model, &mut self.maps, self.now).expect("room");
            let gone = self.planner.gone_before(self.now);
            if self.planner.is_idle() && gone.is_empty() {
                return;
            }
            // Nobody has flows here.
            self.planner.release(gone, self.now);
        }
    }

    /// Whether everything is as the contract says.
    pub(crate) fn check(&self, contract: &Contract) -> Result<(), String> {
        let contents = self.maps.get();
        let there: BTreeSet<naive::Key> = contents
            .frontends
            .keys()
            .filter(|frontend| !frontend.is_marker())
            .map(|frontend| (frontend.addr, frontend.port, frontend.proto))
            .collect();
        let wanted: BTreeSet<naive::Key> = contract.frontends.keys().copied().collect();
        equal("frontends", &there, &wanted)?;
        for (key, frontend) in &contract.frontends {
            check_frontend(contents, *key, frontend)
                .map_err(|why| format!("{key:?} {:?}: {why}", frontend.kind))?;
        }
        // CIP-8: an address has a marker if all of it belongs to Services.
        let markers = contents.frontends.keys().filter(|frontend| frontend.is_marker());
        let markers: BTreeSet<IpAddr> = markers.map(|frontend| frontend.addr).collect();
        let vips = contract.frontends.iter().filter(|(_, f)| f.kind == Kind::ClusterIP);
        let vips = vips.map(|((addr, ..), _)| *addr);
        let local = addresses(&LOCAL);
        let ours = |ip: &IpAddr| !local.contains(ip);
        equal("markers", &markers, &vips.filter(ours).collect())?;
        self.check_counts(contract)
    }

    fn check_counts(&self, contract: &Contract) -> Result<(), String> {
        let checks = self.model.health_checks().map(|check| {
            let count = |count: Option<u32>| count.map(|count| count as usize);
            let counts = [count(check.v4), count(check.v6)];
            (check.service.to_string(), check.port, counts)
        });
        let wanted = contract
            .checks
            .iter()
            .map(|(name, port, counts)| (format!("{}/{}", name.0, name.1), *port, *counts));
        equal("health checks", &checks.collect::<Vec<_>>(), &wanted.collect())?;
        let missing = [Family::V4, Family::V6].map(|family| {
            let missing = self.model.no_local_endpoints(family);
            (missing.internal, missing.external)
        });
        equal("ports without local endpoints", &missing, &contract.missing)
    }
}

const LIMITS: Limits =
    Limits { services: 256, frontends: 512, backends: 512, slots: 512, ranges: 256 };

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, there: &T, wanted: &T) -> Result<(), String> {
    match there == wanted {
        true => Ok(()),
        false => Err(format!("{what}: there are {there:?}, not {wanted:?}")),
    }
}

fn check_frontend(
    contents: &Contents,
    (addr, number, proto): naive::Key,
    wanted: &naive::Frontend,
) -> Result<(), String> {
    let port = &wanted.port;
    let value = contents.frontends[&Frontend::new(addr, number, proto)];
    let kind = FrontendKind::from_u8(value.kind).ok_or("of no kind")?;
    equal("kind", &kind.name().to_owned(), &format!("{:?}", wanted.kind))?;
    let id = ServiceId(value.service);
    let info = contents.services.get(&id).ok_or("names no Service")?;
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let there = (name(&info.namespace), name(&info.name), name(&info.port_name));
    equal("Service", &there, &(port.service.0.into(), port.service.1.clone(), port.name.clone()))?;
    equal("policy", &value.is_local(), &wanted.is_local())?;
    equal("affinity", &value.affinity, &port.affinity)?;
    equal("restriction", &(value.ranges != 0), &wanted.is_restricted())?;
    for client in addresses(&CLIENTS).into_iter().filter(|client| client.is_ipv4() == port.v4) {
        let mut ranges = contents.ranges.iter().filter(|range| range.set.0 == value.ranges);
        let inside = ranges.any(|range| range.net().is_some_and(|net| net.contains(&client)));
        let admitted = value.ranges == 0 || inside;
        equal(&format!("admission of {client}"), &admitted, &wanted.admits(client))?;
    }
    let slots = value.base as usize..(value.base + value.len + value.local_len) as usize;
    let slots = contents.slots.get(slots).ok_or("names missing slots")?;
    let (cluster, local) = slots.split_at(value.len as usize);
    equal("cluster set", &at(contents, id, cluster)?, &port.cluster)?;
    // Only where some policy asks for it.
    let nobody = BTreeSet::new();
    let asked = port.internal_local || port.external_local;
    equal("local set", &at(contents, id, local)?, if asked { &port.local } else { &nobody })?;
    let members = contents
        .backends
        .values()
        .filter(|backend| backend.service == id && backend.state == BackendState::Serving);
    let members: BTreeMap<At, (u8, Location)> = members
        .map(|backend| ((backend.addr, backend.port), (backend.sets, backend.location)))
        .collect();
    let sets = |at: &At| {
        let bit = |of: &BTreeSet<At>, bit| if of.contains(at) { bit } else { 0 };
        bit(&port.cluster, BackendSets::CLUSTER) | bit(&port.local, BackendSets::LOCAL)
    };
    let location = |at: &At| match (port.here.contains(at), port.elsewhere.contains(at)) {
        (true, _) => Location::Here,
        (false, true) => Location::Elsewhere,
        (false, false) => Location::Unknown,
    };
    let wanted = port.serving.iter().map(|at| (*at, (sets(at), location(at))));
    equal("serving backends", &members, &wanted.collect())
}

/// The backends in some slots, each once.
fn at(contents: &Contents, service: ServiceId, slots: &[u32]) -> Result<BTreeSet<At>, String> {
    let mut found = BTreeSet::new();
    for id in slots {
        let backend = contents.backends.get(&BackendId(*id)).ok_or("names a missing backend")?;
        if backend.service != service || backend.state != BackendState::Serving {
            return Err(format!("{service:?} names the wrong backend {id} {backend:?}"));
        }
        if !found.insert((backend.addr, backend.port)) {
            return Err(format!("has {backend:?} twice"));
        }
    }
    Ok(found)
}

/// What a source would tell when `before` became `after`, in no particular order.
pub(crate) fn events(before: &World, after: &World) -> Vec<Event> {
    let name = |name: &Name| ObjectName::new(name.0, &*name.1);
    let mut events = Vec::new();
    for (key, service) in &after.services {
        if before.services.get(key) != Some(service) {
            let service = convert::service(service, None).expect("a Service");
            events.push(Event::PutService(Arc::new(service)));
        }
    }
    for (key, slice) in &after.slices {
        if before.slices.get(key) != Some(slice) {
            let slice = convert::slice(slice, None).expect("a slice");
            events.push(Event::PutSlice(Arc::new(slice)));
        }
    }
    let gone = before.services.keys().filter(|key| !after.services.contains_key(*key));
    events.extend(gone.map(|key| Event::DeleteService(name(key))));
    let gone = before.slices.keys().filter(|key| !after.slices.contains_key(*key));
    events.extend(gone.map(|key| Event::DeleteSlice(name(key))));
    if before.zone != after.zone {
        events.push(after.node());
    }
    events
}
