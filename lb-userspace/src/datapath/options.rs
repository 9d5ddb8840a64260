//! What the datapath is told when it starts.

use std::path::PathBuf;

use lb_common::names;

use super::object::Object;
use crate::config::{Capacity, SocketLb, TcMode, XdpMode};

/// The size of the map `name`; `None` when its size is fixed.
pub fn max_entries(capacity: &Capacity, name: &str) -> Option<u32> {
    let &Capacity { flows, services, frontends, backends } = capacity;
    match name {
        names::LB4_FRONTENDS | names::LB6_FRONTENDS => Some(frontends),
        names::LB4_BACKENDS | names::LB6_BACKENDS | names::LB_BACKEND_STAT => Some(backends),
        // A change writes a fresh range before it frees the old one, and free ranges are
        // scattered: room for each backend four times, at four bytes.
        names::LB_SLOTS => Some(backends.saturating_mul(4)),
        names::LB4_FLOWS | names::LB6_FLOWS => Some(flows),
        names::LB4_SOCKS | names::LB6_SOCKS => Some((flows / 4).max(1024)),
        names::LB4_AFFINITY | names::LB6_AFFINITY => Some((flows / 4).max(1024)),
        names::LB4_RANGES | names::LB6_RANGES => Some(frontends),
        names::LB_SERVICES => Some(services),
        _ => None,
    }
}

/// Everything that the datapath is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a bpffs below which maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Which programs to load.
    pub object: Object,
    /// Sizes of the maps, if they are to be made.
    pub capacity: Capacity,
    /// XDP on external devices.
    pub xdp: XdpMode,
    /// How tc programs are attached.
    pub tc: TcMode,
    /// Whose sockets are translated.
    pub socket_lb: SocketLb,
    /// Where the socket programs are attached; the cgroup2 mount when not given.
    pub cgroup_root: Option<PathBuf>,
    /// First source port for SNAT.
    pub snat_first: u16,
    /// Number of source ports for SNAT.
    pub snat_count: u16,
    /// Seconds after which a UDP flow without reply is over.
    pub udp_unreplied: u32,
    /// Seconds after which a UDP flow with replies is over.
    pub udp_replied: u32,
}
