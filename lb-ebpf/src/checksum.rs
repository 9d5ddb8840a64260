//! Internet checksums (RFC 1071), corrected instead of computed again (RFC 1624).
//!
//! The checksum is the one's complement of the one's complement sum of 16-bit words. Three facts
//! make correction cheap:
//! 1. One's complement addition is addition with the carry added back in, so any number of words
//!    may be added in a wide register and folded once at the end.
//! 2. Subtracting a word is adding its complement. Replacing `old` by `new` therefore changes the
//!    sum by `!old + new` — the *delta* — and the checksum to `!(!check + delta)`.
//! 3. The sum does not depend on byte order as long as words are read and written in the same one;
//!    so words are taken as they lie in memory.

/// A change of a transport checksum, split by what the change touches.
///
/// The two parts must stay apart: where the checksum is left to the device to finish
/// (CHECKSUM_PARTIAL), the field holds only the sum of the pseudo-header, so a changed address must
/// be corrected and a changed port must not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Delta {
    /// Change of the pseudo-header (addresses), folded; 0 when nothing changes.
    pub pseudo: u16,
    /// Change of the segment itself (ports and other fields), folded; 0 when nothing changes.
    pub segment: u16,
}

impl Delta {
    /// Both parts together.
    #[inline(always)]
    pub const fn whole(self) -> u32 {
        self.pseudo as u32 + self.segment as u32
    }
}

/// The sum of replacing the words `old` by `new`.
#[inline(always)]
pub fn replaced<const N: usize>(old: [u32; N], new: [u32; N]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        // Indexing is bounded by N on both sides.
        sum += u64::from(!old[i]) + u64::from(new[i]);
        i += 1;
    }
    fold32(sum)
}

/// Folds a 64-bit accumulator into 32 bits, preserving the one's complement sum.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folding keeps the low half on purpose")]
pub fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// Folds a 32-bit accumulator into 16 bits, preserving the one's complement sum.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folding keeps the low half on purpose")]
pub fn fold16(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds two unfolded sums.
#[inline(always)]
pub fn add(a: u32, b: u32) -> u32 {
    fold32(u64::from(a) + u64::from(b))
}

/// The checksum `check` after a change by `delta` (RFC 1624, equation 3).
#[inline(always)]
pub fn corrected(check: u16, delta: u32) -> u16 {
    !fold16(add(u32::from(!check), delta))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn full(words: &[u32]) -> u16 {
        !fold16(words.iter().fold(0, |sum, word| add(sum, *word)))
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624, section 4: header sum 0xdd2f, field 0x5555 becomes 0x3285.
        let delta = add(u32::from(!0x5555u16), 0x3285);
        assert_eq!(corrected(0xdd2f, delta), 0x0000);
    }

    proptest! {
        #[test]
        fn correction_equals_recomputation(
            words in prop::collection::vec(1u32.., 4..40),
            at in 0usize..3,
            new in any::<[u32; 2]>(),
        ) {
            let mut changed: Vec<u32> = words.clone();
            let old = [words[at], words[at + 1]];
            changed[at..at + 2].copy_from_slice(&new);
            let correct = corrected(full(&words), replaced(old, new));
            let again = full(&changed);
            // 0x0000 and 0xffff are the two zeros of one's complement.
            prop_assert!(correct == again || (correct ^ again) == 0xffff && [0, 0xffff].contains(&again));
        }
    }
}
