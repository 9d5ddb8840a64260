//! What differs between IPv4 and IPv6: where headers stand, and nothing else.

use lb_common::{Addr4, Addr6, Address, DeviceValue, FlowKey, Reason, proto};

use crate::{
    checksum::{add, corrected, fold16, replaced},
    frame::Frame,
    header::{self, ETH_LEN, Ipv4, Ipv4Tail, Ipv6, Ipv6Head, Ports, Sctp, Tcp, Udp, sctp_chunk},
    packet::{Packet, Part},
};

/// An address family as the datapath sees it. All else is generic over it.
pub trait Family: Address {
    /// EtherType, host order.
    const ETHERTYPE: u16;
    /// Offset of the transport header: packets whose header has another length pass untouched.
    const TRANSPORT: usize;

    /// Reads the IP header: addresses, protocol, hop limit and length.
    ///
    /// # Errors
    /// The reason why the packet passes untouched.
    fn parse_ip<F: Frame>(frame: &F, into: &mut Packet<Self>) -> Result<(), Reason>;

    /// Writes new addresses, which change a checksum over them by `delta`, and a hop limit lowered
    /// by `hops` into the IP header.
    fn rewrite_ip<F: Frame>(
        frame: &mut F,
        src: &Self,
        dst: &Self,
        delta: u16,
        hops: u8,
    ) -> Option<()>;

    /// The address in `device` that translated packets leave with; the unspecified address when it
    /// has none.
    fn snat_address(device: &DeviceValue) -> Self;

    /// Whether the address never leaves a node.
    fn is_loopback(&self) -> bool;

    /// The loopback address under which NodePorts are found.
    fn loopback() -> Self;
}

impl Family for Addr4 {
    const ETHERTYPE: u16 = header::ETH_P_IP;
    const TRANSPORT: usize = ETH_LEN + size_of::<Ipv4>();

