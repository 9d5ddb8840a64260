//! Source ranges: who may use a load balancer's address.

use crate::addr::{Addr4, Addr6};

/// Data of a key of the range maps (LPM tries; the value is a `u32` that is always 1): one range of
/// one set. The prefix length of the key counts the 32 bits of `set` too, then the bits of the range.
///
/// A set belongs to one Service port and is never changed while a frontend names it: other ranges
/// are another set.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct RangeKey<A> {
    /// Id of the set, see [`crate::FrontendValue::ranges`]. Never 0.
    pub set: u32,
    /// Network address, network order; bits beyond the prefix are zero.
    pub addr: A,
}

/// Bits of a [`RangeKey`] before the address.
pub const RANGE_SET_BITS: u32 = 32;

const _: () = {
    assert!(size_of::<RangeKey<Addr4>>() == 8 && size_of::<RangeKey<Addr6>>() == 20);
};
