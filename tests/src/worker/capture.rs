//! Records which TCP, UDP and SCTP packets pass a device, by a packet socket.
//!
//! A packet socket sees what arrives before tc ingress, and what leaves after tc egress: the same
//! as the wire. Frames that XDP redirects it does not see; record those at the other end.

use std::{
    ffi::CString,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use super::protocol::{Capture, Frame};

const ETH_HEADER: usize = 14;

/// A recording under way.
pub(super) struct Recording {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Capture>,
}

impl Recording {
    /// Starts recording; packets that pass after this returns are seen.
    pub(super) fn start(device: &str) -> Result<Self> {
        let socket = open(device).with_context(|| format!("recording packets of {device}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut capture = Capture::default();
            loop {
                // What was queued before the stop is still read.
                let last = flag.load(Ordering::Relaxed);
                while let Ok((frame, sender)) = receive(&socket) {
                    capture.frames.extend(parse(&frame, &sender));
                }
                if last {
                    return capture;
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends the recording.
    pub(super) fn end(self) -> Capture {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn open(device: &str) -> Result<OwnedFd> {
    let name = CString::new(device)?;
    let protocol = u16::to_be(u16::try_from(libc::ETH_P_ALL)?);
    // SAFETY: no pointers; the result is checked before use.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: `fd` is a fresh descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `name` is a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(anyhow!("no such device"));
    }
    // SAFETY: `sockaddr_ll` is plain old data for which all zeroes are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index)?;
    let length = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: the address and its length belong together and live until the call returns.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(0, 20_000))?;
    Ok(fd)
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, libc::sockaddr_ll)> {
    let mut buffer = vec![0; 128];
    // SAFETY: as in `open`.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&from)).unwrap_or(0);
    // SAFETY: buffer and address are writable for the lengths given.
    let got = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    let got = usize::try_from(got).map_err(|_negative| io::Error::last_os_error())?;
    buffer.truncate(got);
    Ok((buffer, from))
}

fn parse(frame: &[u8], sender: &libc::sockaddr_ll) -> Option<Frame> {
    // A device without Ethernet header shows the packet alone.
    let header = if sender.sll_hatype == libc::ARPHRD_NONE { 0 } else { ETH_HEADER };
    let ip = frame.get(header..)?;
    let (proto, from, to, l4): (u8, IpAddr, IpAddr, &[u8]) = match u16::from_be(sender.sll_protocol)
    {
        0x0800 => {
            let length = usize::from(ip.first()? & 0xf) * 4;
            let from: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
            (*ip.get(9)?, from.into(), to.into(), ip.get(length..)?)
        }
        0x86dd => {
            let from: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            (*ip.get(6)?, from.into(), to.into(), ip.get(40..)?)
        }
        _ => return None,
    };
    if ![6, 17, 132].contains(&proto) {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*l4.get(at)?, *l4.get(at + 1)?]));
    let flags = match proto {
        6 => *l4.get(13)?,
        132 => *l4.get(12)?,
        _ => 0,
    };
    Some(Frame {
        out: sender.sll_pkttype == libc::PACKET_OUTGOING,
        proto,
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        flags,
    })
}
