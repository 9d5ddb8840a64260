//! One log line a packet, in the object that `lb run --trace` loads; nothing in the other.

use aya_ebpf::EbpfContext;
use lb_common::{Address, FlowKey, Hook, Reason};

/// Reports what became of a packet.
#[cfg(not(feature = "trace"))]
#[inline(always)]
pub(crate) fn packet<C: EbpfContext, A: Address>(
    _ctx: &C,
    _hook: Hook,
    _tuple: &FlowKey<A>,
    _reason: Reason,
    _to: Option<&FlowKey<A>>,
) {
}

/// Reports what became of a packet.
#[cfg(feature = "trace")]
#[inline(always)]
pub(crate) fn packet<C: EbpfContext, A: Address>(
    ctx: &C,
    hook: Hook,
    tuple: &FlowKey<A>,
    reason: Reason,
    to: Option<&FlowKey<A>>,
) {
    match to {
        None => line(ctx, hook, tuple, reason),
        Some(to) => edit(ctx, hook, tuple, reason, to),
    }
}

#[cfg(feature = "trace")]
#[inline(never)]
fn line<C: EbpfContext, A: Address>(ctx: &C, hook: Hook, t: &FlowKey<A>, reason: Reason) {
    if let (Some(src), Some(dst)) = (v4(&t.src), v4(&t.dst)) {
        aya_log_ebpf::info!(
            ctx,
            "{} {:i}:{} > {:i}:{} proto {} {}",
            hook.name(),
            src,
            t.sport,
            dst,
            t.dport,
            t.proto,
            reason.name()
        );
    } else {
        aya_log_ebpf::info!(
            ctx,
            "{} [{:i}]:{} > [{:i}]:{} proto {} {}",
            hook.name(),
            v6(&t.src),
            t.sport,
            v6(&t.dst),
            t.dport,
            t.proto,
            reason.name()
        );
    }
}

#[cfg(feature = "trace")]
#[inline(never)]
fn edit<C: EbpfContext, A: Address>(
    ctx: &C,
    hook: Hook,
    t: &FlowKey<A>,
    reason: Reason,
    to: &FlowKey<A>,
) {
    line(ctx, hook, t, reason);
    if let (Some(src), Some(dst)) = (v4(&to.src), v4(&to.dst)) {
        aya_log_ebpf::info!(ctx, "  becomes {:i}:{} > {:i}:{}", src, to.sport, dst, to.dport);
    } else {
        aya_log_ebpf::info!(
            ctx,
            "  becomes [{:i}]:{} > [{:i}]:{}",
            v6(&to.src),
            to.sport,
            v6(&to.dst),
            to.dport
        );
    }
}

#[cfg(feature = "trace")]
#[inline(always)]
fn v4<A: Address>(addr: &A) -> Option<[u8; 4]> {
    (size_of::<A>() == 4).then(|| addr.words()[0].to_ne_bytes())
}

#[cfg(feature = "trace")]
#[inline(always)]
fn v6<A: Address>(addr: &A) -> [u8; 16] {
    bytemuck::cast(addr.words())
}
