//! The VIP filter: a bit set that tells most unrelated packets apart without a hash look-up.

use crate::addr::Address;

/// Number of 64-bit words of `LB_VIP_FILTER` (128 KiB: 10,000 addresses fill one bit in a hundred).
pub const VIP_FILTER_WORDS: u32 = 1 << 14;

/// The place of one address in the filter.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VipBit {
    /// Index of the word in `LB_VIP_FILTER`.
    pub word: u32,
    /// The bit in that word.
    pub mask: u64,
}

/// The bit that is set while `addr` has any frontend. A clear bit proves that it has none.
///
/// Multiplicative hashing: the top bits of the product depend on every bit of the address.
#[inline(always)]
pub fn vip_bit<A: Address>(addr: &A) -> VipBit {
    let [a, b, c, d] = addr.words();
    let folded = a ^ b.rotate_left(7) ^ c.rotate_left(14) ^ d.rotate_left(21);
    let hash = folded.wrapping_mul(0x9e37_79b1);
    let bit = hash >> (32 - 20);
    VipBit { word: (bit >> 6) & (VIP_FILTER_WORDS - 1), mask: 1 << (bit & 63) }
}
