//! One log line a packet, in the object that `lb run --trace` loads; nothing in the other.

use aya_ebpf::EbpfContext;
use lb_common::{Address, FlowKey, FlowValue, Hook, Reason};

/// Reports what became of a packet.
#[cfg(not(feature = "trace"))]
#[inline(always)]
pub(crate) fn packet<C: EbpfContext, A: Address>(
    _ctx: &C,
    _hook: Hook,
    _tuple: &FlowKey<A>,
    _reason: Reason,
    _flow: Option<&FlowValue<A>>,
) {
}

#[cfg(feature = "trace")]
pub(crate) use line::packet;

#[cfg(feature = "trace")]
mod line {
    use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
    use aya_log_ebpf::info;
    use lb_common::HOOKS;

    use super::{Address, EbpfContext, FlowKey, FlowValue, Hook, Reason};

    /// A packet and its fate, noted for [`lb_trace`].
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Line {
        src: [u32; 4],
        dst: [u32; 4],
        new_src: [u32; 4],
        new_dst: [u32; 4],
        sport: u16,
        dport: u16,
        new_sport: u16,
        new_dport: u16,
        hook: u8,
        reason: u8,
        proto: u8,
        /// Bit 0: IPv6. Bit 1: rewritten.
        kind: u8,
    }

    #[btf_map]
    static LB_TRACE: PerCpuArray<Line, 1> = PerCpuArray::new();

    /// Reports what became of a packet.
    #[inline(always)]
    pub(crate) fn packet<C: EbpfContext, A: Address>(
        _ctx: &C,
        hook: Hook,
        tuple: &FlowKey<A>,
        reason: Reason,
        flow: Option<&FlowValue<A>>,
    ) {
        let Some(line) = LB_TRACE.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: this CPU's slot, used by nobody else until `lb_trace` has read it: one packet at a
        // time (see `maps::work4`). Every field is an integer.
        let line = unsafe { &mut *line };
        line.src = tuple.src.words();
        line.dst = tuple.dst.words();
        line.sport = tuple.sport;
        line.dport = tuple.dport;
        line.hook = hook as u8;
        line.reason = reason as u8;
        line.proto = tuple.proto;
        line.kind = u8::from(size_of::<A>() != 4);
        if let Some(to) = flow {
            line.new_src = to.src.words();
            line.new_dst = to.dst.words();
            line.new_sport = to.sport;
            line.new_dport = to.dport;
            line.kind |= 2;
        }
        _ = lb_trace();
    }

    /// Logs the line that was noted last on this CPU.
    ///
    /// A global function: the verifier walks through it once, by itself, and not once for each way
    /// that leads to it.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn lb_trace() -> i32 {
        let Some(line) = LB_TRACE.get_ptr_mut(0) else {
            return 0;
        };
        // SAFETY: as in `packet`.
        let line = unsafe { &*line };
        let hook = text(&HOOK_NAMES[usize::from(line.hook & 7)]);
        let reason = text(&REASON_NAMES[usize::from(line.reason & 63)]);
        let proto = line.proto;
        let (sport, dport) = (line.sport, line.dport);
        let (new_sport, new_dport) = (line.new_sport, line.new_dport);
        if line.kind & 1 == 0 {
            let (src, dst) = (v4(line.src), v4(line.dst));
            if line.kind & 2 == 0 {
                info!(
                    (),
                    "{} {} proto {} {:i}:{} > {:i}:{}", hook, reason, proto, src, sport, dst, dport
                );
            } else {
                let (new_src, new_dst) = (v4(line.new_src), v4(line.new_dst));
                info!(
                    (),
                    "{} {} proto {} {:i}:{} > {:i}:{} => {:i}:{} > {:i}:{}",
                    hook,
                    reason,
                    proto,
                    src,
                    sport,
                    dst,
                    dport,
                    new_src,
                    new_sport,
                    new_dst,
                    new_dport
                );
            }
        } else {
            let (src, dst) = (v6(line.src), v6(line.dst));
            if line.kind & 2 == 0 {
                info!(
                    (),
                    "{} {} proto {} [{:i}]:{} > [{:i}]:{}",
                    hook,
                    reason,
                    proto,
                    src,
                    sport,
                    dst,
                    dport
                );
            } else {
                let (new_src, new_dst) = (v6(line.new_src), v6(line.new_dst));
                info!(
                    (),
                    "{} {} proto {} [{:i}]:{} > [{:i}]:{} => [{:i}]:{} > [{:i}]:{}",
                    hook,
                    reason,
                    proto,
                    src,
                    sport,
                    dst,
                    dport,
                    new_src,
                    new_sport,
                    new_dst,
                    new_dport
                );
            }
        }
        0
    }

    fn v4(words: [u32; 4]) -> [u8; 4] {
        words[0].to_ne_bytes()
    }

    fn v6(words: [u32; 4]) -> [u8; 16] {
        bytemuck::cast(words)
    }

    /// Names filled with spaces to one length: a length that varies would send the verifier through
    /// the rest of the line once for each.
    type Name = [u8; 20];

    static HOOK_NAMES: [Name; 8] = {
        let mut names = [[b' '; 20]; 8];
        let mut i = 0;
        while i < HOOKS.len() {
            names[HOOKS[i] as usize] = padded(HOOKS[i].name());
            i += 1;
        }
        names
    };

    static REASON_NAMES: [Name; 64] = {
        let mut names = [[b' '; 20]; 64];
        let mut i = 0;
        while i < Reason::ALL.len() {
            names[Reason::ALL[i] as usize] = padded(Reason::ALL[i].name());
            i += 1;
        }
        names
    };

    const fn padded(text: &str) -> Name {
        let mut name = [b' '; 20];
        let mut i = 0;
        while i < text.len() {
            name[i] = text.as_bytes()[i];
            i += 1;
        }
        name
    }

    fn text(name: &'static Name) -> &'static str {
        // SAFETY: made of names that are ASCII, and of spaces.
        unsafe { core::str::from_utf8_unchecked(name) }
    }
}
