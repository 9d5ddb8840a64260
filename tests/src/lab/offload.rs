//! Checksum offload and GRO of a device, by the ethtool ioctls, so that no tool is needed.

use std::{net::UdpSocket, os::fd::AsRawFd};

use anyhow::{Context, Result};

const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SGRO: u32 = 0x2c;

/// What the ends of the lab's links leave to "hardware".
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offloads {
    /// Transmit checksum offload, and with it TCP segmentation. Off by default: a packet with a
    /// wrong sum is then seen by its receiver, as it would be behind a real wire.
    pub tx: bool,
    /// GRO, which also gives a veth the NAPI context that frames redirected by XDP need.
    pub gro: bool,
}

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Sets the offloads of `device` in the calling thread's network namespace.
pub fn set(device: &str, offloads: Offloads) -> Result<()> {
    let Offloads { tx, gro } = offloads;
    // Any socket will do to name the namespace.
    let socket = UdpSocket::bind("127.0.0.1:0").context("opening a socket for ethtool requests")?;
    for (command, on, name) in [(ETHTOOL_STXCSUM, tx, "tx"), (ETHTOOL_SGRO, gro, "gro")] {
        ethtool(&socket, device, EthtoolValue { command, data: u32::from(on) })
            .with_context(|| format!("setting {name} {on} on {device}"))?;
    }
    Ok(())
}

fn ethtool(socket: &UdpSocket, device: &str, mut value: EthtoolValue) -> std::io::Result<()> {
    // SAFETY: `ifreq` is plain old data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel wants a terminated name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the descriptor is open; SIOCETHTOOL takes an `ifreq` whose data points at the
    // command's structure; both live until the call returns.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if rc < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