    #[inline(always)]
    fn parse_ip<F: Frame>(frame: &F, into: &mut Packet<Self>) -> Result<(), Reason> {
        let ip: Ipv4 = frame.load(ETH_LEN).ok_or(Reason::Truncated)?;
        if ip.version_ihl != 0x45 {
            return Err(match (ip.version_ihl >> 4, ip.version_ihl & 0xf) {
                (4, 6..) => Reason::Ipv4Options,
                _ => Reason::Malformed,
            });
        }
        into.tuple.src = ip.src;
        into.tuple.dst = ip.dst;
        into.tuple.proto = ip.protocol;
        into.hop_limit = ip.ttl;
        into.len = u32::from(u16::from_be(ip.total_len));
        into.part = Part::Whole;
        // More Fragments, or an offset.
        if ip.fragment & 0x3fff_u16.to_be() != 0 {
            into.id = u32::from(u16::from_be(ip.id));
            into.part = Part::First;
            if ip.fragment & 0x1fff_u16.to_be() != 0 {
                into.part = Part::Later;
                return Err(Reason::Fragment);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn rewrite_ip<F: Frame>(
        frame: &mut F,
        src: &Self,
        dst: &Self,
        delta: u16,
        hops: u8,
    ) -> Option<()> {
        // Time to live, protocol, checksum, addresses: one stretch of the header.
        let mut ip: Ipv4Tail = frame.load(ETH_LEN + 8)?;
        let old = life_and_protocol(&ip);
        ip.ttl = ip.ttl.wrapping_sub(hops);
        let new = life_and_protocol(&ip);
        ip.check = corrected(ip.check, add(u32::from(delta), replaced([old], [new])));
        ip.src = *src;
        ip.dst = *dst;
        frame.store(ETH_LEN + 8, ip)
    }

    #[inline(always)]
    fn snat_address(device: &DeviceValue) -> Self {
        device.snat4
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self.octets[0] == 127
    }

    #[inline(always)]
    fn loopback() -> Self {
        Self { octets: [127, 0, 0, 1] }
    }
}

/// The header word that holds the time to live, as it counts in the checksum.
#[inline(always)]
fn life_and_protocol(ip: &Ipv4Tail) -> u32 {
    u32::from(u16::from_ne_bytes([ip.ttl, ip.protocol]))
}

impl Family for Addr6 {
    const ETHERTYPE: u16 = header::ETH_P_IPV6;
    const TRANSPORT: usize = ETH_LEN + size_of::<Ipv6>();

    #[inline(always)]
    fn parse_ip<F: Frame>(frame: &F, into: &mut Packet<Self>) -> Result<(), Reason> {
        let ip: Ipv6Head = frame.load(ETH_LEN).ok_or(Reason::Truncated)?;
        if ip.version_class_label & 0xf000_0000_u32.to_be() != 0x6000_0000_u32.to_be() {
            return Err(Reason::Malformed);
        }
        match ip.next_header {
            // Hop-by-hop options, routing, fragment, destination options, authentication,
            // mobility (RFC 8200 §4, IANA): the transport header stands elsewhere.
            0 | 43 | 51 | 60 | 135 => return Err(Reason::Ipv6Extension),
            44 => return Err(Reason::Fragment),
            _ => {}
        }
        into.part = Part::Whole;
        into.tuple.src = frame.load(ETH_LEN + 8).ok_or(Reason::Truncated)?;
        into.tuple.dst = frame.load(ETH_LEN + 24).ok_or(Reason::Truncated)?;
        into.tuple.proto = ip.next_header;
        into.hop_limit = ip.hop_limit;
        into.len = u32::from(u16::from_be(ip.payload_len)) + 40;
        Ok(())
    }

    #[inline(always)]
    fn rewrite_ip<F: Frame>(
        frame: &mut F,
        src: &Self,
        dst: &Self,
        _delta: u16,
        hops: u8,
    ) -> Option<()> {
        if hops != 0 {
            let hop_limit: u8 = frame.load(ETH_LEN + 7)?;
            frame.store(ETH_LEN + 7, hop_limit.wrapping_sub(hops))?;
        }
        frame.store(ETH_LEN + 8, *src)?;
        frame.store(ETH_LEN + 24, *dst)
    }

    #[inline(always)]
    fn snat_address(device: &DeviceValue) -> Self {
        device.snat6
    }

    #[inline(always)]
    fn is_loopback(&self) -> bool {
        *self == Self::loopback()
    }

    #[inline(always)]
    fn loopback() -> Self {
        Self { octets: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] }
    }
}

/// The least length of an SCTP packet with an INIT.
const SCTP_INIT: usize = 32;

/// Reads a packet of family `A` into `into`: IP header, ports, control bits.
///
/// # Errors
/// The reason why the packet passes untouched.
#[inline(always)]
pub(crate) fn parse<A: Family, F: Frame>(frame: &F, into: &mut Packet<A>) -> Result<(), Reason> {
    A::parse_ip(frame, into)?;
    into.tcp_flags = 0;
    into.chunk = 0;
    let (ports, least) = match into.tuple.proto {
        proto::TCP => {
            let tcp: Tcp = frame.load(A::TRANSPORT).ok_or(Reason::Truncated)?;
            if tcp.offset < 0x50 {
                return Err(Reason::Malformed);
            }
            let header = usize::from(tcp.offset >> 4) * 4;
            into.tcp_flags = tcp.flags;
            (Ports { sport: tcp.sport, dport: tcp.dport }, header)
        }
        proto::UDP => {
            let udp: Udp = frame.load(A::TRANSPORT).ok_or(Reason::Truncated)?;
            (Ports { sport: udp.sport, dport: udp.dport }, size_of::<Udp>())
        }
        // Its checksum covers what is not here.
        proto::SCTP if into.part != Part::Whole => return Err(Reason::Fragment),
        proto::SCTP => {
            let sctp: Sctp = frame.load(A::TRANSPORT).ok_or(Reason::Truncated)?;
            let opens = sctp.chunk == sctp_chunk::INIT;
            // Receivers discard an INIT under a tag and another chunk under none (RFC 9260 §8.5).
            if opens && sctp.tag != 0 {
                return Err(Reason::Malformed);
            }
            into.chunk = sctp.chunk;
            let least = if opens { SCTP_INIT } else { size_of::<Sctp>() };
            (Ports { sport: sctp.sport, dport: sctp.dport }, least)
        }
        proto::ICMP | proto::ICMPV6 => return Err(Reason::Icmp),
        _ => return Err(Reason::OtherProtocol),
    };
    let len = into.len as usize;
    if len < A::TRANSPORT - ETH_LEN + least {
        return Err(Reason::Malformed);
    }
    if !frame.reaches(ETH_LEN + len) {
        return Err(Reason::Truncated);
    }
    into.tuple.sport = u16::from_be(ports.sport);
    into.tuple.dport = u16::from_be(ports.dport);
    into.tuple.pad = [0; 2];
    Ok(())
}

/// What replacing the addresses of `old` adds to a checksum that covers them.
#[inline(always)]
pub(crate) fn address_delta<A: Address>(old: &FlowKey<A>, src: &A, dst: &A) -> u16 {
    let src = replaced(old.src.words(), src.words());
    let dst = replaced(old.dst.words(), dst.words());
    positive(fold16(add(src, dst)))
}

/// What replacing the ports of `old` (host order) adds to a checksum that covers them.
#[inline(always)]
pub(crate) fn port_delta<A: Address>(old: &FlowKey<A>, [sport, dport]: [u16; 2]) -> u16 {
    positive(fold16(replaced(
        [u32::from(old.sport.to_be()), u32::from(old.dport.to_be())],
        [u32::from(sport.to_be()), u32::from(dport.to_be())],
    )))
}

/// The delta of the change in the other direction.
#[inline(always)]
pub(crate) const fn opposite(delta: u16) -> u16 {
    positive(!delta)
}

/// One's complement has two zeros; this keeps to one, so that "no change" can be told by it.
#[inline(always)]
const fn positive(sum: u16) -> u16 {
    if sum == 0xffff { 0 } else { sum }
}
