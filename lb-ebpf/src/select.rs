//! Which backend a new flow gets.

use lb_common::{Address, FlowKey, FrontendValue};

use crate::tables::Tables;

/// Chooses uniformly among the slots of a frontend that has at least one, and writes the backend's
/// address and port into `to`; `random` is uniform over all 32-bit numbers. Returns the backend id.
///
/// `None` when the maps contradict themselves: the order in which they are written excludes it.
#[inline(always)]
pub(crate) fn choose<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendValue,
    random: u32,
    to: &mut FlowKey<A>,
) -> Option<u32> {
    // Scaling instead of a division: no modulo bias worth a second draw at these set sizes.
    let offset = ((u64::from(random) * u64::from(frontend.len)) >> 32) as u32;
    let id = tables.slot(frontend.base.wrapping_add(offset))?;
    let backend = tables.backend(id)?;
    to.dst = backend.addr;
    to.dport = backend.port;
    // A free id has no port: port 0 serves nobody.
    (backend.port != 0).then_some(id)
}
