//! A client's end of an association.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{Chunk, Packet, REFLECTED, kind, ports, random, raw::Raw};

/// After so long a packet that got no answer is sent again (RFC 9260, RTO.Initial).
const AGAIN: Duration = Duration::from_secs(1);

/// An association that a client opened.
pub(in crate::worker) struct Association {
    socket: Raw,
    ports: (u16, u16),
    own_tag: u32,
    peer_tag: u32,
    /// The TSN of the next DATA to send, and of the last received.
    next: u32,
    last: u32,
    timeout: Duration,
    /// Keeps the port. Nobody hands out ports of SCTP here, but those of UDP are handed out once each.
    _port: Option<UdpSocket>,
}

impl Association {
    /// Opens an association, from an address and port if given; nothing may take longer than
    /// `timeout`.
    ///
    /// Fails with `ConnectionRefused` when ICMP says that there is no such port.
    pub(in crate::worker) fn open(
        to: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = Raw::connected(from.map(|from| from.ip()), to.ip())?;
        let given = from.map(|from| from.port()).filter(|port| *port != 0);
        let (own_port, reserved) = if let Some(port) = given {
            (port, None)
        } else {
            let reserved = UdpSocket::bind(SocketAddr::new(socket.local()?, 0))?;
            (reserved.local_addr()?.port(), Some(reserved))
        };
        let mut association = Self {
            socket,
            ports: (own_port, to.port()),
            own_tag: random(),
            peer_tag: 0,
            next: random(),
            last: 0,
            timeout,
            _port: reserved,
        };
        let init = Chunk::init(association.own_tag, association.next, None);
        let ack = association.exchange(vec![init], kind::INIT_ACK)?;
        let cookie = ack.cookie().map(<[u8]>::to_vec);
        let (Some(tag), Some(tsn), Some(cookie)) = (ack.word(0), ack.word(12), cookie) else {
            return Err(io::Error::other("an INIT ACK without a cookie"));
        };
        (association.peer_tag, association.last) = (tag, tsn.wrapping_sub(1));
        let echo = Chunk::new(kind::COOKIE_ECHO, 0, cookie);
        let _ack = association.exchange(vec![echo], kind::COOKIE_ACK)?;
        Ok(association)
    }

    /// One request and its answer, in a DATA chunk each.
    ///
    /// Fails with `ConnectionReset` when the other side aborts.
    pub(in crate::worker) fn ask(&mut self, text: &str) -> io::Result<String> {
        let request = Chunk::data(self.next, text);
        self.next = self.next.wrapping_add(1);
        let wanted = self.last.wrapping_add(1);
        let answer = loop {
            let answer = self.exchange(vec![request.clone()], kind::DATA)?;
            // What was sent again is answered again.
            if answer.word(0) == Some(wanted) {
                break answer;
            }
        };
        self.last = wanted;
        self.send(vec![Chunk::sack(wanted)])?;
        let text = answer.text().ok_or_else(|| io::Error::other("an answer that is no text"))?;
        Ok(text.to_owned())
    }

    /// Shuts the association down.
    pub(in crate::worker) fn close(mut self) -> io::Result<()> {
        let shutdown = Chunk::new(kind::SHUTDOWN, 0, self.last.to_be_bytes().to_vec());
        let _ack = self.exchange(vec![shutdown], kind::SHUTDOWN_ACK)?;
        self.send(vec![Chunk::new(kind::SHUTDOWN_COMPLETE, 0, vec![])])
    }

    fn send(&self, chunks: Vec<Chunk>) -> io::Result<()> {
        let (sport, dport) = self.ports;
        let packet = Packet { sport, dport, tag: self.peer_tag, chunks };
        self.socket.send(&packet.encode()).or_else(|error| self.judge(error))
    }

    /// Sends chunks until a chunk of the wanted kind comes back.
    fn exchange(&mut self, chunks: Vec<Chunk>, wanted: u8) -> io::Result<Chunk> {
        let deadline = Instant::now() + self.timeout;
        loop {
            self.send(chunks.clone())?;
            let again = deadline.min(Instant::now() + AGAIN);
            if let Some(found) = self.wait(wanted, again)? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn wait(&mut self, wanted: u8, until: Instant) -> io::Result<Option<Chunk>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let bytes = match self.socket.receive(left) {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => {
                    self.judge(error)?;
                    continue;
                }
            };
            // Every socket of this pair of addresses gets this packet.
            let (sport, dport) = self.ports;
            if ports(&bytes) != Some((dport, sport)) {
                continue;
            }
            let packet = Packet::decode(&bytes).map_err(io::Error::other)?;
            for chunk in packet.chunks {
                let reflected = chunk.flags & REFLECTED != 0 && packet.tag == self.peer_tag;
                if chunk.kind == kind::ABORT && (reflected || packet.tag == self.own_tag) {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                if packet.tag != self.own_tag {
                    break;
                }
                if chunk.kind == kind::HEARTBEAT {
                    self.send(vec![Chunk::new(kind::HEARTBEAT_ACK, 0, chunk.value)])?;
                } else if chunk.kind == wanted {
                    return Ok(Some(chunk));
                }
            }
        }
    }

    /// What an error of the socket means for this association: it may be another's.
    fn judge(&self, error: io::Error) -> io::Result<()> {
        if let Some(reported) = self.socket.reported(self.ports) {
            return Err(reported);
        }
        // ICMP's errors are reported above, of whichever association they are. A packet that the own node
        // dropped is lost like any other: who asks to be told of errors is told of that too.
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ENOPROTOOPT | libc::EPROTO | libc::ENOBUFS) => Ok(()),
            _ => Err(error),
        }
    }
}
