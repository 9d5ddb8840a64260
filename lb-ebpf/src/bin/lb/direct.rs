//! Direct access to a packet's bytes, the same for tc and XDP: the verifier knows `data` and
//! `data_end` of both contexts as the packet's bounds.

use aya_ebpf::programs::{TcContext, XdpContext};
use bytemuck::{AnyBitPattern, NoUninit};

/// A context with a packet.
pub(crate) trait Bounds {
    /// Address of the first byte and of the one behind the last that can be reached directly.
    fn bounds(&self) -> (usize, usize);
}

impl Bounds for TcContext {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }
}

impl Bounds for XdpContext {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }
}

/// The value at offset `at`, if it lies wholly inside.
#[inline(always)]
pub(crate) fn load<T: AnyBitPattern>(ctx: &impl Bounds, at: usize) -> Option<T> {
    let (start, end) = ctx.bounds();
    let from = start + at;
    if from + size_of::<T>() > end {
        return None;
    }
    // SAFETY: the bytes lie between data and data_end, checked just above; any bytes are a `T`.
    // BPF loads need no alignment where the kernel runs packets through this at all.
    Some(unsafe { *(from as *const T) })
}

/// Writes `value` at offset `at`, if it lies wholly inside.
#[inline(always)]
pub(crate) fn store<T: NoUninit>(ctx: &impl Bounds, at: usize, value: T) -> Option<()> {
    let (start, end) = ctx.bounds();
    let to = start + at;
    if to + size_of::<T>() > end {
        return None;
    }
    // SAFETY: as in `load`; the program alone writes to the packet while it runs.
    unsafe { *(to as *mut T) = value };
    Some(())
}
