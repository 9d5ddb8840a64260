//! UDP sockets inside a namespace of the lab, for tests that ask how large a datagram may be.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    netns::Netns,
    wait::{PATIENCE, until},
};

/// A UDP socket of a namespace.
pub struct Datagrams {
    socket: UdpSocket,
    v6: bool,
}

impl Netns {
    /// A socket at this address, which may be unspecified.
    ///
    /// One that was closed a moment ago may still hold the address: a process that another thread starts has
    /// a copy of it until it executes its program.
    pub fn datagrams(&self, at: SocketAddr) -> Result<Datagrams> {
        let what = format!("the address {at}");
        let socket = self.run(|| {
            until(&what, PATIENCE, || match UdpSocket::bind(at) {
                Ok(socket) => Ok(Some(socket)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
                Err(error) => Err(error).with_context(|| format!("binding {at}")),
            })
        })?;
        Ok(Datagrams { socket, v6: at.is_ipv6() })
    }
}

impl Datagrams {
    /// Talks to this address and no other.
    pub fn connect(&self, to: SocketAddr) -> Result<()> {
        self.socket.connect(to).with_context(|| format!("connecting to {to}"))
    }

    /// Lets this many octets wait to be received.
    pub fn room(&self, octets: i32) -> Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, octets)
    }

    /// Whether datagrams that do not fit may be cut on their way, or not even here.
    pub fn cut(&self, may: bool) -> Result<()> {
        let value = if may { libc::IP_PMTUDISC_DONT } else { libc::IP_PMTUDISC_DO };
        let (level, name) = self.option(libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER);
        self.set(level, name, value)
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> Result<()> {
        let length = libc::socklen_t::try_from(size_of_val(&value))?;
        // SAFETY: the descriptor is open; value and length belong together until the call returns.
        let rc = unsafe {
            let fd = self.socket.as_raw_fd();
            libc::setsockopt(fd, level, name, (&raw const value).cast(), length)
        };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
    }

    /// The MTU of the way to where it is connected to, as far as this machine knows.
    pub fn path_mtu(&self) -> Result<u32> {
        let (level, name) = self.option(libc::IP_MTU, libc::IPV6_MTU);
        let mut value: libc::c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of_val(&value))?;
        // SAFETY: the descriptor is open; value and length are writable and belong together.
        let rc = unsafe {
            let fd = self.socket.as_raw_fd();
            libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length)
        };
        if rc == 0 { Ok(u32::try_from(value)?) } else { Err(io::Error::last_os_error().into()) }
    }

    /// Sends to where it is connected to. A datagram that this machine knows to be too large, and errors
    /// that earlier ones met, are errors.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes).map(drop)
    }

    /// Sends to somebody.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, to).map(drop)
    }

    /// What arrives within this time, and from whom.
    pub fn receive(&self, patience: Duration) -> Result<Option<(Vec<u8>, SocketAddr)>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 65_536];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                buffer.truncate(length);
                Ok(Some((buffer, from)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // What an earlier datagram met, such as being too large somewhere on the way.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    const fn option(&self, v4: libc::c_int, v6: libc::c_int) -> (libc::c_int, libc::c_int) {
        if self.v6 { (libc::IPPROTO_IPV6, v6) } else { (libc::IPPROTO_IP, v4) }
    }
}
