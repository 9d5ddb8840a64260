//! Devices without Ethernet header, and who carries the packets that leave by them.
//!
//! A carrier is a thread of the lab; it ends, and its devices with it, when it is dropped.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::netns::Netns;

/// `TUNSETIFF` of `linux/if_tun.h`, and the flags for a device of bare IP packets.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: libc::c_short = 0x0001;
const IFF_NO_PI: libc::c_short = 0x1000;

/// How long a carrier may go without looking whether it is to end.
const DOZE: u8 = 50;

/// A thread that carries packets between devices.
pub(super) struct Carrier {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    /// Joins two devices, each with its namespace, as a wire does.
    pub(super) fn wire(one: (&Netns, &str), two: (&Netns, &str)) -> Result<Self> {
        let [one, two] = [one, two].map(|(netns, name)| netns.run(|| open(name)));
        let (mut one, mut two) = (one?, two?);
        Ok(Self::start(move |stop| {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                let Some([first, second]) = ready(&one, &two) else { return };
                if first {
                    carry(&mut one, &mut buffer, |packet| drop((&two).write(packet)));
                }
                if second {
                    carry(&mut two, &mut buffer, |packet| drop((&one).write(packet)));
                }
            }
        }))
    }

    /// Makes the device `name` whose packets travel in UDP from `own` to the one of these peers that
    /// `peer_of` names for an inner destination.
    pub(super) fn overlay(
        (netns, name): (&Netns, &str),
        own: SocketAddr,
        peer_of: impl Fn(IpAddr) -> Option<SocketAddr> + Send + 'static,
    ) -> Result<Self> {
        let (mut device, socket) = netns.run(|| {
            let socket = UdpSocket::bind(own).with_context(|| format!("binding {own}"))?;
            socket.set_nonblocking(true)?;
            Ok((open(name)?, socket))
        })?;
        Ok(Self::start(move |stop| {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                let Some([inner, outer]) = ready(&device, &socket) else { return };
                if inner {
                    carry(&mut device, &mut buffer, |packet| {
                        // What cannot be sent is lost, as on any wire.
                        if let Some(peer) = destination(packet).and_then(&peer_of) {
                            drop(socket.send_to(packet, peer));
                        }
                    });
                }
                while outer && let Ok((length, _)) = socket.recv_from(&mut buffer) {
                    drop(device.write(&buffer[..length]));
                }
            }
        }))
    }

    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || work(&flag))) }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Which of two has something to read, at the latest after [`DOZE`]; nothing when one of them is gone.
fn ready(one: &impl AsFd, two: &impl AsFd) -> Option<[bool; 2]> {
    let mut fds = [one.as_fd(), two.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::from(DOZE)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(_) => return None,
    }
    let events = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    // What is deleted is in error for ever.
    let gone = events.iter().any(|events| events.intersects(PollFlags::POLLERR));
    (!gone).then(|| events.map(|events| events.contains(PollFlags::POLLIN)))
}

/// Reads every packet that waits.
fn carry(from: &mut File, buffer: &mut [u8], mut take: impl FnMut(&[u8])) {
    while let Ok(length) = from.read(buffer) {
        take(&buffer[..length]);
    }
}

/// Where an IP packet goes.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into()),
        _ => None,
    }
}

/// Makes the device `name` in the calling thread's network namespace; it lives as long as the file.
fn open(name: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    // SAFETY: `ifreq` is plain old data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel wants a terminated name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI;
    // SAFETY: the descriptor is open, and TUNSETIFF takes an `ifreq` that lives until the call returns.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if rc < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("creating {name}"));
    }
    Ok(file)
}
