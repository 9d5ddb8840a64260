//! Which Service a packet is for.

use lb_common::{Address, FrontendKey, FrontendKind, FrontendValue, vip_bit};

use crate::tables::Tables;

/// What the address and port of a packet mean to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// A frontend.
    Frontend,
    /// The address of Services, none of which has this port.
    UnknownPort,
}

/// Whether an address may have frontends; costs one array read, see [`lb_common::vip_bit`].
#[inline(always)]
pub(crate) fn may_be_vip<A: Address, T: Tables<A>>(tables: &T, addr: &A) -> bool {
    let bit = vip_bit(addr);
    tables.vip_filter(bit.word) & bit.mask != 0
}

/// Looks up an address that [`may_be_vip`], a port (host order) and a protocol; a frontend goes to `into`.
#[inline(always)]
pub(crate) fn find<A: Address, T: Tables<A>>(
    tables: &T,
    addr: &A,
    port: u16,
    proto: u8,
    into: &mut FrontendValue,
) -> Found {
    let mut key = FrontendKey::new(*addr, port, proto);
    if let Some(value) = tables.frontend(&key) {
        *into = value;
        return Found::Frontend;
    }
    // The marker, in the same memory.
    key.port = 0;
    key.proto = 0;
    if is_marker(tables, &key) { Found::UnknownPort } else { Found::Nothing }
}

/// Whether an address belongs to Services only.
#[inline(always)]
pub(crate) fn is_vip<A: Address, T: Tables<A>>(tables: &T, addr: &A) -> bool {
    is_marker(tables, &FrontendKey::marker(*addr))
}

#[inline(always)]
fn is_marker<A: Address, T: Tables<A>>(tables: &T, key: &FrontendKey<A>) -> bool {
    tables.frontend(key).is_some_and(|marker| marker.kind == FrontendKind::Marker as u8)
}
