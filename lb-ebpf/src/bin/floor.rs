//! Reference programs of the benchmark, never part of the product.
//!
//! `floor_*` do the least that a stateful balancer must do, straight-line and for IPv4 TCP only: two
//! look-ups, a backend, a counter, a rewrite, a redirect. `wrap_*` restore the packet that a test run
//! would otherwise hand on as the last run left it, give it the source of one of many flows, and
//! tail-call the program that is measured. `empty_*` in its place tell what that itself costs. `send_xdp`
//! makes live frames of the same packets, and `sink_*` count those that came through a node, and end them.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(missing_docs, reason = "the entry points are described above, all together")]
#![allow(
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "ids are 32 bits wide, and the macros of aya want public programs"
)]

use aya_ebpf::{
    bindings::{
        TC_ACT_UNSPEC,
        xdp_action::{self, XDP_PASS},
    },
    btf_maps::{Array, HashMap, PerCpuArray, ProgramArray},
    helpers::{bpf_get_prandom_u32, bpf_redirect},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{Addr4, FlowKey, FrontendKey, FrontendValue, Hook, MacAddr};
use lb_ebpf::checksum::{add, corrected, replaced};

/// A backend and the way to it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FloorBackend {
    addr: Addr4,
    /// Network order, like the packet.
    port: u16,
    dmac: MacAddr,
    smac: MacAddr,
    pad: u16,
    ifindex: u32,
}

/// The packet to restore.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Template {
    /// The first bytes of the packet.
    words: [u64; WORDS],
    /// Number of flows less one; the number is a power of two.
    mask: u32,
    /// 1 to take flows in turn, 0 to take any.
    in_turn: u32,
    /// 1 for IPv6.
    ipv6: u32,
    /// Device to which `send_xdp` sends the packet.
    to: u32,
}

/// The benchmark's packets have exactly this many words.
const WORDS: usize = 10;

#[btf_map]
static FLOOR_SERVICES: HashMap<FrontendKey<Addr4>, FrontendValue, 65536> = HashMap::new();
#[btf_map]
static FLOOR_FLOWS: HashMap<FlowKey<Addr4>, u64, 262144> = HashMap::new();
#[btf_map]
static FLOOR_BACKENDS: Array<FloorBackend, 65536> = Array::new();
/// Packets of known flows, packets that began one.
#[btf_map]
static FLOOR_COUNT: PerCpuArray<u64, 2> = PerCpuArray::new();
#[btf_map]
static BENCH_PACKET: Array<Template, 1> = Array::new();
/// Packets that came through.
#[btf_map]
static BENCH_SUNK: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Which flow comes next.
#[btf_map]
static BENCH_STATE: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static BENCH_XDP_NEXT: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static BENCH_TC_NEXT: ProgramArray<1> = ProgramArray::new();

#[xdp]
pub fn floor_xdp(ctx: XdpContext) -> xdp_action::Type {
    match balance(ctx.data(), ctx.data_end()) {
        // SAFETY: the helper has no preconditions.
        Some(ifindex) => unsafe { bpf_redirect(ifindex, 0) as xdp_action::Type },
        None => XDP_PASS,
    }
}

#[classifier]
pub fn floor_tc(ctx: TcContext) -> i32 {
    match balance(ctx.data(), ctx.data_end()) {
        // SAFETY: the helper has no preconditions.
        Some(ifindex) => unsafe { bpf_redirect(ifindex, 0) as i32 },
        None => TC_ACT_UNSPEC,
    }
}

/// Balances the packet between `data` and `end`; returns the device to send it by.
#[inline(always)]
fn balance(data: usize, end: usize) -> Option<u32> {
    const HEADERS: usize = 14 + 20 + 20;
    if data + HEADERS > end {
        return None;
    }
    // SAFETY: here and in all reads and writes of the packet below, the offset lies inside the
    // headers, which lie inside the packet as was just checked; BPF needs no alignment.
    let (ethertype, head, fragment, proto) = unsafe {
        (
            read::<u16>(data + 12),
            read::<u8>(data + 14),
            read::<u16>(data + 20),
            read::<u8>(data + 23),
        )
    };
    let fragmented = fragment & 0x3fff_u16.to_be() != 0;
    if ethertype != 0x0800_u16.to_be() || head != 0x45 || proto != 6 || fragmented {
        return None;
    }
    // SAFETY: as above.
    let (src, dst, sport, dport) = unsafe {
        (
            read::<Addr4>(data + 26),
            read::<Addr4>(data + 30),
            read::<u16>(data + 34),
            read::<u16>(data + 36),
        )
    };
    let service = FrontendKey::new(dst, u16::from_be(dport), proto);
    // SAFETY: two fields are read at once; nothing replaces the value meanwhile.
    let (base, len) = unsafe { FLOOR_SERVICES.get(&service).map(|value| (value.base, value.len))? };
    let (sport_host, dport_host) = (u16::from_be(sport), u16::from_be(dport));
    let hook = Hook::ExternalIn as u8;
    let key = FlowKey { src, dst, sport: sport_host, dport: dport_host, proto, hook, pad: [0; 2] };
    // SAFETY: as above.
    let (id, began) = match unsafe { FLOOR_FLOWS.get(&key) } {
        Some(backend) => (*backend as u32, 0),
        None => {
            // SAFETY: the helper has no preconditions.
            let random = u64::from(unsafe { bpf_get_prandom_u32() });
            let id = base.wrapping_add(((random * u64::from(len)) >> 32) as u32);
            FLOOR_FLOWS.insert(&key, &u64::from(id), 0).ok()?;
            (id, 1)
        }
    };
    let backend = FLOOR_BACKENDS.get(id)?;
    let count = FLOOR_COUNT.get_ptr_mut(began)?;
    // SAFETY: this CPU's slot of a per-CPU array.
    unsafe { *count = (*count).wrapping_add(1) };

    let addresses = replaced([dst.word()], [backend.addr.word()]);
    let ports = replaced([u32::from(dport)], [u32::from(backend.port)]);
    let to = backend.addr;
    // SAFETY: as above.
    unsafe {
        let life = read::<u8>(data + 22);
        let (old, new) = ([life, proto], [life.wrapping_sub(1), proto]);
        let hop =
            replaced([u32::from(u16::from_ne_bytes(old))], [u32::from(u16::from_ne_bytes(new))]);
        let ip_check = corrected(read(data + 24), add(addresses, hop));
        let tcp_check = corrected(read(data + 50), add(addresses, ports));
        write(data, backend.dmac);
        write(data + 6, backend.smac);
        write(data + 22, life.wrapping_sub(1));
        write(data + 24, ip_check);
        write(data + 30, to);
        write(data + 36, backend.port);
        write(data + 50, tcp_check);
    }
    Some(backend.ifindex)
}

