//! tc: socket buffers as frames, and verdicts as tc actions.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{
        bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_head,
        bpf_skb_change_tail,
    },
    programs::TcContext,
};
use bytemuck::{AnyBitPattern, NoUninit};
use lb_common::{HOOKS, Hook, Reason};
use lb_ebpf::{
    Decision, Frame, Place, Verdict,
    checksum::{Delta, corrected},
    header, process,
};

use crate::{
    count::count,
    direct,
    env::KernelEnv,
    maps::{KernelTables, work4, work6},
    redirect,
};

/// Bytes that the library reads and writes directly: Ethernet, IPv6 and TCP headers.
const HEADERS: u32 = 14 + 40 + 20;

/// Runs the library on a packet at a tc hook, of a device with or without Ethernet headers.
#[inline(always)]
pub(crate) fn run<const ETHERNET: bool, const HOOK: u8>(ctx: &TcContext) -> i32 {
    let hook = const { hook(HOOK) };
    // SAFETY: the kernel passes a valid context, whose fields the verifier knows.
    let (ifindex, vlan, addressed) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).ifindex, (*skb).vlan_present, (*skb).pkt_type)
    };
    let is_ours = match hook {
        Hook::ExternalIn => addressed == PACKET_HOST,
        // A pod's gateway may be the bridge that its link is a port of.
        Hook::PodIn => addressed == PACKET_HOST || addressed == PACKET_OTHERHOST,
        Hook::PodOut | Hook::ExternalOut | Hook::LoopbackOut | Hook::Xdp | Hook::Socket => true,
    };
    let decision = if vlan != 0 {
        // The tag stands beside the packet; it is for the VLAN's own device.
        Decision::pass(Reason::NotIp)
    } else if is_ours {
        let bridged = matches!(hook, Hook::ExternalOut) && addressed == PACKET_OTHERHOST;
        decide::<ETHERNET, HOOK>(ctx, Place { hook, ifindex, bridged })
    } else {
        Decision::pass(Reason::OtherHost)
    };
    count(hook, decision.reason);
    let to = decision.ifindex;
    match decision.verdict {
        // "Unspecified" lets programs of others that come after ours have their say.
        Verdict::Pass | Verdict::Stack => TC_ACT_UNSPEC,
        // SAFETY: the helper has no preconditions; an unknown device makes the kernel drop.
        Verdict::Redirect => unsafe { bpf_redirect(to, 0) as i32 },
        Verdict::RedirectNeighbour => redirect::neighbour(to),
        // SAFETY: as above.
        Verdict::ToHost => unsafe { bpf_redirect(to, u64::from(BPF_F_INGRESS)) as i32 },
        Verdict::Answer => {
            // Back out of the device where it came in; what was leaving goes back up.
            let flags = match hook {
                Hook::PodIn | Hook::ExternalIn | Hook::Xdp => 0,
                Hook::PodOut | Hook::ExternalOut | Hook::LoopbackOut | Hook::Socket => {
                    u64::from(BPF_F_INGRESS)
                }
            };
            // SAFETY: as above.
            unsafe { bpf_redirect(ifindex, flags) as i32 }
        }
        Verdict::Drop => TC_ACT_SHOT,
    }
}

/// Values of `pkt_type` (linux/if_packet.h): to the device's own address, and to another machine's.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// The hook by its number, which a constant parameter has to be.
const fn hook(number: u8) -> Hook {
    let mut at = 0;
    while at < HOOKS.len() {
        if HOOKS[at] as u8 == number {
            return HOOKS[at];
        }
        at += 1;
    }
    panic!("no hook has this number")
}

