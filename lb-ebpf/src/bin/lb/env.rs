//! The node around a packet: clock, random numbers, routes.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        bpf_fib_lookup as FibLookup, bpf_sock_tuple as SockTuple,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as SockTuple4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as SockTuple6,
    },
    btf_maps::PerCpuArray,
    helpers::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release,
    },
    macros::btf_map,
};
use lb_common::{
    Addr4, Addr6, Address, DeviceValue, FlowKey, FlowValue, Hook, NextHop, Reason, Runtime,
    Settings, XdpDevice,
};
use lb_ebpf::{Env, Route, limit::Bucket};

use crate::{
    SETTINGS,
    maps::{LB_DEVICES, LB_RUNTIME, LB_XDP_DEVICES},
    trace,
};

/// The surroundings of the packet or call in `ctx`.
pub(crate) struct KernelEnv<'a, C> {
    pub(crate) ctx: &'a C,
}

macro_rules! env {
    ($addr:ty, $route:ident, $awaited:ident) => {
        impl<C: EbpfContext> Env<$addr> for KernelEnv<'_, C> {
            #[inline(always)]
            fn now(&self) -> u32 {
                // SAFETY: the helper has no preconditions.
                unsafe { bpf_jiffies64() as u32 }
            }

            #[inline(always)]
            fn random(&self) -> u32 {
                // SAFETY: the helper has no preconditions.
                unsafe { bpf_get_prandom_u32() }
            }

            #[inline(always)]
            fn settings(&self) -> Settings {
                SETTINGS.load()
            }

            #[inline(always)]
            fn generation(&self) -> u16 {
                LB_RUNTIME.get(0).map_or(0, |runtime| runtime.generation)
            }

            #[inline(always)]
            fn may_redirect(&self) -> bool {
                LB_RUNTIME.get(0).is_some_and(|now| now.flags & Runtime::SHORTCUT != 0)
            }

            #[inline(always)]
            fn routes_by_source(&self) -> bool {
                LB_RUNTIME.get(0).is_some_and(|now| now.flags & Runtime::SOURCE_RULES != 0)
            }

            #[inline(always)]
            fn route(&self, ifindex: u32, tuple: &FlowKey<$addr>) -> Route {
                let generation = Env::<$addr>::generation(self);
                $route(self.ctx, ifindex, tuple, generation)
            }

            #[inline(always)]
            fn device(&self, ifindex: u32) -> DeviceValue {
                // SAFETY: copied at once; the agent alone writes this map.
                match unsafe { LB_DEVICES.get(&ifindex) } {
                    Some(device) => *device,
                    None => DeviceValue::default(),
                }
            }

            #[inline(always)]
            fn transmits(&self, ifindex: u32) -> bool {
                LB_XDP_DEVICES.get(XdpDevice::slot(ifindex)).is_some_and(|device| {
                    device.ifindex == ifindex && device.flags & XdpDevice::TRANSMITS != 0
                })
            }

            #[inline(always)]
            fn is_awaited(&self, tuple: &FlowKey<$addr>) -> bool {
                $awaited(self.ctx, tuple)
            }

            #[inline(always)]
            fn may_refuse(&self) -> bool {
                let Some(bucket) = LB_REFUSALS.get_ptr_mut(0) else {
                    return false;
                };
                let (now, hz) = (Env::<$addr>::now(self), SETTINGS.load().hz);
                // SAFETY: this CPU's slot of a per-CPU array, used by nobody else meanwhile (see
                // `maps::work4`); zeros are a bucket.
                unsafe { (*bucket).take(now, hz) }
            }

            #[inline(always)]
            fn observe(
                &self,
                hook: Hook,
                tuple: &FlowKey<$addr>,
                reason: Reason,
                flow: Option<&FlowValue<$addr>>,
            ) {
                trace::packet(self.ctx, hook, tuple, reason, flow);
            }
        }
    };
}

env!(Addr4, route4, awaited4);
env!(Addr6, route6, awaited6);

/// Memory for one request: it would take an eighth of the stack.
#[btf_map]
static LB_FIB: PerCpuArray<FibLookup, 1> = PerCpuArray::new();

// Not inlined: several call sites.
#[inline(never)]
fn route4<C: EbpfContext>(ctx: &C, ifindex: u32, to: &FlowKey<Addr4>, generation: u16) -> Route {
    let Some(fib) = request(ifindex, to, AF_INET) else {
        return Route::Unknown;
    };
    fib.__bindgen_anon_3.ipv4_src = to.src.words()[0];
    fib.__bindgen_anon_4.ipv4_dst = to.dst.words()[0];
    look_up(ctx, fib, generation)
}

