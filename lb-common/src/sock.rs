//! Sockets whose destination the cgroup hooks rewrote.

use crate::addr::{Addr4, Addr6};

/// Key of the socket maps: a socket and an address that it sends to or hears from.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct SockKey<A> {
    /// Low half of the socket cookie.
    pub cookie_low: u32,
    /// High half of the socket cookie.
    pub cookie_high: u32,
    /// Address, network order: of the frontend (`Out`) or of the backend (`Back`).
    pub addr: A,
    /// Port, host order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// A [`SockDirection`] by number.
    pub direction: u8,
}

/// Which way a socket entry translates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum SockDirection {
    /// From frontend to backend: what the socket sends.
    Out = 0,
    /// From backend to frontend: what the socket is told about its peer.
    Back = 1,
}

/// Value of the socket maps: the other side.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SockValue<A> {
    /// Address of the other side, network order.
    pub addr: A,
    /// Port of the other side, host order.
    pub port: u16,
    /// Always zero.
    pub pad: u16,
    /// Backend id.
    pub backend: u32,
    /// Service id.
    pub service: u32,
    /// Low 32 bits of the kernel's jiffies when last used.
    pub last_seen: u32,
}

const _: () = {
    assert!(size_of::<SockKey<Addr4>>() == 16 && size_of::<SockKey<Addr6>>() == 28);
    assert!(size_of::<SockValue<Addr4>>() == 20 && size_of::<SockValue<Addr6>>() == 32);
};
