//! Redirects that let the kernel find the neighbour.

use core::ptr;

use aya_ebpf::helpers::bpf_redirect_neigh;

/// Out of device `ifindex`; the kernel looks up the route there and fills in the Ethernet header.
#[inline(always)]
pub(crate) fn neighbour(ifindex: u32) -> i32 {
    // SAFETY: without parameters the helper takes the destination from the packet.
    unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
}