trait Word {
    fn word(&self) -> u32;
}

impl Word for Addr4 {
    #[inline(always)]
    fn word(&self) -> u32 {
        u32::from_ne_bytes(self.octets)
    }
}

/// # Safety
/// The packet holds a `T` at `at`.
#[inline(always)]
unsafe fn read<T: Copy>(at: usize) -> T {
    // SAFETY: by the caller's promise.
    unsafe { *(at as *const T) }
}

/// # Safety
/// The packet has room for a `T` at `at`.
#[inline(always)]
unsafe fn write<T>(at: usize, value: T) {
    // SAFETY: by the caller's promise.
    unsafe { *(at as *mut T) = value };
}

#[xdp]
pub fn wrap_xdp(ctx: XdpContext) -> xdp_action::Type {
    if restore(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: the array holds programs of this type, or nothing, and then we go on.
        unsafe { BENCH_XDP_NEXT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[classifier]
pub fn wrap_tc(ctx: TcContext) -> i32 {
    if restore(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { BENCH_TC_NEXT.tail_call(&ctx, 0) };
    }
    aya_ebpf::bindings::TC_ACT_SHOT
}

#[xdp]
pub fn send_xdp(ctx: XdpContext) -> xdp_action::Type {
    match (restore(ctx.data(), ctx.data_end()), BENCH_PACKET.get(0)) {
        // SAFETY: the helper has no preconditions.
        (Some(()), Some(template)) => unsafe { bpf_redirect(template.to, 0) as xdp_action::Type },
        _ => xdp_action::XDP_ABORTED,
    }
}

#[xdp]
pub fn sink_xdp(ctx: XdpContext) -> xdp_action::Type {
    sink(ctx.data(), ctx.data_end());
    xdp_action::XDP_DROP
}

#[classifier]
pub fn sink_tc(ctx: TcContext) -> i32 {
    sink(ctx.data(), ctx.data_end());
    aya_ebpf::bindings::TC_ACT_SHOT
}

/// Counts a packet, if it has the length of the benchmark's: the node also sends what nobody asked for.
#[inline(always)]
fn sink(data: usize, end: usize) {
    if end.wrapping_sub(data) != WORDS * 8 {
        return;
    }
    if let Some(count) = BENCH_SUNK.get_ptr_mut(0) {
        // SAFETY: this CPU's slot of a per-CPU array.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

#[xdp]
pub fn empty_xdp(_ctx: XdpContext) -> xdp_action::Type {
    XDP_PASS
}

#[classifier]
pub fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Writes the template with the source of the next flow over the packet.
#[inline(always)]
fn restore(data: usize, end: usize) -> Option<()> {
    let template = BENCH_PACKET.get(0)?;
    let state = BENCH_STATE.get_ptr_mut(0)?;
    if data + WORDS * 8 > end {
        return None;
    }
    // SAFETY: this CPU's slot of a per-CPU array.
    let flow = unsafe {
        let flow = if template.in_turn != 0 {
            *state as u32
        } else {
            // Knuth's MMIX generator; its high bits are good enough to defeat caches.
            *state = (*state).wrapping_mul(6_364_136_223_846_793_005);
            (*state >> 33) as u32
        };
        *state = (*state).wrapping_add(1);
        flow & template.mask
    };
    let port = (1024 + (flow & 0x7fff)) as u16;
    let octet = (1 + (flow >> 15)) as u8;
    let mut word = 0;
    while word < WORDS {
        // SAFETY: as checked above.
        unsafe { write(data + word * 8, template.words[word]) };
        word += 1;
    }
    // SAFETY: as above.
    unsafe {
        if template.ipv6 != 0 {
            write(data + 37, octet);
            write(data + 54, port.to_be());
        } else {
            write(data + 29, octet);
            write(data + 34, port.to_be());
        }
    }
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
