//! The packets, and whether what came out of them is right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of every packet: what the wrapper programs restore.
pub(super) const LENGTH: usize = 80;
/// The Ethernet address of the node's devices, to which every packet is.
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// The Ethernet address of the next hop to every backend.
pub(super) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const ETH: usize = 14;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The address that clients send to as Service number `service`.
#[must_use]
pub(super) fn vip(ipv6: bool, service: u32) -> IpAddr {
    if ipv6 {
        (Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0).to_bits() | u128::from(service)).into_ip()
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + service))
    }
}

/// The address of a backend.
#[must_use]
pub(super) fn backend(ipv6: bool, id: u32) -> IpAddr {
    if ipv6 {
        (Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0).to_bits() | u128::from(id)).into_ip()
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 20, 0, 0).to_bits() + id))
    }
}

trait IntoIp {
    fn into_ip(self) -> IpAddr;
}

impl IntoIp for u128 {
    fn into_ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self))
    }
}

/// A TCP packet with correct checksums, of the wrapper's flow 0.
#[must_use]
pub(super) fn tcp(to: IpAddr, port: u16, syn: bool) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&NODE_MAC);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x11]);
    let transport = match to {
        IpAddr::V4(to) => {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[14..24].copy_from_slice(&[0x45, 0, 0, 66, 0, 1, 0x40, 0, 64, 6]);
            frame[26..30].copy_from_slice(&[198, 51, 100, 1]);
            frame[30..34].copy_from_slice(&to.octets());
            let check = !sum(&frame[ETH..ETH + 20], 0);
            frame[24..26].copy_from_slice(&check.to_be_bytes());
            34
        }
        IpAddr::V6(to) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 26, 6, 64]);
            let client = Ipv6Addr::new(0xfd51, 0, 0, 0, 0, 0, 0, 1);
            frame[22..38].copy_from_slice(&client.octets());
            frame[38..54].copy_from_slice(&to.octets());
            54
        }
    };
    frame[transport..transport + 2].copy_from_slice(&[4, 0]);
    frame[transport + 2..transport + 4].copy_from_slice(&port.to_be_bytes());
    frame[transport + 12] = 0x50;
    frame[transport + 13] = if syn { SYN } else { ACK };
    let check = !transport_sum(&frame);
    frame[transport + 16..transport + 18].copy_from_slice(&check.to_be_bytes());
    frame
}

/// What a packet must be that went through a program.
pub(super) struct Expected<'a> {
    /// To whom it may be.
    pub(super) backends: &'a [IpAddr],
    /// From whom it is, if that is to change.
    pub(super) from: Option<IpAddr>,
    /// Whether it is to be addressed to the next hop.
    pub(super) forwarded: bool,
}

/// What is wrong with a packet that went through a balancer, if anything. Both checksums must be right.
#[must_use]
pub(super) fn fault(frame: &[u8; LENGTH], expected: &Expected<'_>) -> Option<&'static str> {
    let ipv6 = frame[12] == 0x86;
    let Expected { backends, from, forwarded } = *expected;
    if !backends.contains(&address(frame, if ipv6 { 38 } else { 30 })) {
        return Some("its destination is no backend");
    }
    if from.is_some_and(|from| address(frame, if ipv6 { 22 } else { 26 }) != from) {
        return Some("its source is not the node");
    }
    if !ipv6 && sum(&frame[ETH..ETH + 20], 0) != 0xffff {
        return Some("its IP checksum is wrong");
    }
    if transport_sum(frame) != 0xffff {
        return Some("its TCP checksum is wrong");
    }
    if forwarded && frame[..6] != GATEWAY_MAC {
        return Some("it is not addressed to the next hop");
    }
    None
}

/// The address at an offset.
fn address(frame: &[u8; LENGTH], at: usize) -> IpAddr {
    if frame[12] == 0x86 {
        let octets: [u8; 16] = std::array::from_fn(|octet| frame[at + octet]);
        octets.into()
    } else {
        let octets: [u8; 4] = std::array::from_fn(|octet| frame[at + octet]);
        octets.into()
    }
}

/// The sum that a TCP checksum completes, or over a whole packet checks.
fn transport_sum(frame: &[u8; LENGTH]) -> u16 {
    let (addresses, transport) =
        if frame[12] == 0x86 { (22..54, 54..80) } else { (26..34, 34..80) };
    let segment = &frame[transport];
    let length = u32::try_from(segment.len()).expect("a short packet");
    sum(segment, u32::from(sum(&frame[addresses], 6 + length)))
}

/// The folded one's complement sum of big-endian words, not complemented.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = bytes.chunks(2).fold(start, |sum, word| {
        sum + (u32::from(word[0]) << 8) + word.get(1).copied().map_or(0, u32::from)
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
