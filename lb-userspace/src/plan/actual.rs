//! Actual: what the maps hold, as far as they accepted it.
//!
//! Invariant: [`Actual::record`] is the only way to change it, with the ops of a plan that were
//! accepted; what can be derived from the entries (who refers to what, and how often) is always up to
//! date.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Instant,
};

use lb_common::{
    Addr4, Addr6, BackendState, FrontendKind, FrontendValue, ServiceInfo, VIP_FILTER_WORDS, VipBit,
    vip_bit,
};

use super::{
    ids::Ids,
    limits::Limits,
    op::{Backend, BackendId, Frontend, Op, ServiceId},
    slots::Slots,
    sources::Sources,
};
use crate::model::ObjectName;

/// What the maps hold.
#[derive(Debug)]
pub(super) struct Actual {
    pub(super) services: HashMap<ServiceId, Box<Entry>>,
    /// The ids of each Service.
    pub(super) objects: HashMap<ObjectName, Vec<ServiceId>>,
    /// Backends by id.
    pub(super) backends: Vec<Option<Backend>>,
    /// Backends that left the serving set, and when.
    pub(super) gone: HashMap<BackendId, Instant>,
    pub(super) slots: Vec<u32>,
    pub(super) frontends: HashMap<Frontend, FrontendValue>,
    /// Number of frontends and markers, IPv4 and IPv6.
    pub(super) frontend_counts: [u32; 2],
    /// Ranges of slots that frontends name: base → length and how many frontends.
    pub(super) slot_ranges: HashMap<u32, (u32, u32)>,
    /// Source ranges.
    pub(super) sources: Sources,
    pub(super) addresses: HashMap<IpAddr, AddressUse>,
    /// How many addresses with frontends each bit of the filter stands for.
    pub(super) bits: HashMap<VipBit, u32>,
    pub(super) filter: Vec<u64>,

    pub(super) service_ids: Ids,
    pub(super) backend_ids: Ids,
    pub(super) free_slots: Slots,

    /// Frontends that name a range which nobody can own: out of bounds, or overlapping another.
    pub(super) suspects: BTreeSet<Frontend>,
    /// The ranges of the suspects, not to be used before the last suspect is gone.
    pub(super) tainted: Vec<(u32, u32)>,
    /// Frontends of no service.
    pub(super) stray_frontends: BTreeSet<Frontend>,
    /// Backends of no service.
    pub(super) stray_backends: BTreeSet<BackendId>,
}

/// One service.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: ServiceInfo,
    /// Its backends, sorted by address, port and id.
    pub(super) backends: Vec<BackendId>,
    pub(super) frontends: Vec<Frontend>,
}

/// What an address is used for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct AddressUse {
    /// Number of frontends on it, without the marker.
    pub(super) frontends: u32,
    /// Number of those that make it a VIP.
    pub(super) vips: u32,
}

