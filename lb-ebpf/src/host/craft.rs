//! Frames made from a description, for tests and tools.
//!
//! Every checksum here is computed in full over the finished packet, never corrected: what the
//! datapath makes of a packet can therefore be compared with what this makes of its translation.

use std::{net::IpAddr, vec, vec::Vec};

use lb_common::{Address, FlowKey, proto};

/// A frame, described.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Craft {
    /// Ethernet destination and source.
    pub eth: [[u8; 6]; 2],
    /// 802.1Q tag, when there is one.
    pub vlan: Option<u16>,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// IPv4 options: a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv6 extension headers: the type of each and its bytes, without the first (next header).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The transport header.
    pub transport: Transport,
    /// What follows the transport header.
    pub payload: Vec<u8>,
    /// What the transport checksum is.
    pub checksum: Checksum,
}

/// A transport header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Control bits.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Options: a multiple of four bytes.
        options: Vec<u8>,
    },
    /// UDP.
    Udp,
    /// SCTP with one chunk, of which the payload is the value.
    Sctp {
        /// Verification tag.
        tag: u32,
        /// Type of the chunk.
        chunk: u8,
        /// Flags of the chunk.
        flags: u8,
    },
    /// ICMP or ICMPv6, by the family: type and code.
    Icmp(u8, u8),
    /// Ports and nothing else, under this protocol number.
    Ports(u8),
}

/// What to write into the checksum field of the transport header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checksum {
    /// The checksum.
    Complete,
    /// Zero: none (UDP), or left to the device (SCTP).
    None,
    /// The sum of the pseudo-header: the device is to finish it. Zero for SCTP, which has none.
    Partial,
    /// This value.
    Raw(u16),
}

impl Craft {
    /// A packet with the addresses and ports of `tuple` and its protocol: a TCP SYN, UDP, an SCTP INIT,
    /// or just ports.
    pub fn of<A: Address>(tuple: &FlowKey<A>) -> Self {
        let transport = match tuple.proto {
            proto::TCP => {
                Transport::Tcp { flags: 2, seq: 0x0102_0304, ack: 0, options: Vec::new() }
            }
            proto::UDP => Transport::Udp,
            proto::SCTP => Transport::Sctp { tag: 0, chunk: 1, flags: 0 },
            other => Transport::Ports(other),
        };
        Self {
            eth: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            vlan: None,
            src: tuple.src.ip(),
            dst: tuple.dst.ip(),
            sport: tuple.sport,
            dport: tuple.dport,
            hop_limit: 64,
            options: Vec::new(),
            fragment: 0x4000,
            extensions: Vec::new(),
            transport,
            payload: b"payload of odd length".to_vec(),
            checksum: Checksum::Complete,
        }
    }

    /// The same packet after its translation to `tuple`.
    #[must_use]
    pub fn translated<A: Address>(&self, tuple: &FlowKey<A>) -> Self {
        Self {
            src: tuple.src.ip(),
            dst: tuple.dst.ip(),
            sport: tuple.sport,
            dport: tuple.dport,
            ..self.clone()
        }
    }

    /// The same packet with these control bits, for TCP; with this type of chunk, for SCTP.
    #[must_use]
    pub fn flags(mut self, bits: u8) -> Self {
        match &mut self.transport {
            Transport::Tcp { flags, .. } => *flags = bits,
            Transport::Sctp { tag, chunk, .. } => {
                (*tag, *chunk) = (if bits == 1 { 0 } else { 0x5555_aaaa }, bits);
            }
            Transport::Udp | Transport::Icmp(..) | Transport::Ports(_) => {}
        }
        self
    }

    /// The number of the transport protocol.
    pub const fn protocol(&self) -> u8 {
        match &self.transport {
            Transport::Tcp { .. } => proto::TCP,
            Transport::Udp => proto::UDP,
            Transport::Sctp { .. } => proto::SCTP,
            Transport::Icmp(..) if self.src.is_ipv4() => proto::ICMP,
            Transport::Icmp(..) => proto::ICMPV6,
            Transport::Ports(number) => *number,
        }
    }

