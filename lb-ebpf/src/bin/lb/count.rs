//! Counters by hook and reason.

use lb_common::{HOOKS, Hook, REASON_SLOTS, Reason};

use crate::maps::LB_REASONS;

/// Counts one packet or call.
#[inline(always)]
pub(crate) fn count(hook: Hook, reason: Reason) {
    const { assert!(HOOKS.len() as u32 * REASON_SLOTS == crate::maps::REASONS as u32) };
    let index = hook as u32 * REASON_SLOTS + reason as u32;
    if let Some(counter) = LB_REASONS.get_ptr_mut(index) {
        // SAFETY: the pointer is this CPU's slot of a per-CPU array, valid while the program runs,
        // and no other program runs on this CPU meanwhile except from an interrupt that can at
        // worst lose one count.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
