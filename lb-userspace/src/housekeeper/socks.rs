//! Sweeps the socket map of one family.
//!
//! Entries of sockets that were closed are nobody's loss: the map evicts its oldest. They are looked
//! after only where they name a backend that is gone, because its id is not used again before.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
};

use bytemuck::Pod;
use lb_common::{SockDirection, SockKey, SockValue, proto};

use super::{
    Removed,
    sockets::{self, Open},
};
use crate::maps::{
    bpf::Access,
    family::MapFamily,
    table::{Scan, Table, TableError},
};

/// The socket map of one family, and how far it is swept.
#[derive(Debug)]
pub(super) struct Socks<A>
where
    SockKey<A>: Pod,
    SockValue<A>: Pod,
{
    table: Table<SockKey<A>, SockValue<A>>,
    scan: Scan<SockKey<A>, SockValue<A>>,
}

impl<A: MapFamily> Socks<A>
where
    SockKey<A>: Pod,
    SockValue<A>: Pod,
{
    /// Opens the map in the directory `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, TableError> {
        let table = Table::open(maps, A::SOCKS, Access::ReadWrite)?;
        Ok(Self { table, scan: Scan::with_slice(super::SLICE) })
    }

    /// Sweeps the next slice; true when it was the last. Adds the backends that are named to
    /// `named` and the number of entries to `entries`.
    pub(super) fn sweep(
        &mut self,
        gone: &HashSet<u32>,
        named: &mut HashSet<u32>,
        entries: &mut usize,
        removed: &mut Removed,
    ) -> Result<bool, TableError> {
        let mut suspects = Vec::new();
        let last = self.table.scan(&mut self.scan, |key, value| {
            *entries += 1;
            if gone.contains(&value.backend) {
                suspects.push((*key, *value));
            } else {
                let _new = named.insert(value.backend);
            }
        })?;
        if suspects.is_empty() {
            return Ok(last);
        }
        let open = match sockets::list() {
            Ok(open) => Some(open),
            Err(error) => {
                tracing::warn!(%error, "the sockets of this node cannot be listed");
                None
            }
        };
        for (key, value) in &suspects {
            if over(key, open.as_ref(), removed) {
                // A socket that sent meanwhile has another entry in its place.
                let gone = self.table.delete_if(key, |now| now == value)?;
                removed.socks += usize::from(gone);
            } else {
                let _new = named.insert(value.backend);
            }
        }
        Ok(last)
    }
}

/// Whether the entry of a socket with a gone backend may go. UDP entries always: the next datagram
/// finds another backend, or the socket is ended here. TCP entries go with their sockets.
fn over<A: MapFamily>(
    key: &SockKey<A>,
    open: Option<&HashMap<u64, Open>>,
    removed: &mut Removed,
) -> bool {
    let cookie = u64::from(key.cookie_high) << 32 | u64::from(key.cookie_low);
    let socket = open.and_then(|open| open.get(&cookie));
    if key.proto == proto::TCP {
        return open.is_some() && socket.is_none();
    }
    if let Some(socket) = socket
        && key.direction == SockDirection::Back as u8
        && socket.peer() == SocketAddr::new(key.addr.ip(), key.port)
    {
        match sockets::destroy(socket) {
            Ok(()) => removed.sockets += 1,
            Err(error) => tracing::warn!(%error, "a socket of a removed backend stays"),
        }
    }
    true
}