    /// The bytes from the Ethernet header on.
    ///
    /// # Panics
    /// When the description does not fit into a packet.
    pub fn frame(&self) -> Vec<u8> {
        let mut out = self.eth.concat();
        if let Some(tag) = self.vlan {
            out.extend(0x8100_u16.to_be_bytes());
            out.extend(tag.to_be_bytes());
        }
        out.extend(if self.src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        let segment = self.segment();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = 20 + self.options.len();
                let mut ip = vec![0; length];
                ip[0] = 0x40 | u8::try_from(length / 4).expect("options of at most 40 bytes");
                ip[1] = 0x10;
                ip[2..4].copy_from_slice(&length16(length + segment.len()));
                ip[4..6].copy_from_slice(&[0x12, 0x34]);
                ip[6..8].copy_from_slice(&self.fragment.to_be_bytes());
                ip[8] = self.hop_limit;
                ip[9] = self.protocol();
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                ip[20..].copy_from_slice(&self.options);
                let check = !sum(&ip);
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                out.extend(ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut chain = Vec::new();
                let kinds = self.extensions.iter().map(|(kind, _)| *kind);
                let kinds: Vec<u8> = kinds.chain([self.protocol()]).collect();
                for ((_, bytes), next) in self.extensions.iter().zip(&kinds[1..]) {
                    chain.push(*next);
                    chain.extend(bytes);
                }
                out.extend([0x60, 0x01, 0x23, 0x45]);
                out.extend(length16(chain.len() + segment.len()));
                out.extend([kinds[0], self.hop_limit]);
                out.extend(src.octets());
                out.extend(dst.octets());
                out.extend(chain);
            }
            _ => panic!("addresses of different families"),
        }
        out.extend(segment);
        out
    }

    fn segment(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let check = match &self.transport {
            Transport::Tcp { flags, seq, ack, options } => {
                out.extend([self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat());
                out.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
                let words = u8::try_from(5 + options.len() / 4).expect("at most 40 bytes");
                out.extend([words << 4, *flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                out.extend(options);
                Some(16)
            }
            Transport::Udp => {
                out.extend([self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat());
                out.extend(length16(8 + self.payload.len()));
                out.extend([0, 0]);
                Some(6)
            }
            Transport::Sctp { tag, chunk, flags } => {
                out.extend([self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat());
                out.extend(tag.to_be_bytes());
                out.extend([0, 0, 0, 0, *chunk, *flags]);
                out.extend(length16(4 + self.payload.len()));
                out.extend(&self.payload);
                let check = match self.checksum {
                    Checksum::None | Checksum::Partial => 0,
                    Checksum::Raw(value) => u32::from(value),
                    Checksum::Complete => crc32c(&out),
                };
                out[8..12].copy_from_slice(&check.to_le_bytes());
                return out;
            }
            Transport::Icmp(kind, code) => {
                out.extend([*kind, *code, 0, 0, 0, 0, 0, 0]);
                Some(2)
            }
            Transport::Ports(_) => {
                out.extend([self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat());
                None
            }
        };
        out.extend(&self.payload);
        if let Some(at) = check {
            let check = self.transport_checksum(&out);
            out[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        out
    }

    fn transport_checksum(&self, segment: &[u8]) -> u16 {
        let mut pseudo = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            _ => panic!("addresses of different families"),
        };
        pseudo.extend([0, self.protocol()]);
        pseudo.extend(length16(segment.len()));
        if self.protocol() == proto::ICMP {
            pseudo.clear();
        }
        match self.checksum {
            Checksum::None => 0,
            Checksum::Raw(value) => value,
            Checksum::Partial => sum(&pseudo),
            Checksum::Complete => match !sum(&[pseudo, segment.to_vec()].concat()) {
                0 if self.protocol() == proto::UDP => 0xffff,
                check => check,
            },
        }
    }
}

/// The one's complement sum of 16-bit words (RFC 1071), odd lengths padded with zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
        [high] => u64::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded to 16 bits")
}

/// The CRC32c of SCTP (RFC 9260, appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 }
        })
    })
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a packet of at most 65535 bytes").to_be_bytes()
}