#[inline(never)]
fn route6<C: EbpfContext>(ctx: &C, ifindex: u32, to: &FlowKey<Addr6>, generation: u16) -> Route {
    let Some(fib) = request(ifindex, to, AF_INET6) else {
        return Route::Unknown;
    };
    // The kernel takes a packet from ::1 for one that is never forwarded; ours will leave with
    // another source.
    let src = to.src.words();
    fib.__bindgen_anon_3.ipv6_src = if src == LOOPBACK6 { [0; 4] } else { src };
    fib.__bindgen_anon_4.ipv6_dst = to.dst.words();
    look_up(ctx, fib, generation)
}

/// The address `::1`.
const LOOPBACK6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[inline(always)]
fn request<A: Address>(
    ifindex: u32,
    to: &FlowKey<A>,
    family: u8,
) -> Option<&'static mut FibLookup> {
    // SAFETY: this CPU's slot of a per-CPU array, and nothing else runs on this CPU between here
    // and the end of the look-up (see `maps::work4`); it consists of integers and unions of
    // integers, for which any bytes are a value.
    let fib = unsafe { &mut *LB_FIB.get_ptr_mut(0)? };
    fib.family = family;
    fib.l4_protocol = to.proto;
    fib.sport = to.sport.to_be();
    fib.dport = to.dport.to_be();
    // A length that fits everywhere: whether a packet does, each one is asked for itself. With one given,
    // the kernel tells the MTU of the route, what it learnt of it included.
    fib.__bindgen_anon_1.tot_len = 1;
    fib.ifindex = ifindex;
    fib.__bindgen_anon_2.flowinfo = 0;
    fib.__bindgen_anon_5.tbid = 0;
    Some(fib)
}

#[inline(always)]
fn look_up<C: EbpfContext>(ctx: &C, fib: &mut FibLookup, generation: u16) -> Route {
    const SUCCESS: i64 = 0;
    const NOT_FORWARDED: i64 = 4;
    const NO_NEIGHBOUR: i64 = 7;
    // SAFETY: `ctx` is the program's own context and `fib` has the length that is passed.
    let found =
        unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut *fib, size_of::<FibLookup>() as i32, 0) };
    match found {
        SUCCESS => Route::Via(NextHop {
            ifindex: fib.ifindex,
            generation,
            // SAFETY: the kernel has written it in place of the length.
            mtu: unsafe { fib.__bindgen_anon_1.mtu_result },
            dmac: lb_common::MacAddr { octets: fib.dmac },
            smac: lb_common::MacAddr { octets: fib.smac },
        }),
        NOT_FORWARDED => Route::Local,
        NO_NEIGHBOUR => Route::Unresolved(fib.ifindex),
        _ => Route::Unknown,
    }
}

/// The refusals that each CPU may send.
#[btf_map]
static LB_REFUSALS: PerCpuArray<Bucket, 1> = PerCpuArray::new();

/// Memory for one socket look-up.
#[btf_map]
static LB_SOCK_TUPLE: PerCpuArray<SockTuple, 1> = PerCpuArray::new();

// Not inlined: rare, and the stack of the callers is full.
#[inline(never)]
fn awaited4<C: EbpfContext>(ctx: &C, tuple: &FlowKey<Addr4>) -> bool {
    let Some(key) = LB_SOCK_TUPLE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's slot, used by nobody else until the look-up ends (see `maps::work4`).
    let key = unsafe { &mut *key };
    key.__bindgen_anon_1.ipv4 = SockTuple4 {
        saddr: tuple.src.words()[0],
        daddr: tuple.dst.words()[0],
        sport: tuple.sport.to_be(),
        dport: tuple.dport.to_be(),
    };
    has_connected_socket(ctx, key, size_of::<SockTuple4>())
}

#[inline(never)]
fn awaited6<C: EbpfContext>(ctx: &C, tuple: &FlowKey<Addr6>) -> bool {
    let Some(key) = LB_SOCK_TUPLE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: as in `awaited4`.
    let key = unsafe { &mut *key };
    key.__bindgen_anon_1.ipv6 = SockTuple6 {
        saddr: tuple.src.words(),
        daddr: tuple.dst.words(),
        sport: tuple.sport.to_be(),
        dport: tuple.dport.to_be(),
    };
    has_connected_socket(ctx, key, size_of::<SockTuple6>())
}

#[inline(always)]
fn has_connected_socket<C: EbpfContext>(ctx: &C, key: &mut SockTuple, len: usize) -> bool {
    const CURRENT_NETNS: u64 = u64::MAX;
    // SAFETY: the context is the program's own and `key` holds `len` bytes.
    let sock =
        unsafe { bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut *key, len as u32, CURRENT_NETNS, 0) };
    if sock.is_null() {
        return false;
    }
    // SAFETY: not null, and referenced until released just below. The kernel looks for the socket
    // that matches best, so one that is connected at all is connected to the sender.
    let connected = unsafe { (*sock).dst_port } != 0;
    // SAFETY: the reference taken above, given back once.
    let _ = unsafe { bpf_sk_release(sock.cast()) };
    connected
}
