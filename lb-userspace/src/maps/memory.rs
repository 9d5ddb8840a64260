//! Maps in memory: what the kernel would hold, for tests and for `lb plan`.

use std::collections::BTreeMap;

use lb_common::{BackendState, VIP_FILTER_WORDS, names};

use super::{ApplyError, Contents, Maps, MapsError};
use crate::{
    model,
    plan::{Limits, Op},
};

/// Maps that exist in this process only. Like the kernel's, they refuse what does not fit.
#[derive(Clone, Debug, Default)]
pub struct MemoryMaps {
    contents: Contents,
    limits: Limits,
    /// Number of frontends, IPv4 and IPv6.
    frontends: [u32; 2],
    /// Number of source ranges, IPv4 and IPv6.
    ranges: [u32; 2],
}

impl MemoryMaps {
    /// Maps of these sizes.
    pub fn new(limits: Limits) -> Self {
        Self::holding(Contents::default(), limits)
    }

    /// Maps that hold this already.
    pub fn holding(contents: Contents, limits: Limits) -> Self {
        let mut frontends = [0; 2];
        for frontend in contents.frontends.keys() {
            frontends[frontend.family_index()] += 1;
        }
        let mut ranges = [0; 2];
        for range in &contents.ranges {
            ranges[usize::from(range.addr.is_ipv6())] += 1;
        }
        Self { contents, limits, frontends, ranges }
    }

    /// What they hold.
    pub fn get(&self) -> &Contents {
        &self.contents
    }

    fn write(&mut self, op: &Op) -> Result<(), i32> {
        let Contents { services, backends, slots, ranges, filter, frontends } = &mut self.contents;
        match op {
            Op::PutService(id, info) => {
                room(services, id, self.limits.services)?;
                let _before = services.insert(*id, **info);
            }
            Op::DeleteService(id) => {
                let _before = services.remove(id);
            }
            Op::PutBackend(id, backend) => {
                if id.0 == 0 || id.0 >= self.limits.backends {
                    return Err(libc::E2BIG);
                }
                let _before = match backend.state {
                    BackendState::Free => backends.remove(id),
                    BackendState::Serving | BackendState::Gone => backends.insert(*id, *backend),
                };
            }
            Op::WriteSlots { base, backends } => {
                let start = *base as usize;
                let end = start + backends.len();
                if end > self.limits.slots as usize {
                    return Err(libc::E2BIG);
                }
                slots.resize(slots.len().max(end), 0);
                for (slot, backend) in slots[start..end].iter_mut().zip(backends) {
                    *slot = backend.0;
                }
            }
            Op::PutRange(range) => {
                let count = &mut self.ranges[usize::from(range.addr.is_ipv6())];
                if !ranges.contains(range) {
                    if *count >= self.limits.ranges {
                        return Err(libc::ENOSPC);
                    }
                    *count += 1;
                }
                let _new = ranges.insert(*range);
            }
            Op::DeleteRange(range) => {
                if ranges.remove(range) {
                    self.ranges[usize::from(range.addr.is_ipv6())] -= 1;
                }
            }
            Op::SetFilter { word, .. } if *word >= VIP_FILTER_WORDS => return Err(libc::E2BIG),
            Op::SetFilter { word, value: 0 } => {
                let _before = filter.remove(word);
            }
            Op::SetFilter { word, value } => {
                let _before = filter.insert(*word, *value);
            }
            Op::PutFrontend(frontend, value) => {
                let count = &mut self.frontends[frontend.family_index()];
                if !frontends.contains_key(frontend) {
                    if *count >= self.limits.frontends {
                        return Err(libc::E2BIG);
                    }
                    *count += 1;
                }
                let _before = frontends.insert(*frontend, *value);
            }
            Op::DeleteFrontend(frontend) => {
                if frontends.remove(frontend).is_some() {
                    self.frontends[frontend.family_index()] -= 1;
                }
            }
        }
        Ok(())
    }
}

fn room<K: Ord, V>(map: &BTreeMap<K, V>, key: &K, limit: u32) -> Result<(), i32> {
    match map.contains_key(key) || map.len() < limit as usize {
        true => Ok(()),
        false => Err(libc::E2BIG),
    }
}

impl Maps for MemoryMaps {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for (applied, op) in ops.iter().enumerate() {
            self.write(op).map_err(|errno| ApplyError {
                applied,
                op: op.to_string(),
                map: map_of(op),
                source: std::io::Error::from_raw_os_error(errno),
            })?;
        }
        Ok(())
    }

    fn contents(&self) -> Result<Contents, MapsError> {
        Ok(self.contents.clone())
    }
}

/// The map that an op writes to.
pub fn map_of(op: &Op) -> &'static str {
    use lb_common::Family::{V4, V6};
    match op {
        Op::PutService(..) | Op::DeleteService(_) => names::LB_SERVICES,
        Op::PutBackend(_, backend) => match backend.family() {
            V4 => names::LB4_BACKENDS,
            V6 => names::LB6_BACKENDS,
        },
        Op::WriteSlots { .. } => names::LB_SLOTS,
        Op::PutRange(range) | Op::DeleteRange(range) => match range.family() {
            V4 => names::LB4_RANGES,
            V6 => names::LB6_RANGES,
        },
        Op::SetFilter { .. } => names::LB_VIP_FILTER,
        Op::PutFrontend(frontend, _) | Op::DeleteFrontend(frontend) => {
            match model::family(frontend.addr) {
                V4 => names::LB4_FRONTENDS,
                V6 => names::LB6_FRONTENDS,
            }
        }
    }
}
