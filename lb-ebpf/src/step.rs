//! What a stage of the pipeline hands to the next.

use lb_common::Reason;

/// What a stage comes to.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    pub(crate) next: Next,
    pub(crate) reason: Reason,
}

/// What remains to be done with the packet.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Next {
    /// Leave it and let it go on.
    Pass,
    /// Discard it.
    Drop,
    /// Find the backend that its client had last, or choose one.
    Recall,
    /// Draft that flow.
    Draft,
    /// Put the drafted flow into the map.
    Insert,
    /// Take the road, of which this is the first leg.
    Road,
    /// Find the device by which this reply leaves, and rewrite it.
    Exit,
    /// Rewrite it as its flow entry says.
    Apply,
    /// Rewritten already; send it where its flow entry says.
    Deliver,
    /// Answer it.
    Refuse,
    /// It is an error about a packet of a flow: translate it back.
    Quoted,
    /// The same, by the road of that flow.
    QuotedRoad,
    /// It was rewritten already: an error about a packet of a flow.
    Turned,
    /// The same, and it goes back up the stack.
    TurnedToHost,
}

impl Step {
    #[inline(always)]
    pub(crate) const fn new(next: Next, reason: Reason) -> Self {
        Self { next, reason }
    }

    #[inline(always)]
    pub(crate) const fn pass(reason: Reason) -> Self {
        Self::new(Next::Pass, reason)
    }

    #[inline(always)]
    pub(crate) const fn drop(reason: Reason) -> Self {
        Self::new(Next::Drop, reason)
    }
}
