//! cgroup hooks: system calls of sockets.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use lb_common::{Addr4, Addr6, Hook, proto};
use lb_ebpf::{
    Family,
    socket::{Call, Outcome, connect, reply, sendmsg},
};

use crate::{SETTINGS, count::count, env::KernelEnv, maps::KernelTables};

/// What a socket does.
#[derive(Clone, Copy)]
enum Operation {
    Connect,
    Send,
    /// Being told where a datagram came from, or who the peer is.
    Hear,
}

const ALLOW: i32 = 1;
const DENY: i32 = 0;

macro_rules! entry_points {
    ($($(#[$attr:meta])* $name:ident = $run:ident($operation:ident);)*) => {$(
        $(#[$attr])*
        fn $name(ctx: SockAddrContext) -> i32 {
            $run(&ctx, Operation::$operation)
        }
    )*};
}

entry_points! {
    #[cgroup_sock_addr(connect4)] lb_connect4 = run4(Connect);
    #[cgroup_sock_addr(connect6)] lb_connect6 = run6(Connect);
    #[cgroup_sock_addr(sendmsg4)] lb_sendmsg4 = run4(Send);
    #[cgroup_sock_addr(sendmsg6)] lb_sendmsg6 = run6(Send);
    #[cgroup_sock_addr(recvmsg4)] lb_recvmsg4 = run4(Hear);
    #[cgroup_sock_addr(recvmsg6)] lb_recvmsg6 = run6(Hear);
    #[cgroup_sock_addr(getpeername4)] lb_getpeer4 = run4(Hear);
    #[cgroup_sock_addr(getpeername6)] lb_getpeer6 = run6(Hear);
}

/// A call of an IPv4 socket.
#[inline(always)]
fn run4(ctx: &SockAddrContext, operation: Operation) -> i32 {
    // SAFETY: the kernel passes a valid context, whose fields the verifier knows.
    let word = unsafe { (*ctx.sock_addr).user_ip4 };
    let addr = Addr4 { octets: word.to_ne_bytes() };
    match decide(ctx, operation, addr) {
        Decided::Allow => ALLOW,
        Decided::Deny => DENY,
        Decided::Rewrite(addr, port) => {
            // SAFETY: as above; these fields may be written at every hook that we attach to.
            unsafe {
                (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(addr.octets);
                (*ctx.sock_addr).user_port = u32::from(port.to_be());
            }
            ALLOW
        }
    }
}

/// A call of an IPv6 socket, which may well speak IPv4 (RFC 4291 §2.5.5.2).
#[inline(always)]
fn run6(ctx: &SockAddrContext, operation: Operation) -> i32 {
    const MAPPED: u32 = 0xffff_u32.to_be();
    // SAFETY: as in `run4`.
    let words = unsafe {
        let ip = &raw const (*ctx.sock_addr).user_ip6;
        [(*ip)[0], (*ip)[1], (*ip)[2], (*ip)[3]]
    };
    if words[0] == 0 && words[1] == 0 && words[2] == MAPPED {
        let addr = Addr4 { octets: words[3].to_ne_bytes() };
        return match decide(ctx, operation, addr) {
            Decided::Allow => ALLOW,
            Decided::Deny => DENY,
            Decided::Rewrite(addr, port) => {
                // SAFETY: as in `run4`.
                unsafe {
                    (*ctx.sock_addr).user_ip6[3] = u32::from_ne_bytes(addr.octets);
                    (*ctx.sock_addr).user_port = u32::from(port.to_be());
                }
                ALLOW
            }
        };
    }
    match decide(ctx, operation, Addr6 { octets: bytemuck::cast(words) }) {
        Decided::Allow => ALLOW,
        Decided::Deny => DENY,
        Decided::Rewrite(addr, port) => {
            let words: [u32; 4] = bytemuck::cast(addr.octets);
            // SAFETY: as in `run4`.
            unsafe {
                (*ctx.sock_addr).user_ip6[0] = words[0];
                (*ctx.sock_addr).user_ip6[1] = words[1];
                (*ctx.sock_addr).user_ip6[2] = words[2];
                (*ctx.sock_addr).user_ip6[3] = words[3];
                (*ctx.sock_addr).user_port = u32::from(port.to_be());
            }
            ALLOW
        }
    }
}

enum Decided<A> {
    Allow,
    Deny,
    Rewrite(A, u16),
}

#[inline(always)]
fn decide<A: Family>(ctx: &SockAddrContext, operation: Operation, addr: A) -> Decided<A>
where
    KernelTables: lb_ebpf::Tables<A>,
    for<'a> KernelEnv<'a, SockAddrContext>: lb_ebpf::Env<A>,
{
    const ECONNREFUSED: i32 = 111;
    // SAFETY: as in `run4`.
    let (port, protocol) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    if protocol != u32::from(proto::TCP) && protocol != u32::from(proto::UDP) {
        return Decided::Allow;
    }
    if !is_ours(ctx) {
        return Decided::Allow;
    }
    let call = Call {
        // SAFETY: the helper takes the program's own context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        addr,
        port: u16::from_be(port as u16),
        proto: protocol as u8,
    };
    let env = KernelEnv { ctx };
    let outcome = match operation {
        Operation::Connect => connect(&KernelTables, &env, &call),
        Operation::Send => sendmsg(&KernelTables, &env, &call),
        Operation::Hear => reply(&KernelTables, &call),
    };
    match outcome {
        Outcome::Untouched(reason) => {
            count(Hook::Socket, reason);
            Decided::Allow
        }
        Outcome::Rewritten(addr, port, reason) => {
            count(Hook::Socket, reason);
            Decided::Rewrite(addr, port)
        }
        Outcome::Refused(reason) => {
            count(Hook::Socket, reason);
            // SAFETY: the helper has no preconditions in this program type.
            let _ = unsafe { bpf_set_retval(-ECONNREFUSED) };
            Decided::Deny
        }
    }
}

/// Whether the socket lives where we serve: pods have network namespaces of their own.
#[inline(always)]
fn is_ours(ctx: &SockAddrContext) -> bool {
    let settings = SETTINGS.load();
    settings.socket_all != 0
        // SAFETY: the helper takes the program's own context.
        || unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } == settings.host_netns_cookie
}
