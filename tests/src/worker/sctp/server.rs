//! A server: any number of associations to one port.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{Chunk, Packet, REFLECTED, kind, ports, random, raw::Raw};

/// A listening server.
pub(in crate::worker) struct Server {
    at: SocketAddr,
    socket: Raw,
    associations: HashMap<SocketAddr, Association>,
}

/// An established association.
struct Association {
    own_tag: u32,
    peer_tag: u32,
    /// The TSN of the next DATA to send.
    next: u32,
    /// The last TSN received, and what was answered to it.
    last: u32,
    answer: Option<Chunk>,
}

impl Server {
    /// Listens at an address and port; others' packets to the same address it leaves alone.
    pub(in crate::worker) fn listen(at: SocketAddr) -> io::Result<Self> {
        Ok(Self { at, socket: Raw::bound(at.ip())?, associations: HashMap::new() })
    }

    /// Serves until told to stop, looking each `doze`. `reply` makes the answer to a request of a peer.
    pub(in crate::worker) fn serve(
        mut self,
        stop: &AtomicBool,
        doze: Duration,
        reply: impl Fn(&str, SocketAddr) -> String,
    ) {
        while !stop.load(Ordering::Relaxed) {
            let Ok((bytes, from)) = self.socket.receive(doze) else { continue };
            if ports(&bytes).is_none_or(|(_, dport)| dport != self.at.port()) {
                continue;
            }
            match Packet::decode(&bytes) {
                Ok(packet) => self.answer(&packet, from, &reply),
                // As every receiver must. Whoever sent it will miss the answer and say so.
                Err(why) => eprintln!("{}: {why}", self.at),
            }
        }
    }

    /// Wakes a server that waits, so that it sees that it shall stop.
    pub(in crate::worker) fn wake(at: SocketAddr) {
        drop(Raw::bound(at.ip()).and_then(|socket| socket.send_to(&[0; 12], at.ip())));
    }

    fn answer(
        &mut self,
        packet: &Packet,
        from: IpAddr,
        reply: impl Fn(&str, SocketAddr) -> String,
    ) {
        let peer = SocketAddr::new(from, packet.sport);
        let Some((tag, chunks)) = self.chunks(packet, peer, reply) else { return };
        if !chunks.is_empty() {
            let answer = Packet { sport: packet.dport, dport: packet.sport, tag, chunks };
            drop(self.socket.send_to(&answer.encode(), from));
        }
    }

    /// The tag and the chunks to answer with.
    fn chunks(
        &mut self,
        packet: &Packet,
        peer: SocketAddr,
        reply: impl Fn(&str, SocketAddr) -> String,
    ) -> Option<(u32, Vec<Chunk>)> {
        let first = packet.chunks.first()?;
        match first.kind {
            // The cookie has all that is known until it comes back.
            kind::INIT => {
                let (peer_tag, last) = (first.word(0)?, first.word(12)?.wrapping_sub(1));
                let (own_tag, next) = (random(), random());
                let cookie = [own_tag, peer_tag, next, last].map(u32::to_be_bytes).concat();
                let is_right = packet.tag == 0 && packet.chunks.len() == 1;
                let answer = Chunk::init(own_tag, next, Some(&cookie));
                return is_right.then(|| (peer_tag, vec![answer]));
            }
            kind::COOKIE_ECHO => {
                let own_tag = first.word(0)?;
                let peer_tag = first.word(4)?;
                if packet.tag != own_tag {
                    return None;
                }
                let known = self.associations.get(&peer).is_some_and(|a| a.own_tag == own_tag);
                if !known {
                    let (next, last) = (first.word(8)?, first.word(12)?);
                    let made = Association { own_tag, peer_tag, next, last, answer: None };
                    drop(self.associations.insert(peer, made));
                }
                return Some((peer_tag, vec![Chunk::new(kind::COOKIE_ACK, 0, vec![])]));
            }
            _ => {}
        }
        let known = self.associations.get_mut(&peer).filter(|known| known.own_tag == packet.tag);
        let Some(known) = known else {
            // Out of the blue (RFC 9260 §8.4).
            let answer = match first.kind {
                kind::ABORT | kind::SHUTDOWN_COMPLETE | kind::COOKIE_ACK => return None,
                kind::SHUTDOWN_ACK => kind::SHUTDOWN_COMPLETE,
                _ => kind::ABORT,
            };
            return Some((packet.tag, vec![Chunk::new(answer, REFLECTED, vec![])]));
        };
        let peer_tag = known.peer_tag;
        let mut out = Vec::new();
        for chunk in &packet.chunks {
            match chunk.kind {
                kind::DATA => out.extend(known.data(chunk, |text| reply(text, peer))?),
                kind::HEARTBEAT => {
                    out.push(Chunk::new(kind::HEARTBEAT_ACK, 0, chunk.value.clone()));
                }
                kind::SHUTDOWN => out.push(Chunk::new(kind::SHUTDOWN_ACK, 0, vec![])),
                kind::ABORT | kind::SHUTDOWN_COMPLETE => {
                    drop(self.associations.remove(&peer));
                    return None;
                }
                _ => {}
            }
        }
        Some((peer_tag, out))
    }
}

impl Association {
    /// Takes a request in; one that comes again gets the answer again.
    fn data(&mut self, request: &Chunk, reply: impl Fn(&str) -> String) -> Option<Vec<Chunk>> {
        let tsn = request.word(0)?;
        if tsn == self.last.wrapping_add(1) {
            self.last = tsn;
            self.answer = Some(Chunk::data(self.next, &reply(request.text()?)));
            self.next = self.next.wrapping_add(1);
        }
        Some([Chunk::sack(self.last)].into_iter().chain(self.answer.clone()).collect())
    }
}
