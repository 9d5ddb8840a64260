//! SCTP over raw sockets: as much of RFC 9260 as one request and its answer take.
//!
//! The kernels that run a lab often have no SCTP, so clients and servers are here, by raw sockets of
//! protocol 132. Every packet carries its checksum, and whoever receives one computes it again over
//! all of it: a wrong one is a failure and not a loss.

mod association;
mod raw;
mod server;

use lb_ebpf::host::craft::crc32c;

pub(super) use association::Association;
pub(super) use server::Server;

/// Types of chunks.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const INIT: u8 = 1;
    pub(super) const INIT_ACK: u8 = 2;
    pub(super) const SACK: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 4;
    pub(super) const HEARTBEAT_ACK: u8 = 5;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const SHUTDOWN_ACK: u8 = 8;
    pub(super) const COOKIE_ECHO: u8 = 10;
    pub(super) const COOKIE_ACK: u8 = 11;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Flag of ABORT and SHUTDOWN COMPLETE: the packet has the tag of the one that it answers.
const REFLECTED: u8 = 1;
/// Flags of a DATA chunk that holds a whole message.
const WHOLE: u8 = 3;
/// Parameter of INIT ACK: the cookie.
const COOKIE: u16 = 7;

/// A packet without its checksum.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Packet {
    sport: u16,
    dport: u16,
    tag: u32,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Chunk {
    kind: u8,
    flags: u8,
    value: Vec<u8>,
}

impl Chunk {
    const fn new(kind: u8, flags: u8, value: Vec<u8>) -> Self {
        Self { kind, flags, value }
    }

    /// INIT or INIT ACK; a cookie is what makes the difference.
    fn init(tag: u32, tsn: u32, cookie: Option<&[u8]>) -> Self {
        let mut value = tag.to_be_bytes().to_vec();
        value.extend(0x1_0000_u32.to_be_bytes());
        value.extend([0, 1, 0, 1]);
        value.extend(tsn.to_be_bytes());
        let Some(cookie) = cookie else { return Self::new(kind::INIT, 0, value) };
        value.extend(COOKIE.to_be_bytes());
        value.extend(length16(4 + cookie.len()));
        value.extend(cookie);
        Self::new(kind::INIT_ACK, 0, value)
    }

    fn data(tsn: u32, text: &str) -> Self {
        let mut value = tsn.to_be_bytes().to_vec();
        value.extend([0; 8]);
        value.extend(text.as_bytes());
        Self::new(kind::DATA, WHOLE, value)
    }

    fn sack(tsn: u32) -> Self {
        let mut value = tsn.to_be_bytes().to_vec();
        value.extend(0x1_0000_u32.to_be_bytes());
        value.extend([0; 4]);
        Self::new(kind::SACK, 0, value)
    }

    /// The first word of the value: a tag, or a TSN.
    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.value.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// The text of DATA.
    fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.value.get(12..)?).ok()
    }

    /// The cookie of INIT ACK, its only parameter.
    fn cookie(&self) -> Option<&[u8]> {
        let parameter = self.value.get(16..)?;
        let is_cookie = parameter.get(..2)? == COOKIE.to_be_bytes();
        if is_cookie { parameter.get(4..) } else { None }
    }
}

impl Packet {
    /// The bytes, with the checksum.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for Chunk { kind, flags, value } in &self.chunks {
            bytes.extend([*kind, *flags]);
            bytes.extend(length16(4 + value.len()));
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let check = crc32c(&bytes);
        bytes[8..12].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a packet; says what is wrong with it.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let too_short = || format!("an SCTP packet of {} bytes ends too early", bytes.len());
        let header = bytes.first_chunk::<12>().ok_or_else(too_short)?;
        let [s0, s1, d0, d1, t0, t1, t2, t3, check @ ..] = *header;
        let mut zeroed = bytes.to_vec();
        zeroed[8..12].fill(0);
        let (found, right) = (u32::from_le_bytes(check), crc32c(&zeroed));
        let (sport, dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        if found != right {
            return Err(format!(
                "an SCTP packet of {} bytes from port {sport} to {dport} has the checksum \
                 {found:#010x} instead of {right:#010x}",
                bytes.len()
            ));
        }
        let mut chunks = Vec::new();
        let mut rest = &bytes[12..];
        while let Some(&[kind, flags, l0, l1]) = rest.first_chunk() {
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let value = rest.get(4..length).ok_or_else(too_short)?.to_vec();
            chunks.push(Chunk { kind, flags, value });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self { sport, dport, tag: u32::from_be_bytes([t0, t1, t2, t3]), chunks })
    }
}

/// The ports of a packet, whatever else is in it.
fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let &[s0, s1, d0, d1] = bytes.first_chunk()?;
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a chunk of at most 65535 bytes").to_be_bytes()
}

/// A number that nobody guesses; never 0.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d]) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let cookie = b"a cookie of odd length";
        let packet = Packet {
            sport: 40_000,
            dport: 80,
            tag: 0x1234_5678,
            chunks: vec![Chunk::init(7, 9, Some(cookie)), Chunk::sack(3), Chunk::data(4, "odd")],
        };
        let bytes = packet.encode();
        assert_eq!(Packet::decode(&bytes), Ok(packet.clone()));
        assert_eq!(packet.chunks[0].cookie(), Some(&cookie[..]));
        assert_eq!(packet.chunks[2].text(), Some("odd"));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            assert!(Packet::decode(&wrong).is_err(), "byte {at}");
        }
    }
}
