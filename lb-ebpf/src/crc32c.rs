//! The checksum of SCTP, CRC32c (RFC 9260 §6.8 and appendix A), corrected for changed ports.
//!
//! A CRC is linear: two packets of one length whose ports differ by `d` have checksums that differ by
//! `d · x^(8·length)`, a product of polynomials over GF(2) modulo the CRC's. So the length of the packet
//! is all that must be known of the rest of it. Addresses do not count: SCTP has no pseudo-header.

/// The polynomial, bits reversed as the CRC is (the highest bit is the coefficient of `x^0`).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Lengths up to that of the longest packet are sums of so many powers of two.
const POWERS: usize = 16;

/// For each of the eight nibbles of a remainder and each value of it, the product with one power.
type Products = [[u32; 16]; 8];

/// The products with `x^(8·2^k)`, for each `k`.
static ADVANCES: [Products; POWERS] = advances();

/// The checksum `check` of a packet of `length` bytes, from the first port on, whose ports change from
/// `old` to `new` (source and destination, host order).
///
/// The wire has checksums in little-endian order. Not inlined: the verifier and the stack would pay
/// for it wherever a packet is rewritten.
#[inline(never)]
pub(crate) fn corrected(check: u32, old: [u16; 2], new: [u16; 2], length: u32) -> u32 {
    let mut change = word(old) ^ word(new);
    let mut k = 0;
    while k < POWERS {
        if length >> k & 1 != 0 {
            change = times(&ADVANCES[k], change);
        }
        k += 1;
    }
    check ^ change
}

/// The checksum of a packet that has an ABORT without a cause, its tag reflected, and nothing else.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the tag is split into halves")]
pub(crate) fn of_abort(ports: [u16; 2], tag: u32) -> u32 {
    let check = corrected(BARE_ABORT, [0; 2], ports, 16);
    // The tag begins four bytes behind the ports.
    corrected(check, [0; 2], [(tag >> 16) as u16, tag as u16], 12)
}

/// The checksum of such a packet whose ports and tag are all zero.
const BARE_ABORT: u32 = {
    let chunk = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 1, 0, 4];
    let mut check = !0;
    let mut at = 0;
    while at < chunk.len() {
        check = times_one_byte(check ^ chunk[at]);
        at += 1;
    }
    !check
};

/// The ports as the CRC takes them in: bytes in the order of the wire, the first one lowest.
#[inline(always)]
fn word([sport, dport]: [u16; 2]) -> u32 {
    u32::from(sport.swap_bytes()) | u32::from(dport.swap_bytes()) << 16
}

/// The product of a remainder with the power that `products` belongs to.
#[inline(always)]
const fn times(products: &Products, remainder: u32) -> u32 {
    let mut product = 0;
    let mut nibble = 0;
    while nibble < 8 {
        product ^= products[nibble][(remainder >> (4 * nibble) & 0xf) as usize];
        nibble += 1;
    }
    product
}

const fn advances() -> [Products; POWERS] {
    let mut all = [[[0; 16]; 8]; POWERS];
    let mut k = 0;
    while k < POWERS {
        let mut nibble = 0;
        while nibble < 8 {
            let mut value = 0_u32;
            while value < 16 {
                let remainder = value << (4 * nibble);
                all[k][nibble][value as usize] = if k == 0 {
                    times_one_byte(remainder)
                } else {
                    // Each power is the square of the one before.
                    times(&all[k - 1], times(&all[k - 1], remainder))
                };
                value += 1;
            }
            nibble += 1;
        }
        k += 1;
    }
    all
}

const fn times_one_byte(mut remainder: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        let carry = remainder & 1;
        remainder >>= 1;
        if carry != 0 {
            remainder ^= POLYNOMIAL;
        }
        bit += 1;
    }
    remainder
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::host::craft::crc32c;

    /// A packet with its checksum field, and its checksum.
    fn checked(ports: [u16; 2], rest: &[u8]) -> u32 {
        let mut bytes: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        bytes.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0]);
        bytes.extend(rest);
        crc32c(&bytes)
    }

    #[test]
    fn the_reference_computes_the_known_check_value() {
        // The value that every catalogue gives for the nine digits, and those of RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn unchanged_ports_change_nothing() {
        assert_eq!(corrected(0xdead_beef, [1, 2], [1, 2], 1234), 0xdead_beef);
    }

    /// B12, FAM-2.
    #[test]
    fn every_length_up_to_the_longest_packet() {
        let rest: Vec<u8> = (0..65_535_u32).map(|n| ((n * 7) >> 3).to_le_bytes()[0]).collect();
        let (old, new) = ([40_000, 80], [17_000, 8080]);
        let lengths = (0..300).chain([1460, 4095, 4096, 8999, 32_768, 65_535 - 12]);
        for length in lengths {
            let rest = &rest[..length];
            let correct =
                corrected(checked(old, rest), old, new, u32::try_from(length).unwrap() + 12);
            assert_eq!(correct, checked(new, rest), "{length} bytes behind the header");
        }
    }

    #[test]
    fn an_abort_has_the_checksum_of_its_bytes() {
        for (ports, tag) in [([0, 0], 0_u32), ([80, 40_000], 0x0102_0304), ([1, 2], !0)] {
            let mut bytes: Vec<u8> =
                ports.iter().flat_map(|port: &u16| port.to_be_bytes()).collect();
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 0, 0, 0, 6, 1, 0, 4]);
            assert_eq!(of_abort(ports, tag), crc32c(&bytes));
        }
    }

    proptest! {
        #[test]
        fn correction_equals_recomputation(
            old in any::<[u16; 2]>(),
            new in any::<[u16; 2]>(),
            rest in prop::collection::vec(any::<u8>(), 0..3000),
        ) {
            let length = u32::try_from(rest.len()).unwrap() + 12;
            let correct = corrected(checked(old, &rest), old, new, length);
            prop_assert_eq!(correct, checked(new, &rest));
            prop_assert_eq!(corrected(correct, new, old, length), checked(old, &rest));
        }
    }
}
