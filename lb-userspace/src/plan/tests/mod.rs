//! Properties of plans between random worlds.

mod property;
mod scenario;
mod world;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::BackendState;

use super::{BackendId, Frontend, Limits, NodeAddresses, Planner, ServiceId, actual::bit_of};
use crate::{
    maps::{Contents, Dump, Maps, MemoryMaps},
    model::{Event, Model},
};

/// A model, a planner and maps, as in an agent.
struct Rig<M> {
    model: Model,
    planner: Planner,
    maps: M,
    now: Instant,
}

impl<M: Maps> Rig<M> {
    fn new(maps: M, limits: Limits) -> Self {
        let now = Instant::now();
        let contents = maps.contents().expect("memory can be read");
        let mut planner = Planner::adopt(&contents, limits, now);
        planner.set_node(node());
        let mut model = Model::new();
        model.adopt(planner.holders());
        Self { model, planner, maps, now }
    }

    /// Takes in events and executes until nothing is left to do.
    fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        let touched = self.model.apply(events);
        self.planner.mark(touched);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            self.now += Duration::from_secs(2);
            let result = self.planner.execute(&self.model, &mut self.maps, self.now);
            if result.is_ok() && self.planner.is_idle() {
                return;
            }
        }
        panic!("the planner does not come to rest");
    }

    /// What the housekeeper does once no flow is left.
    fn release_all(&mut self) {
        self.now += Duration::from_secs(2);
        let gone = self.planner.gone_before(self.now);
        self.planner.release(gone, self.now);
        self.settle();
    }

    fn contents(&self) -> Contents {
        self.maps.contents().expect("memory can be read")
    }

    fn dump(&self) -> String {
        Dump::new(&self.contents()).to_string()
    }
}

fn rig() -> Rig<MemoryMaps> {
    Rig::new(MemoryMaps::new(Limits::default()), Limits::default())
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node() -> NodeAddresses {
    let local = ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"].map(addr);
    let primary = ["192.0.2.1", "2001:db8::1"].map(addr).into();
    NodeAddresses { local: local.into(), node_port: local.into(), primary }
}

/// The backends that a frontend leads to, or what is wrong.
fn resolve(contents: &Contents, frontend: &Frontend) -> Result<Option<Vec<(IpAddr, u16)>>, String> {
    let Some(value) = contents.frontends.get(frontend) else { return Ok(None) };
    if frontend.is_marker() {
        return Ok(Some(Vec::new()));
    }
    if !contents.services.contains_key(&ServiceId(value.service)) {
        return Err(format!("{frontend} names a missing service"));
    }
    let slots = value.base as usize..(value.base + value.len) as usize;
    let slots = contents.slots.get(slots).ok_or(format!("{frontend} names missing slots"))?;
    let backends = slots.iter().map(|id| {
        let backend = contents.backends.get(&BackendId(*id));
        let backend = backend.ok_or(format!("{frontend} names missing backend {id}"))?;
        let right = backend.service.0 == value.service
            && backend.family() == frontend.family()
            && backend.proto == frontend.proto
            && backend.state == BackendState::Serving;
        match right {
            true => Ok((backend.addr, backend.port)),
            false => Err(format!("{frontend} names the wrong backend {id} {backend}")),
        }
    });
    backends.collect::<Result<_, _>>().map(Some)
}

/// What must hold at any moment.
fn check_consistent(contents: &Contents) -> Result<(), String> {
    for frontend in contents.frontends.keys() {
        let _backends = resolve(contents, frontend)?;
        let bit = bit_of(frontend.addr);
        if contents.filter.get(&bit.word).copied().unwrap_or_default() & bit.mask == 0 {
            return Err(format!("{frontend} is not in the filter"));
        }
    }
    for (id, backend) in &contents.backends {
        if !contents.services.contains_key(&backend.service) {
            return Err(format!("backend {id} names a missing service"));
        }
    }
    Ok(())
}

/// What must hold once everything is done: exactly the markers and bits that are needed.
fn check_complete(contents: &Contents) -> Result<(), String> {
    check_consistent(contents)?;
    let vip = |frontend: &&Frontend| contents.frontends[*frontend].kind == 1;
    let vips: BTreeSet<IpAddr> = contents.frontends.keys().filter(vip).map(|f| f.addr).collect();
    let vips = &vips - &node().local;
    let markers = contents.frontends.keys().filter(|f| f.is_marker()).map(|f| f.addr);
    if markers.collect::<BTreeSet<_>>() != vips {
        return Err("markers are not those of the VIPs".into());
    }
    let mut filter = std::collections::BTreeMap::new();
    for frontend in contents.frontends.keys() {
        let bit = bit_of(frontend.addr);
        *filter.entry(bit.word).or_insert(0) |= bit.mask;
    }
    match filter == contents.filter {
        true => Ok(()),
        false => Err("the filter has wrong bits".into()),
    }
}
