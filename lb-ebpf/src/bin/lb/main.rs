//! The eBPF programs: entry points that hand a context to the library and turn its verdict into the
//! kernel's return code. Nothing is decided here.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "helpers take 32-bit lengths and give 32-bit codes in registers of 64"
)]

mod count;
mod direct;
mod env;
mod maps;
mod redirect;
mod skb;
mod socket;
mod trace;
mod xdp;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_jiffies64,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{Hook, Settings};

/// Constants that the agent patches before it loads the programs.
#[unsafe(no_mangle)]
static SETTINGS: aya_ebpf::Global<Settings> = aya_ebpf::Global::new(Settings {
    hz: 250,
    udp_unreplied: 30,
    udp_replied: 120,
    snat_first: 16384,
    snat_count: 16384,
    socket_all: 0,
    pad: 0,
    host_netns_cookie: 0,
});

#[classifier]
fn lb_pod_in(ctx: TcContext) -> i32 {
    skb::run::<true, { Hook::PodIn as u8 }>(&ctx)
}

#[classifier]
fn lb_pod_out(ctx: TcContext) -> i32 {
    skb::run::<true, { Hook::PodOut as u8 }>(&ctx)
}

#[classifier]
fn lb_ext_in(ctx: TcContext) -> i32 {
    skb::run::<true, { Hook::ExternalIn as u8 }>(&ctx)
}

#[classifier]
fn lb_ext_out(ctx: TcContext) -> i32 {
    skb::run::<true, { Hook::ExternalOut as u8 }>(&ctx)
}

// The same at devices whose packets begin with their IP header: tunnels, mostly.
#[classifier]
fn lb_pod_in_l3(ctx: TcContext) -> i32 {
    skb::run::<false, { Hook::PodIn as u8 }>(&ctx)
}

#[classifier]
fn lb_pod_out_l3(ctx: TcContext) -> i32 {
    skb::run::<false, { Hook::PodOut as u8 }>(&ctx)
}

#[classifier]
fn lb_ext_in_l3(ctx: TcContext) -> i32 {
    skb::run::<false, { Hook::ExternalIn as u8 }>(&ctx)
}

#[classifier]
fn lb_ext_out_l3(ctx: TcContext) -> i32 {
    skb::run::<false, { Hook::ExternalOut as u8 }>(&ctx)
}

#[classifier]
fn lb_lo_out(ctx: TcContext) -> i32 {
    skb::run::<true, { Hook::LoopbackOut as u8 }>(&ctx)
}

#[xdp]
fn lb_xdp_in(ctx: XdpContext) -> xdp_action::Type {
    xdp::run(&ctx)
}

/// Writes the kernel's jiffies into the packet of a test run, so that the agent can tell the age of
/// flow entries.
#[classifier]
fn lb_jiffies(ctx: TcContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    let jiffies = unsafe { bpf_jiffies64() };
    // A look-up each keeps the maps that only user space uses in the object.
    i32::from(skb::write_first(&ctx, jiffies).is_none() || !maps::keep())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this loop can be reached, so no panic ever loads.
    loop {}
}

// Helpers used here are free for programs of any licence except bpf_skb_* and the redirects, which
// the kernel gives to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