impl Actual {
    /// Empty maps.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            services: HashMap::new(),
            objects: HashMap::new(),
            backends: Vec::new(),
            gone: HashMap::new(),
            slots: Vec::new(),
            frontends: HashMap::new(),
            frontend_counts: [0; 2],
            slot_ranges: HashMap::new(),
            sources: Sources::new(limits),
            addresses: HashMap::new(),
            bits: HashMap::new(),
            filter: vec![0; VIP_FILTER_WORDS as usize],
            service_ids: Ids::new(limits.services, []),
            backend_ids: Ids::new(limits.backends.saturating_sub(1), []),
            free_slots: Slots::new(limits.slots, []),
            suspects: BTreeSet::new(),
            tainted: Vec::new(),
            stray_frontends: BTreeSet::new(),
            stray_backends: BTreeSet::new(),
        }
    }

    /// Takes note of ops that the maps accepted.
    pub(super) fn record(&mut self, ops: &[Op], now: Instant) {
        // What is new is entered before anything old is left: where one frontend of a service goes
        // and the next takes over its slots, they are in use all the time.
        for op in ops {
            if let Op::PutFrontend(frontend, value) = op {
                self.enter_slots(frontend, value);
                self.sources.enter(frontend, value);
            }
        }
        for op in ops {
            self.record_op(op, now);
        }
    }

    fn record_op(&mut self, op: &Op, now: Instant) {
        match op {
            Op::PutService(id, info) => self.put_service(*id, **info),
            Op::DeleteService(id) => self.delete_service(*id, now),
            Op::PutBackend(id, backend) => match backend.state {
                BackendState::Free => self.free_backend(*id, now),
                BackendState::Serving | BackendState::Gone => self.put_backend(*id, *backend, now),
            },
            Op::WriteSlots { base, backends } => {
                let start = *base as usize;
                let end = start + backends.len();
                if self.slots.len() < end {
                    self.slots.resize(end, 0);
                }
                for (slot, backend) in self.slots[start..end].iter_mut().zip(backends) {
                    *slot = backend.0;
                }
            }
            Op::PutRange(range) => self.sources.put(*range),
            Op::DeleteRange(range) => self.sources.delete(range, now),
            Op::SetFilter { word, value } => {
                if let Some(slot) = self.filter.get_mut(*word as usize) {
                    *slot = *value;
                }
            }
            Op::PutFrontend(frontend, value) => self.put_frontend(*frontend, *value, now),
            Op::DeleteFrontend(frontend) => self.delete_frontend(frontend, now),
        }
    }

    /// The backend with this id.
    pub(super) fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn put_service(&mut self, id: ServiceId, info: ServiceInfo) {
        let entry = Entry { info, backends: Vec::new(), frontends: Vec::new() };
        if self.services.insert(id, Box::new(entry)).is_none() {
            self.objects.entry(object_name(&info)).or_default().push(id);
        }
    }

    fn delete_service(&mut self, id: ServiceId, now: Instant) {
        let Some(entry) = self.services.remove(&id) else { return };
        let name = object_name(&entry.info);
        if let Some(ids) = self.objects.get_mut(&name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                let _empty = self.objects.remove(&name);
            }
        }
        self.service_ids.retire(id.0, now);
    }

    pub(super) fn put_backend(&mut self, id: BackendId, backend: Backend, now: Instant) {
        let index = id.0 as usize;
        if self.backends.len() <= index {
            self.backends.resize(index + 1, None);
        }
        if self.backends[index].replace(backend).is_none() {
            self.enlist_backend(id, &backend);
        }
        let _before = match backend.state {
            BackendState::Gone => self.gone.insert(id, now),
            BackendState::Serving | BackendState::Free => self.gone.remove(&id),
        };
    }

    fn enlist_backend(&mut self, id: BackendId, backend: &Backend) {
        let backends = &self.backends;
        let order = |id: &BackendId| {
            backends[id.0 as usize].map(|backend| (backend.addr, backend.port, *id))
        };
        match self.services.get_mut(&backend.service) {
            Some(entry) => {
                let key = Some((backend.addr, backend.port, id));
                let place = entry.backends.partition_point(|other| order(other) < key);
                entry.backends.insert(place, id);
            }
            None => {
                let _new = self.stray_backends.insert(id);
            }
        }
    }

    fn free_backend(&mut self, id: BackendId, now: Instant) {
        let Some(backend) = self.backends.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        if let Some(entry) = self.services.get_mut(&backend.service) {
            entry.backends.retain(|other| *other != id);
        }
        let _since = self.gone.remove(&id);
        let _stray = self.stray_backends.remove(&id);
        self.backend_ids.retire(id.0, now);
    }

    fn put_frontend(&mut self, frontend: Frontend, value: FrontendValue, now: Instant) {
        match self.frontends.insert(frontend, value) {
            None => self.frontend_counts[frontend.family_index()] += 1,
            Some(old) => self.unlink(&frontend, &old, now),
        }
        self.link(frontend, &value);
    }

    fn delete_frontend(&mut self, frontend: &Frontend, now: Instant) {
        let Some(old) = self.frontends.remove(frontend) else { return };
        self.frontend_counts[frontend.family_index()] -= 1;
        self.unlink(frontend, &old, now);
    }

    pub(super) fn enter_slots(&mut self, frontend: &Frontend, value: &FrontendValue) {
        if !frontend.is_marker() && value.slots() > 0 {
            self.slot_ranges.entry(value.base).or_insert((value.slots(), 0)).1 += 1;
        }
    }

    pub(super) fn link(&mut self, frontend: Frontend, value: &FrontendValue) {
        if frontend.is_marker() {
            return;
        }
        match self.services.get_mut(&ServiceId(value.service)) {
            Some(entry) => entry.frontends.push(frontend),
            None => {
                let _new = self.stray_frontends.insert(frontend);
            }
        }
        self.use_address(frontend.addr, value, true);
    }

    fn unlink(&mut self, frontend: &Frontend, old: &FrontendValue, now: Instant) {
        if frontend.is_marker() {
            return;
        }
        if !self.forget_suspect(frontend, now) {
            self.leave_slots(old, now);
        }
        self.sources.leave(old, now);
        self.leave_service(frontend, old);
        self.use_address(frontend.addr, old, false);
    }

    fn leave_service(&mut self, frontend: &Frontend, old: &FrontendValue) {
        let _stray = self.stray_frontends.remove(frontend);
        if let Some(entry) = self.services.get_mut(&ServiceId(old.service)) {
            entry.frontends.retain(|other| other != frontend);
        }
    }

    fn leave_slots(&mut self, old: &FrontendValue, now: Instant) {
        let range = self.slot_ranges.get_mut(&old.base).filter(|_| old.slots() > 0);
        let Some((len, users)) = range else { return };
        *users -= 1;
        if *users == 0 {
            self.free_slots.retire(old.base, *len, now);
            let _range = self.slot_ranges.remove(&old.base);
        }
    }

    /// Whether it was a suspect.
    fn forget_suspect(&mut self, frontend: &Frontend, now: Instant) -> bool {
        let was = self.suspects.remove(frontend);
        if was && self.suspects.is_empty() {
            for (base, len) in std::mem::take(&mut self.tainted) {
                self.free_slots.retire(base, len, now);
            }
        }
        was
    }

    fn use_address(&mut self, addr: IpAddr, value: &FrontendValue, more: bool) {
        let entry = self.addresses.entry(addr).or_default();
        let vip = u32::from(is_vip(value));
        if more {
            entry.frontends += 1;
            entry.vips += vip;
            if entry.frontends == 1 {
                *self.bits.entry(bit_of(addr)).or_default() += 1;
            }
        } else {
            entry.frontends -= 1;
            entry.vips -= vip;
            if entry.frontends == 0 {
                let _use = self.addresses.remove(&addr);
                self.leave_bit(bit_of(addr));
            }
        }
    }

    fn leave_bit(&mut self, bit: VipBit) {
        if let Some(count) = self.bits.get_mut(&bit) {
            *count -= 1;
            if *count == 0 {
                let _count = self.bits.remove(&bit);
            }
        }
    }
}

/// Whether a frontend makes its address a VIP.
pub(super) fn is_vip(value: &FrontendValue) -> bool {
    value.kind == FrontendKind::ClusterIp as u8
}

/// The bit of the filter that stands for an address.
pub(super) fn bit_of(addr: IpAddr) -> VipBit {
    match addr {
        IpAddr::V4(addr) => vip_bit(&Addr4::from(addr)),
        IpAddr::V6(addr) => vip_bit(&Addr6::from(addr)),
    }
}

/// The Service that a service id belongs to.
pub(super) fn object_name(info: &ServiceInfo) -> ObjectName {
    ObjectName::new(info.namespace(), info.name())
}
