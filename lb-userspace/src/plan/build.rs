//! Builds the ops of one plan.
//!
//! Invariant: nothing here changes what is known of the maps; ids and ranges are taken from the
//! allocators and noted, so that what is not written in the end is given back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    num::NonZeroU32,
};

use lb_common::{Family, FrontendKind, FrontendValue, ServiceInfo};

use super::{
    NodeAddresses,
    actual::{Actual, AddressUse, is_vip},
    backends::leave,
    draft::Draft,
    limits::{Full, Limits},
    op::{BackendId, Frontend, Op, RangeSetId, ServiceId},
    sources::Placed,
    stages::Stages,
};
use crate::model::{DesiredPort, ObjectName, TrafficPolicy};

/// What a plan took from the allocators.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    pub(super) services: Vec<ServiceId>,
    pub(super) backends: Vec<BackendId>,
    pub(super) slots: Vec<(u32, u32)>,
    pub(super) sets: Vec<RangeSetId>,
}

/// A Service's port for which there is no room, and its source ranges: what it has stays.
struct Stays(ServiceId, Placed);

/// A plan being built.
pub(super) struct Build<'a> {
    pub(super) actual: &'a mut Actual,
    pub(super) node: &'a NodeAddresses,
    pub(super) limits: &'a Limits,
    pub(super) stages: Stages,
    pub(super) reserved: Reserved,
    pub(super) unfit: BTreeMap<ObjectName, Full>,
    /// How the plan changes the use of addresses: (frontends, VIPs).
    pub(super) changes: HashMap<IpAddr, (i64, i64)>,
    /// Number of frontends and markers after the puts.
    counts: [u32; 2],
    /// Number of source ranges after the puts.
    pub(super) range_counts: [u32; 2],
    /// Existing ids that a draft goes on with.
    kept: HashSet<ServiceId>,
    /// Backends that go on, or start again, serving.
    pub(super) serving: HashSet<BackendId>,
    pub(super) freed: HashSet<BackendId>,
}

impl<'a> Build<'a> {
    pub(super) fn new(actual: &'a mut Actual, node: &'a NodeAddresses, limits: &'a Limits) -> Self {
        let counts = actual.frontend_counts;
        let range_counts = actual.sources.counts();
        Self {
            actual,
            node,
            limits,
            stages: Stages::default(),
            reserved: Reserved::default(),
            unfit: BTreeMap::new(),
            changes: HashMap::new(),
            counts,
            range_counts,
            kept: HashSet::new(),
            serving: HashSet::new(),
            freed: HashSet::new(),
        }
    }

    /// Writes the drafts; takes out of `wanted` what does not fit.
    pub(super) fn write(&mut self, drafts: &[Draft], wanted: &mut HashSet<Frontend>) {
        let mut staying = Vec::new();
        for (index, draft) in drafts.iter().enumerate() {
            let (ObjectName { namespace, name }, port) = (&draft.name, &draft.port);
            let info = ServiceInfo::new(namespace, name, &port.name, port.proto, port.family);
            // Names that are too long never pass the conversion.
            if let Some(info) = info
                && let Err(stays) = self.write_one(draft, info, wanted)
            {
                staying.push((index, stays));
            }
        }
        if !staying.is_empty() {
            self.let_stay(drafts, &staying, wanted);
        }
    }

    /// What was there of ports without room stays as it is. But nothing goes on with other source ranges
    /// than it shall have, nor what is another's now: that one may be closed to whom this one served.
    fn let_stay(
        &self,
        drafts: &[Draft],
        staying: &[(usize, Stays)],
        wanted: &mut HashSet<Frontend>,
    ) {
        let owners: HashMap<Frontend, usize> = (0..)
            .zip(drafts)
            .flat_map(|(index, draft)| draft.frontends.iter().map(move |(f, _)| (*f, index)))
            .collect();
        for (index, Stays(id, ranges)) in staying {
            let Some(entry) = self.actual.services.get(id) else { continue };
            let stays = entry.frontends.iter().filter(|frontend| {
                let value = self.actual.frontends.get(frontend);
                owners.get(frontend).is_none_or(|owner| owner == index)
                    && value.is_some_and(|value| ranges.allow(value))
            });
            wanted.extend(stays);
        }
    }