#[inline(always)]
fn decide<const ETHERNET: bool, const HOOK: u8>(ctx: &TcContext, place: Place) -> Decision {
    let len = ctx.len();
    let readable = (ctx.data_end() - ctx.data()) as u32;
    if readable < HEADERS && readable < len {
        let wanted = if len < HEADERS { len } else { HEADERS };
        if ctx.pull_data(wanted).is_err() {
            return Decision::pass(Reason::Truncated);
        }
    }
    let mut frame = SkbFrame::<ETHERNET> { ctx, len, ipv6: false };
    let env = KernelEnv { ctx };
    let ethertype = if ETHERNET {
        frame.load::<u16>(header::ETH_TYPE).map(u16::from_be)
    } else {
        // SAFETY: the kernel passes a valid context; the field holds 16 bits in network order.
        Some(u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16))
    };
    match ethertype {
        Some(header::ETH_P_IP) if ETHERNET => {
            // SAFETY: borrowed once, here.
            match unsafe { work4() } {
                Some(work) => process(&mut frame, &KernelTables, &env, place, work),
                None => Decision::pass(Reason::Inconsistent),
            }
        }
        Some(header::ETH_P_IP) => decide4::<ETHERNET, HOOK>(&mut frame, place),
        Some(header::ETH_P_IPV6) => {
            frame.ipv6 = true;
            decide6::<ETHERNET, HOOK>(&mut frame, place)
        }
        Some(_) => Decision::pass(Reason::NotIp),
        None => Decision::pass(Reason::Truncated),
    }
}

/// IPv4 without Ethernet header, in a function of its own: there a call costs nothing that counts, and the
/// stack is fuller.
#[inline(never)]
fn decide4<const ETHERNET: bool, const HOOK: u8>(
    frame: &mut SkbFrame<'_, ETHERNET>,
    place: Place,
) -> Decision {
    let place = Place { hook: const { hook(HOOK) }, ..place };
    let env = KernelEnv { ctx: frame.ctx };
    // SAFETY: borrowed once, here; no Ethernet program borrows it besides.
    match unsafe { work4() } {
        Some(work) => process(frame, &KernelTables, &env, place, work),
        None => Decision::pass(Reason::Inconsistent),
    }
}

/// IPv6, in a function of its own: beside IPv4's its variables would not fit the stack.
#[inline(never)]
fn decide6<const ETHERNET: bool, const HOOK: u8>(
    frame: &mut SkbFrame<'_, ETHERNET>,
    place: Place,
) -> Decision {
    let place = Place { hook: const { hook(HOOK) }, ..place };
    let env = KernelEnv { ctx: frame.ctx };
    // SAFETY: borrowed once, here.
    match unsafe { work6() } {
        Some(work) => process(frame, &KernelTables, &env, place, work),
        None => Decision::pass(Reason::Inconsistent),
    }
}

/// Whether two checksums mean the same: one's complement has two zeros.
#[inline(always)]
const fn is_same_sum(a: u16, b: u16) -> bool {
    a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
}

/// Writes `value` at the start of the packet.
#[inline(always)]
pub(crate) fn write_first(ctx: &TcContext, value: u64) -> Option<()> {
    direct::store(ctx, 0, value)
}

/// A socket buffer.
struct SkbFrame<'a, const ETHERNET: bool> {
    ctx: &'a TcContext,
    len: u32,
    ipv6: bool,
}

impl<const ETHERNET: bool> SkbFrame<'_, ETHERNET> {
    /// Octets that the packet lacks in front of its IP header.
    const LACKS: usize = if ETHERNET { 0 } else { header::ETH_LEN };
}

