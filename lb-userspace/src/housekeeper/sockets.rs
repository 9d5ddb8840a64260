//! The sockets of this network namespace, by netlink: which are there, and the end of some.
//!
//! A connected UDP socket was rewritten once and never asks again: when its backend leaves, the
//! socket itself has to be ended, so that its owner connects again. Only sockets that our hooks
//! rewrote are ended, known by their cookies.

use std::{collections::HashMap, io, net::SocketAddr};

use bytemuck::{Pod, Zeroable};
use lb_common::proto;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

const DONE: u16 = 3;
const ERROR: u16 = 2;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`: how the kernel finds a socket again. Ports in network order.
#[derive(Clone, Copy, Debug, Eq, Pod, PartialEq, Zeroable)]
#[repr(C)]
struct Id {
    sport: [u8; 2],
    dport: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    device: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` behind a header.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: Id,
}

/// The beginning of `struct inet_diag_msg`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Id,
}

/// A socket of this network namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    family: u8,
    protocol: u8,
    id: Id,
}

impl Open {
    /// The address that the socket is connected to; unspecified when it is not.
    pub(super) fn peer(&self) -> SocketAddr {
        let port = u16::from_be_bytes(self.id.dport);
        if i32::from(self.family) == libc::AF_INET {
            let [a, b, c, d, ..] = self.id.dst;
            SocketAddr::from(([a, b, c, d], port))
        } else {
            let ip = std::net::Ipv6Addr::from(self.id.dst);
            SocketAddr::new(ip.to_canonical(), port)
        }
    }
}

/// All TCP and UDP sockets of this network namespace, by cookie.
pub(super) fn list() -> io::Result<HashMap<u64, Open>> {
    let mut open = HashMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in [proto::TCP, proto::UDP] {
            dump(u8::try_from(family).map_err(io::Error::other)?, protocol, &mut open)?;
        }
    }
    Ok(open)
}

fn request(kind: u16, flags: u16, family: u8, protocol: u8, id: Id) -> Request {
    const LENGTH: u32 = 72;
    const _: () = assert!(size_of::<Request>() == LENGTH as usize);
    let header = Header { length: LENGTH, kind, flags: REQUEST | flags, sequence: 1, port: 0 };
    Request { header, family, protocol, extensions: 0, pad: 0, states: u32::MAX, id }
}

fn send(request: &Request) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    let _address = socket.bind_auto()?;
    let _sent = socket.send_to(bytemuck::bytes_of(request), &NetlinkAddr::new(0, 0), 0)?;
    Ok(socket)
}

fn dump(family: u8, protocol: u8, open: &mut HashMap<u64, Open>) -> io::Result<()> {
    let socket = send(&request(BY_FAMILY, DUMP, family, protocol, Id::zeroed()))?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for (header, body) in messages(&bytes) {
            match header.kind {
                DONE => return Ok(()),
                ERROR => return answer(body),
                _ => {
                    let Some(body) = body.get(..size_of::<Message>()) else { continue };
                    let message: Message = bytemuck::pod_read_unaligned(body);
                    let [low, high] = message.id.cookie;
                    let cookie = u64::from(high) << 32 | u64::from(low);
                    let socket = Open { family: message.family, protocol, id: message.id };
                    let _before = open.insert(cookie, socket);
                }
            }
        }
    }
}

/// Ends a socket: its owner gets ECONNABORTED. One that is gone already is no error.
pub(super) fn destroy(socket: &Open) -> io::Result<()> {
    let request = request(DESTROY, ACK, socket.family, socket.protocol, socket.id);
    let (bytes, _) = send(&request)?.recv_from_full()?;
    let error = messages(&bytes).find(|(header, _)| header.kind == ERROR);
    match error.map_or(Ok(()), |(_, body)| answer(body)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// What the kernel says in an error message; zero stands for success.
fn answer(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// The messages of one datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let header: Header = bytemuck::pod_read_unaligned(bytes.get(..size_of::<Header>())?);
        let length = usize::try_from(header.length).ok()?;
        let body = bytes.get(size_of::<Header>()..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}