    fn write_one(
        &mut self,
        draft: &Draft,
        info: ServiceInfo,
        wanted: &mut HashSet<Frontend>,
    ) -> Result<(), Stays> {
        let known = self.actual.objects.get(&draft.name).and_then(|ids| {
            let same =
                |id: &&ServiceId| self.actual.services.get(id).is_some_and(|e| e.info == info);
            ids.iter().find(same).copied()
        });
        let id = match known {
            Some(id) => id,
            None => {
                let Some(id) = self.actual.service_ids.take().map(ServiceId) else {
                    self.does_not_fit(draft, Full::Services);
                    give_up(draft, wanted);
                    return Ok(());
                };
                self.reserved.services.push(id);
                id
            }
        };
        let _new = self.kept.insert(id);
        let backends = self.merge_backends(draft, id);
        let ranges = match draft.load_balancers().next() {
            Some(_) => self.place_ranges(draft, id),
            None => Placed::Anywhere,
        };
        let Some(base) = self.place(id, draft.port.family, &backends.slots()) else {
            self.does_not_fit(draft, Full::Slots);
            give_up(draft, wanted);
            return Err(Stays(id, ranges));
        };
        let family = draft.port.family;
        if known.is_none() {
            self.stages.of(family).services.push(Op::PutService(id, Box::new(info)));
        }
        self.stages.of(family).serving.extend(backends.put);
        self.stages.of(family).gone.extend(backends.gone);
        let count = |set: &[BackendId]| u32::try_from(set.len()).unwrap_or_default();
        let all = FrontendValue {
            service: id.0,
            base,
            len: count(&backends.cluster),
            local_len: count(&backends.local),
            affinity: draft.port.affinity.map_or(0, NonZeroU32::get),
            ..FrontendValue::default()
        };
        let mut restricted = false;
        for (frontend, kind) in &draft.frontends {
            let local = u8::from(policy(&draft.port, *kind) == TrafficPolicy::Local);
            let value = FrontendValue { kind: *kind as u8, local, ..all };
            let value = match (*kind, &ranges) {
                (FrontendKind::LoadBalancer, Placed::Nowhere) => {
                    let _wanted = wanted.remove(frontend);
                    continue;
                }
                (FrontendKind::LoadBalancer, Placed::Set(ranges, _)) => {
                    FrontendValue { ranges: *ranges, ..value }
                }
                _ => value,
            };
            if self.put_frontend(*frontend, value) {
                restricted |= value.ranges != 0;
            } else {
                self.does_not_fit(draft, Full::of_frontend(frontend));
                let _wanted = wanted.remove(frontend);
            }
        }
        if let Placed::Set(_, ops) = ranges
            && restricted
        {
            self.put_ranges(ops, family);
        }
        Ok(())
    }

    /// Finds or writes a range of slots with these backends; returns the first slot.
    fn place(&mut self, service: ServiceId, family: Family, backends: &[BackendId]) -> Option<u32> {
        let Ok(len) = u32::try_from(backends.len()) else { return None };
        if len == 0 {
            return Some(0);
        }
        let actual = &mut *self.actual;
        if let Some(entry) = actual.services.get(&service) {
            let trusted = entry.frontends.iter().filter(|f| !actual.suspects.contains(f));
            for value in trusted.filter_map(|frontend| actual.frontends.get(frontend)) {
                let slots = actual.slots.get(value.base as usize..).unwrap_or_default();
                let slots = slots.get(..value.slots() as usize).unwrap_or_default();
                if slots.iter().eq(backends.iter().map(|id| &id.0)) {
                    return Some(value.base);
                }
            }
        }
        let base = actual.free_slots.take(len)?;
        self.reserved.slots.push((base, len));
        let write = Op::WriteSlots { base, backends: backends.to_vec() };
        self.stages.of(family).slots.push(write);
        Some(base)
    }

    /// Whether it fits.
    fn put_frontend(&mut self, frontend: Frontend, value: FrontendValue) -> bool {
        let old = self.actual.frontends.get(&frontend);
        if old == Some(&value) {
            return true;
        }
        let before = self.use_after(&frontend.addr);
        let marker = is_vip(&value) && before.vips == 0 && !self.is_marked(&frontend.addr);
        let new = u32::from(old.is_none()) + u32::from(marker);
        let count = &mut self.counts[frontend.family_index()];
        if *count + new > self.limits.frontends {
            return false;
        }
        *count += new;
        let change = self.changes.entry(frontend.addr).or_default();
        change.0 += i64::from(old.is_none());
        change.1 += i64::from(is_vip(&value)) - i64::from(old.is_some_and(is_vip));
        self.stages.of(frontend.family()).frontends.push(Op::PutFrontend(frontend, value));
        true
    }

