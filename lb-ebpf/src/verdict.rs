//! What a decision comes to.

use lb_common::Reason;

/// What the shell does with the packet now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Verdict {
    /// Leave it untouched and let the kernel go on.
    Pass,
    /// It was rewritten; let the kernel go on.
    Stack,
    /// It was rewritten, Ethernet header included: out of the device.
    Redirect,
    /// It was rewritten except for the Ethernet header: out of the device, the kernel finds the
    /// neighbour.
    RedirectNeighbour,
    /// It was rewritten, Ethernet header included: into the ingress of the device, for a process of
    /// this node.
    ToHost,
    /// It was turned into its own answer: back where it came from.
    Answer,
    /// Discard it.
    Drop,
}

/// A verdict and why.
///
/// Small enough for one register: a function of the kernel side returns nothing larger.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Decision {
    /// The device that [`Verdict::Redirect`], [`Verdict::RedirectNeighbour`] and
    /// [`Verdict::ToHost`] mean; else of no meaning.
    pub ifindex: u32,
    /// What to do.
    pub verdict: Verdict,
    /// Why; counted under the hook.
    pub reason: Reason,
}

impl Decision {
    /// A decision without a device.
    #[inline(always)]
    pub const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self { ifindex: 0, verdict, reason }
    }

    /// Untouched, because of `reason`.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self::new(Verdict::Pass, reason)
    }

    /// Discarded, because of `reason`.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self::new(Verdict::Drop, reason)
    }
}
