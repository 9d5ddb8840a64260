//! Which maps an address family has.

use bytemuck::{Pod, Zeroable};
use lb_common::{Addr4, Addr6, Address, RangeKey, names};

use crate::plan::{Range, RangeSetId};

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
    /// Key of that map.
    type LpmKey: LpmKey;
}

/// Key of a map of source ranges, as an LPM trie wants it: how many bits count, then the bits.
pub trait LpmKey: Pod {
    /// The key of a range of this family.
    fn of(range: &Range) -> Option<Self>;

    /// The range in the map.
    fn range(&self) -> Range;
}

macro_rules! lpm_key {
    ($name:ident, $addr:ty) => {
        /// A [`RangeKey`] with its length.
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            bits: u32,
            key: RangeKey<$addr>,
        }

        impl LpmKey for $name {
            fn of(range: &Range) -> Option<Self> {
                let &Range { set, addr, bits } = range;
                Some(Self { bits, key: RangeKey { set: set.0, addr: <$addr>::from_ip(addr)? } })
            }

            fn range(&self) -> Range {
                let RangeKey { set, addr } = self.key;
                Range { set: RangeSetId(set), addr: addr.ip(), bits: self.bits }
            }
        }
    };
}

lpm_key!(LpmKey4, Addr4);
lpm_key!(LpmKey6, Addr6);

impl MapFamily for Addr4 {
    const FRONTENDS: &'static str = names::LB4_FRONTENDS;
    const BACKENDS: &'static str = names::LB4_BACKENDS;
    const FLOWS: &'static str = names::LB4_FLOWS;
    const SOCKS: &'static str = names::LB4_SOCKS;
    const AFFINITY: &'static str = names::LB4_AFFINITY;
    const RANGES: &'static str = names::LB4_RANGES;
    type LpmKey = LpmKey4;
}

impl MapFamily for Addr6 {
    const FRONTENDS: &'static str = names::LB6_FRONTENDS;
    const BACKENDS: &'static str = names::LB6_BACKENDS;
    const FLOWS: &'static str = names::LB6_FLOWS;
    const SOCKS: &'static str = names::LB6_SOCKS;
    const AFFINITY: &'static str = names::LB6_AFFINITY;
    const RANGES: &'static str = names::LB6_RANGES;
    type LpmKey = LpmKey6;
}
