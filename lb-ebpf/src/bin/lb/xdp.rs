//! XDP: raw frames, and verdicts as XDP actions.

use aya_ebpf::{
    bindings::xdp_action::{self, XDP_DROP, XDP_PASS, XDP_TX},
    helpers::bpf_redirect,
    programs::XdpContext,
};
use bytemuck::{AnyBitPattern, NoUninit};
use lb_common::{Hook, Reason, XdpDevice};
use lb_ebpf::{
    Decision, Frame, Place, Verdict,
    header::{self, EthAddresses},
    process,
};

use crate::{
    count::count,
    direct,
    env::KernelEnv,
    maps::{KernelTables, LB_XDP_DEVICES, work4, work6},
};

/// Runs the library on a frame at the XDP hook.
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "actions are small positive numbers")]
pub(crate) fn run(ctx: &XdpContext) -> xdp_action::Type {
    let ifindex = ctx.ingress_ifindex() as u32;
    let place = Place::new(Hook::Xdp, ifindex);
    let mut frame = XdpFrame { ctx };
    let env = KernelEnv { ctx };
    let decision = match frame.load::<u16>(header::ETH_TYPE).map(u16::from_be) {
        Some(header::ETH_P_IP | header::ETH_P_IPV6) if !is_ours(&frame, ifindex) => {
            Decision::pass(Reason::OtherHost)
        }
        Some(header::ETH_P_IP) => {
            // SAFETY: borrowed once, here.
            match unsafe { work4() } {
                Some(work) => process(&mut frame, &KernelTables, &env, place, work),
                None => Decision::pass(Reason::Inconsistent),
            }
        }
        Some(header::ETH_P_IPV6) => decide6(&mut frame, place),
        Some(_) => Decision::pass(Reason::NotIp),
        None => Decision::pass(Reason::Truncated),
    };
    count(Hook::Xdp, decision.reason);
    let to = decision.ifindex;
    match decision.verdict {
        Verdict::Redirect if to == ifindex => XDP_TX,
        // SAFETY: the helper has no preconditions; an unknown device makes the kernel drop.
        Verdict::Redirect => unsafe { bpf_redirect(to, 0) as xdp_action::Type },
        // The library gives the last four to tc only.
        Verdict::Pass
        | Verdict::Stack
        | Verdict::RedirectNeighbour
        | Verdict::ToHost
        | Verdict::Answer => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

/// Whether a frame is addressed to the device that it arrived at: the kernel finds that out only later.
#[inline(always)]
fn is_ours(frame: &XdpFrame<'_>, ifindex: u32) -> bool {
    // The last two octets of an address, in a word of which they are the first.
    const LAST: u32 = u32::from_ne_bytes([0xff, 0xff, 0, 0]);
    let Some(to) = frame.load::<EthAddresses>(0) else { return false };
    let Some(device) = LB_XDP_DEVICES.get(XdpDevice::slot(ifindex)) else { return false };
    let [owner, first, last]: [u32; 3] = bytemuck::cast(*device);
    owner == ifindex
        && device.flags & XdpDevice::RECEIVES != 0
        && to.words[0] == first
        && (to.words[1] ^ last) & LAST == 0
}

/// IPv6, in a function of its own: beside IPv4's its variables would not fit the stack.
#[inline(never)]
fn decide6(frame: &mut XdpFrame<'_>, place: Place) -> Decision {
    let env = KernelEnv { ctx: frame.ctx };
    // SAFETY: borrowed once, here.
    match unsafe { work6() } {
        Some(work) => process(frame, &KernelTables, &env, place, work),
        None => Decision::pass(Reason::Inconsistent),
    }
}

/// A frame before the kernel made a socket buffer of it. Its checksum is complete: where a sender's
/// device would have finished it (a local veth with checksum offload), XDP is not attached.
struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl Frame for XdpFrame<'_> {
    const ETHERNET: bool = true;

    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, at: usize) -> Option<T> {
        direct::load(self.ctx, at)
    }

    #[inline(always)]
    fn store<T: NoUninit>(&mut self, at: usize, value: T) -> Option<()> {
        direct::store(self.ctx, at, value)
    }

    #[inline(always)]
    fn reaches(&self, len: usize) -> bool {
        // By the length, not by comparing pointers: the context's fields have 32 bits in the source
        // and 64 in the kernel, and where no access follows, neither compiler nor verifier minds a
        // pointer of which the compiler kept half. Half of both still has the right difference.
        // SAFETY: the kernel passes a valid context, whose fields the verifier knows.
        let (start, end) = unsafe { ((*self.ctx.ctx).data, (*self.ctx.ctx).data_end) };
        end.wrapping_sub(start) as usize >= len
    }

    #[inline(always)]
    fn make_readable(&mut self, _len: usize) {}

    /// What is cut later is no frame yet.
    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn open_header(&mut self) -> Option<()> {
        Some(())
    }

    /// Answers are tc's work.
    #[inline(always)]
    fn reshape(&mut self, _keep: usize, _insert: usize) -> Option<()> {
        None
    }
}
