//! Properties of plans between random worlds.

mod external;
mod families;
mod property;
mod scenario;
mod sets;
mod wish;
mod world;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lb_common::{BackendSets, BackendState};

use super::{
    BackendId, Frontend, Limits, NodeAddresses, Planner, Range, ServiceId, actual::bit_of,
};
use crate::{
    maps::{Contents, Dump, Maps, MemoryMaps},
    model::{Desired, Event, Model},
};

/// A model, a planner and maps, as in an agent; or what a model would desire in its place.
struct Rig<M, D = Model> {
    desired: D,
    planner: Planner,
    maps: M,
    now: Instant,
}

impl<M: Maps> Rig<M> {
    fn new(maps: M, limits: Limits) -> Self {
        let mut rig = Self::following(Model::new(), maps, limits);
        rig.desired.adopt(rig.planner.holders());
        rig
    }

    /// Takes in events and executes until nothing is left to do.
    fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        let touched = self.desired.apply(events);
        self.planner.mark(touched);
        self.settle();
    }
}

impl<M: Maps, D: Desired> Rig<M, D> {
    fn following(desired: D, maps: M, limits: Limits) -> Self {
        let now = Instant::now();
        let contents = maps.contents().expect("memory can be read");
        let mut planner = Planner::adopt(&contents, limits, now);
        planner.set_node(node());
        Self { desired, planner, maps, now }
    }

    fn settle(&mut self) {
        settle(&mut self.planner, &self.desired, &mut self.maps, &mut self.now);
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

/// Executes until nothing is left to do.
fn settle(planner: &mut Planner, desired: &impl Desired, maps: &mut impl Maps, now: &mut Instant) {
    for _ in 0..20 {
        *now += Duration::from_secs(2);
        let result = planner.execute(desired, maps, *now);
        if result.is_ok() && planner.is_idle() {
            return;
        }
    }
    panic!("the planner does not come to rest");
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

/// What a frontend leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct State {
    kind: u8,
    local_policy: bool,
    affinity: u32,
    cluster: Vec<(IpAddr, u16)>,
    local: Vec<(IpAddr, u16)>,
    /// Who may use it; `None` for everybody.
    ranges: Option<BTreeSet<Option<IpNet>>>,
}

/// What a frontend leads to, or what is wrong.
fn resolve(contents: &Contents, frontend: &Frontend) -> Result<Option<State>, String> {
    let Some(value) = contents.frontends.get(frontend) else { return Ok(None) };
    if frontend.is_marker() {
        return Ok(Some(State::default()));
    }
    if !contents.services.contains_key(&ServiceId(value.service)) {
        return Err(format!("{frontend} names a missing service"));
    }
    let slots = value.base as usize..(value.base + value.len + value.local_len) as usize;
    let slots = contents.slots.get(slots).ok_or(format!("{frontend} names missing slots"))?;
    let (cluster, local) = slots.split_at(value.len as usize);
    let backends = |slots: &[u32], set: u8| {
        let backends = slots.iter().map(|id| {
            let backend = contents.backends.get(&BackendId(*id));
            let backend = backend.ok_or(format!("{frontend} names missing backend {id}"))?;
            let right = backend.service.0 == value.service
                && backend.family() == frontend.family()
                && backend.proto == frontend.proto
                && backend.state == BackendState::Serving
                && backend.sets & set != 0;
            match right {
                true => Ok((backend.addr, backend.port)),
                false => Err(format!("{frontend} names the wrong backend {id} {backend}")),
            }
        });
        backends.collect::<Result<Vec<_>, String>>()
    };
    let ranges = contents.ranges.iter().filter(|range| range.set.0 == value.ranges);
    Ok(Some(State {
        kind: value.kind,
        local_policy: value.is_local(),
        affinity: value.affinity,
        cluster: backends(cluster, BackendSets::CLUSTER)?,
        local: backends(local, BackendSets::LOCAL)?,
        ranges: (value.ranges != 0).then(|| ranges.map(Range::net).collect()),
    }))
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

/// What must hold once everything is done: exactly the markers, bits and ranges that are needed.
fn check_complete(contents: &Contents) -> Result<(), String> {
    check_consistent(contents)?;
    let named: BTreeSet<u32> = contents.frontends.values().map(|value| value.ranges).collect();
    if let Some(range) = contents.ranges.iter().find(|range| !named.contains(&range.set.0)) {
        return Err(format!("{range} is nobody's"));
    }
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