impl<const ETHERNET: bool> Frame for SkbFrame<'_, ETHERNET> {
    const ETHERNET: bool = ETHERNET;

    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, at: usize) -> Option<T> {
        if at < Self::LACKS {
            return None;
        }
        direct::load(self.ctx, at - Self::LACKS)
    }

    /// Where there was no Ethernet header it is written last, when there is one.
    #[inline(always)]
    fn store<T: NoUninit>(&mut self, at: usize, value: T) -> Option<()> {
        direct::store(self.ctx, if at < Self::LACKS { at } else { at - Self::LACKS }, value)
    }

    #[inline(always)]
    fn reaches(&self, len: usize) -> bool {
        self.len as usize + Self::LACKS >= len
    }

    #[inline(always)]
    fn make_readable(&mut self, len: usize) {
        let wanted = (len - Self::LACKS) as u32;
        // What cannot be had is found to be missing when it is read.
        _ = self.ctx.pull_data(if self.len < wanted { self.len } else { wanted });
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: the kernel passes a valid context, whose fields the verifier knows.
        unsafe { (*self.ctx.skb.skb).gso_size }
    }

    #[inline(always)]
    fn open_header(&mut self) -> Option<()> {
        if ETHERNET {
            return Some(());
        }
        let ethertype = if self.ipv6 { header::ETH_P_IPV6 } else { header::ETH_P_IP };
        // SAFETY: the context is the program's own.
        if unsafe { bpf_skb_change_head(self.ctx.skb.skb, header::ETH_LEN as u32, 0) } != 0 {
            return None;
        }
        direct::store(self.ctx, header::ETH_TYPE, ethertype.to_be())
    }

    /// The kernel's helper knows whether the checksum is complete, summed by the device or left to
    /// it; only a change of the pseudo-header concerns the last.
    #[inline(always)]
    fn correct_checksum(&mut self, at: usize, delta: Delta, optional: bool) -> Option<()> {
        const PSEUDO_HEADER: u64 = 0x10;
        const ZERO_IS_NONE: u64 = 0x20;
        // Since 6.16; before, the flag is refused and the device's sum is corrected wrongly for
        // IPv6 (the kernel then distrusts it and sums again).
        const IPV6: u64 = 0x80;
        let flags = if optional { ZERO_IS_NONE } else { 0 };
        let skb = self.ctx.skb.skb;
        let before: u16 = self.load(at)?;
        if optional && before == 0 {
            return Some(());
        }
        let offset = (at - Self::LACKS) as u32;
        if delta.pseudo != 0 {
            let flags = flags | PSEUDO_HEADER;
            let to = u64::from(delta.pseudo);
            // SAFETY: the context is the program's own; the helper checks the offset.
            let refused = unsafe {
                if self.ipv6 && bpf_l4_csum_replace(skb, offset, 0, to, flags | IPV6) == 0 {
                    0
                } else {
                    bpf_l4_csum_replace(skb, offset, 0, to, flags)
                }
            };
            if refused != 0 {
                return None;
            }
            // What the helper did tells which kind of checksum this is: it took the change from a
            // complete one and added it to an unfinished one, and these differ for any change but
            // none. So its second call, which costs as much as a look-up, can be done without.
            let after: u16 = self.load(at)?;
            let complete = corrected(before, u32::from(delta.pseudo));
            if delta.segment == 0 || !is_same_sum(after, complete) {
                return Some(());
            }
            let mut check = corrected(after, u32::from(delta.segment));
            if optional && check == 0 {
                check = 0xffff;
            }
            return self.store(at, check);
        }
        if delta.segment != 0 {
            let to = u64::from(delta.segment);
            // SAFETY: as above.
            if unsafe { bpf_l4_csum_replace(skb, offset, 0, to, flags) } != 0 {
                return None;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn reshape(&mut self, keep: usize, insert: usize) -> Option<()> {
        const BETWEEN_MAC_AND_IP: u32 = 1;
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is the program's own; the helpers check the lengths.
        unsafe {
            if bpf_skb_change_tail(skb, (keep - Self::LACKS) as u32, 0) != 0 {
                return None;
            }
            if bpf_skb_adjust_room(skb, insert as i32, BETWEEN_MAC_AND_IP, 0) != 0 {
                return None;
            }
        }
        self.len = self.ctx.len();
        // Everything up to the new transport header is written directly.
        self.ctx.pull_data(self.len).ok()
    }
}
