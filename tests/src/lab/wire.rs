//! Frames as they are, past the kernel's stack: for senders that no honest machine is.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use super::netns::Netns;

/// A device of a namespace, by a packet socket.
pub struct Wire {
    socket: OwnedFd,
}

impl Netns {
    /// The wire behind `device`.
    pub fn wire(&self, device: &str) -> Result<Wire> {
        let socket = self.run(|| open(device));
        let socket = socket.with_context(|| format!("opening a packet socket on {device}"))?;
        Ok(Wire { socket })
    }
}

impl Wire {
    /// Sends a frame from its Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the descriptor is open and the buffer lives until the call returns.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(usize::try_from(sent) == Ok(frame.len()), io::Error::last_os_error());
        Ok(())
    }
}

fn open(device: &str) -> Result<OwnedFd> {
    let name = CString::new(device)?;
    // Protocol 0 hears nothing: the socket only sends.
    // SAFETY: no pointers; the result is checked before use.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, io::Error::last_os_error());
    // SAFETY: `fd` is a fresh descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `name` is a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no such device");
    // SAFETY: `sockaddr_ll` is plain old data for which all zeroes are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(index)?;
    let length = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: the address and its length belong together and live until the call returns.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(rc == 0, io::Error::last_os_error());
    Ok(fd)
}
