//! Which maps an address family has.

use lb_common::{Addr4, Addr6, Address, names};

/// An address family with its maps.
pub trait MapFamily: Address {
    /// Name of the frontend map.
    const FRONTENDS: &'static str;
    /// Name of the backend map.
    const BACKENDS: &'static str;
    /// Name of the flow map.
    const FLOWS: &'static str;
    /// Name of the socket map.
    const SOCKS: &'static str;
    /// Name of the affinity map.
    const AFFINITY: &'static str;
    /// Name of the map of source ranges.
    const RANGES: &'static str;
}

impl MapFamily for Addr4 {
    const FRONTENDS: &'static str = names::LB4_FRONTENDS;
    const BACKENDS: &'static str = names::LB4_BACKENDS;
    const FLOWS: &'static str = names::LB4_FLOWS;
    const SOCKS: &'static str = names::LB4_SOCKS;
    const AFFINITY: &'static str = names::LB4_AFFINITY;
    const RANGES: &'static str = names::LB4_RANGES;
}

impl MapFamily for Addr6 {
    const FRONTENDS: &'static str = names::LB6_FRONTENDS;
    const BACKENDS: &'static str = names::LB6_BACKENDS;
    const FLOWS: &'static str = names::LB6_FLOWS;
    const SOCKS: &'static str = names::LB6_SOCKS;
    const AFFINITY: &'static str = names::LB6_AFFINITY;
    const RANGES: &'static str = names::LB6_RANGES;
}
