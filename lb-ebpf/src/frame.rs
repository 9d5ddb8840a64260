//! The bytes of a packet, from the Ethernet header on.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::checksum::{Delta, corrected};

/// A packet that can be read and rewritten in place.
///
/// Offsets count from the first byte of the Ethernet header. Every access is checked against the
/// packet's end; a failed access changes nothing.
pub trait Frame {
    /// Whether the packet begins with an Ethernet header. Where it does not, as on a tunnel, offsets count
    /// as if there were one; nothing can be read from it, and what is written into it is lost until
    /// [`open_header`](Self::open_header).
    const ETHERNET: bool;

    /// The value at `at`, bytes in memory order; `None` when it does not lie wholly inside the part
    /// of the packet that can be read directly.
    fn load<T: AnyBitPattern>(&self, at: usize) -> Option<T>;

    /// Writes `value` at `at`; `None` when it does not lie wholly inside.
    fn store<T: NoUninit>(&mut self, at: usize, value: T) -> Option<()>;

    /// Whether the packet has at least `len` bytes, parts that cannot be read directly included.
    fn reaches(&self, len: usize) -> bool;

    /// Corrects the transport checksum at `at` for a change that was or will be made elsewhere.
    ///
    /// `optional` says that a checksum of zero means "none" (UDP, RFC 768): it stays, and one that
    /// comes to zero is written as 0xffff. Over IPv6 too: there a receiver discards what has none
    /// (RFC 8200 §8.1) unless it is a tunnel's (RFC 6935).
    /// A frame whose checksum may be left to the device to finish does this in its own way.
    #[inline(always)]
    fn correct_checksum(&mut self, at: usize, delta: Delta, optional: bool) -> Option<()> {
        let check: u16 = self.load(at)?;
        if optional && check == 0 {
            return Some(());
        }
        let mut check = corrected(check, delta.whole());
        if optional && check == 0 {
            check = 0xffff;
        }
        self.store(at, check)
    }

    /// Lets the first `len` bytes be read directly, as far as the packet has them.
    fn make_readable(&mut self, len: usize);

    /// Payload of each of the packets that this one will be cut into before it leaves, in bytes; 0 when it
    /// leaves as it is.
    fn segment_size(&self) -> u32;

    /// Makes room for an Ethernet header in a packet that has none, so that it can go to a device that
    /// wants one. The last change but for the header's addresses.
    fn open_header(&mut self) -> Option<()>;

    /// Keeps the first `keep` bytes and then makes room for `insert` bytes behind the Ethernet
    /// header.
    fn reshape(&mut self, keep: usize, insert: usize) -> Option<()>;
}
