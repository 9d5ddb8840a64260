//! Raw sockets of protocol 132, in either family.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
    sockopt::{Ipv4RecvErr, Ipv6RecvErr},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::ports;

const SCTP: i32 = 132;

/// A raw socket. It gets every SCTP packet of its addresses, whatever the ports.
pub(super) struct Raw {
    socket: Socket,
    v4: bool,
}

impl Raw {
    /// A socket that receives what is sent to `at`, and sends from there.
    pub(super) fn bound(at: IpAddr) -> io::Result<Self> {
        let raw = Self::new(at)?;
        raw.socket.bind(&SocketAddr::new(at, 0).into())?;
        Ok(raw)
    }

    /// A socket between `from`, or an address that fits, and `to`, which is told of ICMP errors.
    pub(super) fn connected(from: Option<IpAddr>, to: IpAddr) -> io::Result<Self> {
        let raw = Self::new(to)?;
        if raw.v4 {
            setsockopt(&raw.socket, Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&raw.socket, Ipv6RecvErr, &true)?;
        }
        if let Some(from) = from.filter(|from| !from.is_unspecified()) {
            raw.socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        raw.socket.connect(&SocketAddr::new(to, 0).into())?;
        Ok(raw)
    }

    fn new(like: IpAddr) -> io::Result<Self> {
        let domain = Domain::for_address(SocketAddr::new(like, 0));
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
        Ok(Self { socket, v4: like.is_ipv4() })
    }

    /// The address that packets are sent from.
    pub(super) fn local(&self) -> io::Result<IpAddr> {
        let local = self.socket.local_addr()?.as_socket();
        local.map(|at| at.ip()).ok_or_else(|| io::Error::other("a socket without an IP address"))
    }

    /// Sends to whom the socket is connected.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        sent(self.socket.send(packet))
    }

    /// Sends to anybody.
    pub(super) fn send_to(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        sent(self.socket.send_to(packet, &SocketAddr::new(to, 0).into()))
    }

    /// The next packet from the SCTP header on, and its sender.
    pub(super) fn receive(&self, patience: Duration) -> io::Result<(Vec<u8>, IpAddr)> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
        let (length, from) = self.socket.recv_from(&mut buffer)?;
        // SAFETY: the kernel has written as many bytes as it says.
        let bytes: Vec<u8> =
            buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        let from = from.as_socket().map(|from| from.ip());
        let from = from.ok_or_else(|| io::Error::other("a sender without an IP address"))?;
        // Only IPv4 shows its header.
        let header =
            if self.v4 { bytes.first().map_or(0, |b| usize::from(b & 0xf) * 4) } else { 0 };
        Ok((bytes.get(header..).unwrap_or_default().to_vec(), from))
    }

    /// What ICMP reported about packets with these ports (source, destination), as the error that it
    /// means; forgets what it reported of others.
    pub(super) fn reported(&self, of: (u16, u16)) -> Option<io::Error> {
        let mut found = None;
        let mut quoted = [0; 64];
        let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        loop {
            let mut into = [IoSliceMut::new(&mut quoted)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let Ok(message) = recvmsg::<()>(fd, &mut into, Some(&mut space), flags) else {
                return found;
            };
            let length = message.bytes;
            let error = message.cmsgs().ok().into_iter().flatten().find_map(|part| {
                if let ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) = part
                {
                    Some(error.ee_errno)
                } else {
                    None
                }
            });
            if let (Some(error), true) = (error, ports(&quoted[..length]) == Some(of)) {
                found = Some(io::Error::from_raw_os_error(i32::try_from(error).unwrap_or(0)));
            }
        }
    }
}

/// A packet that was dropped on its way out is lost, to SCTP as to UDP; a raw socket that asks for
/// errors hears of it.
fn sent(sent: io::Result<usize>) -> io::Result<()> {
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
        sent => sent.map(drop),
    }
}
