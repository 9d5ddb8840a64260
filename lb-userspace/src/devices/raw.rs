//! Netlink requests by hand, for answers of which every attribute matters or hardly any.
//!
//! Invariant: an answer is whole or an error; a dump that was disturbed by a change is begun again.
//! Sockets belong to the network namespace of the thread that made them.

use std::io;

use netlink_sys::{Socket, SocketAddr};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a dump that was disturbed by a change is begun again.
const ATTEMPTS: u32 = 10;

/// One message as received: its type, and what follows the header.
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// Reads a table, again from the start when it changed meanwhile.
pub(crate) fn dump(protocol: isize, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
    for _attempt in 0..ATTEMPTS {
        match exchange(protocol, kind, DUMP, body) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
    Err(io::Error::other("the kernel's tables change faster than they can be read"))
}

/// Sends a request that one message answers.
pub(crate) fn ask(protocol: isize, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
    exchange(protocol, kind, 0, body)
}

/// Sends a request and reads what answers it: one message, or all of a dump.
fn exchange(protocol: isize, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Message>> {
    let mut socket = Socket::new(protocol)?;
    let _address = socket.bind_auto()?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    let _sent = socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let (mut answer, mut interrupted) = (Vec::new(), false);
    loop {
        let (received, _from) = socket.recv_from_full()?;
        let mut bytes = received.as_slice();
        while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let flags = u16::from_ne_bytes([header[6], header[7]]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(body) = bytes.get(HEADER..length) else {
                return Err(io::Error::other("a netlink message was cut short"));
            };
            interrupted |= flags & DUMP_INTERRUPTED != 0;
            if kind == NLMSG_ERROR {
                let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(-code));
            }
            if kind == NLMSG_DONE {
                return match interrupted {
                    true => Err(io::ErrorKind::Interrupted.into()),
                    false => Ok(answer),
                };
            }
            answer.push(Message { kind, body: body.to_vec() });
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        // Only a dump has an end of its own.
        if flags & DUMP == 0 {
            return Ok(answer);
        }
    }
}
