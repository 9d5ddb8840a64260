//! Netlink by hand, as far as nf_tables needs it: attributes, dumps, and batches that are done wholly
//! or not at all.
//!
//! Invariant: reading never goes beyond what was received; what is not understood is skipped.

use std::io;

use netlink_sys::{Socket, SocketAddr, constants::NETLINK_NETFILTER};

const HEADER: usize = 16;
/// `struct nfgenmsg`.
const GENERIC: usize = 4;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// A dump is begun again as often as this when the rules change under it.
const ATTEMPTS: usize = 10;

/// Attributes: each has a type and bytes, which may be attributes again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        // The upper two bits say how the bytes are to be read.
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let bytes = rest.get(..length.checked_sub(4)?)?;
        self.0 = rest.get(bytes.len().next_multiple_of(4)..).unwrap_or_default();
        Some((kind, bytes))
    }
}

impl<'a> Attributes<'a> {
    /// The bytes of the first attribute of a type.
    pub(super) fn find(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, bytes)| (kind == wanted).then_some(bytes))
    }

    /// The text of an attribute.
    pub(super) fn text(self, wanted: u16) -> Option<String> {
        let bytes = self.find(wanted)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
    }

    /// The attributes inside an attribute.
    pub(super) fn nested(self, wanted: u16) -> Option<Attributes<'a>> {
        self.find(wanted).map(Attributes)
    }
}

/// Writes an attribute that is a text.
pub(super) fn put_text(to: &mut Vec<u8>, kind: u16, text: &str) {
    put(to, kind, &[text.as_bytes(), &[0]].concat());
}

/// Writes an attribute.
pub(super) fn put(to: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    let length = u16::try_from(bytes.len() + 4).expect("names and handles are short");
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(bytes);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn message(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    subsystem: u16,
    body: &[u8],
) -> Vec<u8> {
    let length = u32::try_from(HEADER + GENERIC + body.len()).expect("messages are short");
    let mut bytes = Vec::with_capacity(HEADER + GENERIC + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(subsystem.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// One message as received.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// What follows the header.
    body: &'a [u8],
}

fn split(mut bytes: &[u8]) -> Vec<Received<'_>> {
    let mut messages = Vec::new();
    while let Some(head) = bytes.first_chunk::<HEADER>() {
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let length = usize::try_from(word(0)).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER..length) else { break };
        messages.push(Received { kind: half(4), flags: half(6), sequence: word(8), body });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// The error that a message reports, if it is one and not just an acknowledgement.
fn refusal(message: &Received<'_>) -> Option<io::Error> {
    let code = message.body.first_chunk::<4>().filter(|_| message.kind == NLMSG_ERROR)?;
    let code = i32::from_ne_bytes(*code);
    (code < 0).then(|| io::Error::from_raw_os_error(-code))
}

/// Reads the attributes of all objects of a kind in a family.
pub(super) fn dump(kind: u16, family: u8, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    for _attempt in 0..ATTEMPTS {
        if let Some(objects) = dump_once(kind, family, body)? {
            return Ok(objects);
        }
    }
    Err(io::Error::other("the rules change faster than they can be read"))
}

/// One attempt; nothing when the rules changed meanwhile.
fn dump_once(kind: u16, family: u8, body: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
    let socket = open()?;
    let request = message(SUBSYSTEM << 8 | kind, DUMP, 1, family, 0, body);
    let _sent = socket.send(&request, 0)?;
    let mut objects = Vec::new();
    let mut interrupted = false;
    loop {
        let (bytes, _from) = socket.recv_from_full()?;
        for message in split(&bytes) {
            interrupted |= message.flags & DUMP_INTERRUPTED != 0;
            if let Some(error) = refusal(&message) {
                return Err(error);
            }
            if message.kind == NLMSG_DONE {
                return Ok((!interrupted).then_some(objects));
            }
            objects.push(message.body.get(GENERIC..).unwrap_or_default().to_vec());
        }
    }
}

/// A list of changes that the kernel makes together or refuses together.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the header of the last change begins.
    last: Option<usize>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { bytes: message(BATCH_BEGIN, 0, 0, 0, SUBSYSTEM, &[]), sequence: 0, last: None }
    }

    /// Adds a change.
    pub(super) fn add(&mut self, kind: u16, family: u8, body: &[u8]) {
        self.sequence += 1;
        self.last = Some(self.bytes.len());
        self.bytes.extend(message(SUBSYSTEM << 8 | kind, 0, self.sequence, family, 0, body));
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Has the kernel carry it out.
    pub(super) fn commit(mut self) -> io::Result<()> {
        let Some(last) = self.last else { return Ok(()) };
        // Refusals come for every change, so it is enough that the last one is acknowledged.
        let flags = last + 6;
        self.bytes[flags..flags + 2].copy_from_slice(&(REQUEST | ACK).to_ne_bytes());
        self.bytes.extend(message(BATCH_END, 0, self.sequence + 1, 0, SUBSYSTEM, &[]));
        let mut socket = open()?;
        // A batch is one datagram, whatever its length.
        let room = i32::try_from(self.bytes.len() * 2).unwrap_or(i32::MAX);
        set_room(&mut socket, room)?;
        let _sent = socket.send(&self.bytes, 0)?;
        let mut refused = None;
        loop {
            let (bytes, _from) = socket.recv_from_full()?;
            for message in split(&bytes) {
                refused = refused.or_else(|| refusal(&message));
                if message.kind == NLMSG_ERROR && message.sequence == self.sequence {
                    return refused.map_or(Ok(()), Err);
                }
                // Errors of the batch as a whole are reported for its first message.
                if message.sequence == 0 && refused.is_some() {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    let _address = socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Lets the socket send and receive this much at once, beyond what the machine allows by default.
fn set_room(socket: &mut Socket, octets: i32) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    use std::os::fd::{AsRawFd as _, BorrowedFd};

    let octets = usize::try_from(octets).unwrap_or(0).max(1 << 20);
    // SAFETY: the descriptor belongs to `socket`, which outlives this borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    setsockopt(&fd, sockopt::SndBufForce, &octets)?;
    setsockopt(&fd, sockopt::RcvBufForce, &octets)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut inner = Vec::new();
        put_text(&mut inner, 1, "nat");
        let mut bytes = Vec::new();
        put(&mut bytes, 7, &5_u64.to_be_bytes());
        put(&mut bytes, 4 | 0x8000, &inner);
        let attributes = Attributes(&bytes);
        assert_eq!(attributes.find(7), Some(&5_u64.to_be_bytes()[..]));
        assert_eq!(attributes.nested(4).unwrap().text(1).as_deref(), Some("nat"));
        assert_eq!(attributes.find(2), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_list() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, 1, "nat");
        put_text(&mut bytes, 2, "raw");
        for length in 0..bytes.len() {
            assert!(Attributes(&bytes[..length]).count() <= 1, "{length}");
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
    }
}