    /// Removes what the Services `names` have and nobody wants.
    pub(super) fn remove_unwanted(
        &mut self,
        names: &BTreeSet<ObjectName>,
        wanted: &HashSet<Frontend>,
    ) {
        for id in names.iter().filter_map(|name| self.actual.objects.get(name)).flatten() {
            let Some(entry) = self.actual.services.get(id) else { continue };
            let unwanted = entry.frontends.iter().filter(|frontend| !wanted.contains(frontend));
            for frontend in unwanted {
                let vip = self.actual.frontends.get(frontend).is_some_and(is_vip);
                let change = self.changes.entry(frontend.addr).or_default();
                change.0 -= 1;
                change.1 -= i64::from(vip);
                let deletes = &mut self.stages.of(frontend.family()).deletes;
                deletes.push(Op::DeleteFrontend(*frontend));
            }
            if !self.kept.contains(id) {
                let backends = entry.backends.iter();
                for (family, gone) in backends.filter_map(|id| leave(self.actual, *id)) {
                    self.stages.of(family).gone.push(gone);
                }
            }
        }
    }

    /// Removes what belongs to no service at all.
    pub(super) fn remove_strays(&mut self, wanted: &HashSet<Frontend>) {
        for frontend in self.actual.stray_frontends.iter().filter(|f| !wanted.contains(f)) {
            let vip = self.actual.frontends.get(frontend).is_some_and(is_vip);
            let change = self.changes.entry(frontend.addr).or_default();
            change.0 -= 1;
            change.1 -= i64::from(vip);
            let deletes = &mut self.stages.of(frontend.family()).deletes;
            deletes.push(Op::DeleteFrontend(*frontend));
        }
        let strays = self.actual.stray_backends.iter();
        for (family, gone) in strays.filter_map(|id| leave(self.actual, *id)) {
            self.stages.of(family).gone.push(gone);
        }
    }

    /// Forgets the service ids that have nothing left.
    pub(super) fn forget(&mut self, names: &BTreeSet<ObjectName>) {
        let planned = names.iter().filter_map(|name| self.actual.objects.get(name)).flatten();
        let freed = self.freed.iter().filter_map(|id| self.actual.backend(*id));
        let candidates: BTreeSet<ServiceId> =
            planned.copied().chain(freed.map(|backend| backend.service)).collect();
        for id in candidates.iter().filter(|id| !self.kept.contains(id)) {
            let Some(entry) = self.actual.services.get(id) else { continue };
            let planned = names.contains(&super::actual::object_name(&entry.info));
            let unused = planned || entry.frontends.is_empty();
            if unused && entry.backends.iter().all(|backend| self.freed.contains(backend)) {
                self.stages.of_service(&entry.info).forgotten.push(Op::DeleteService(*id));
            }
        }
    }

    /// The use of an address after the plan, as far as it is built.
    pub(super) fn use_after(&self, addr: &IpAddr) -> AddressUse {
        let before = self.actual.addresses.get(addr).copied().unwrap_or_default();
        let (frontends, vips) = self.changes.get(addr).copied().unwrap_or_default();
        let sum =
            |count: u32, change: i64| u32::try_from(i64::from(count) + change).unwrap_or_default();
        AddressUse { frontends: sum(before.frontends, frontends), vips: sum(before.vips, vips) }
    }

    fn is_marked(&self, addr: &IpAddr) -> bool {
        self.node.local.contains(addr)
            || self.actual.frontends.contains_key(&Frontend::marker(*addr))
    }

    pub(super) fn does_not_fit(&mut self, draft: &Draft, full: Full) {
        let _before = self.unfit.insert(draft.name.clone(), full);
    }
}

/// The policy that governs a kind of frontend.
fn policy(port: &DesiredPort, kind: FrontendKind) -> TrafficPolicy {
    match kind {
        FrontendKind::Marker | FrontendKind::ClusterIp => port.internal_policy,
        FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
            port.external_policy
        }
    }
}

/// Withdraws what a draft wants.
fn give_up(draft: &Draft, wanted: &mut HashSet<Frontend>) {
    for (frontend, _) in &draft.frontends {
        let _wanted = wanted.remove(frontend);
    }
}
