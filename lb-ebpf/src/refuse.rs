//! Answers for packets that nobody will serve: a TCP reset, an SCTP ABORT where an association seems to
//! exist, or an ICMP port unreachable.
//!
//! The packet itself becomes its answer, sent back where it came from. The answer's source is the
//! address that the client asked for, so that every filter on the way sees the flow that it knows.

use lb_common::{Address, FlowKey, MacAddr, proto};

use crate::{
    checksum::{Delta, add, fold16, replaced},
    crc32c,
    family::Family,
    frame::Frame,
    header::{ETH_LEN, ETH_TYPE, IcmpError, Sctp, TCP_CHECK, Tcp, Udp, sctp_chunk, tcp_flags},
    packet::Packet,
    rewrite,
};

/// Hop limit of answers, as Linux sends.
const HOP_LIMIT: u8 = 64;

/// What an error quotes of a packet behind its IP header (RFC 792), at least.
const QUOTED: usize = 8;

/// Whether the packet has all that an error would quote, and is as long as it says.
#[inline(always)]
pub(crate) fn is_whole<A: Answer, F: Frame>(frame: &F, packet: &Packet<A>) -> bool {
    let len = packet.len as usize;
    len >= A::TRANSPORT - ETH_LEN + QUOTED && frame.reaches(ETH_LEN + len)
}

/// Whether an ICMP message is an echo request.
#[inline(always)]
pub(crate) fn is_ping<A: Answer, F: Frame>(frame: &F) -> bool {
    frame.load(A::TRANSPORT) == Some(A::ECHO_REQUEST)
}

/// Whether a packet came to us alone, from one sender: others must not be answered (RFC 1122 §3.2.2,
/// RFC 4443 §2.4).
#[inline(always)]
pub(crate) fn has_one_sender<A: Answer, F: Frame>(frame: &F, packet: &Packet<A>) -> bool {
    let to_one = !F::ETHERNET || frame.load(0).is_some_and(|to: MacAddr| to.octets[0] & 1 == 0);
    to_one && packet.tuple.src.is_one()
}

/// Turns the packet into its answer; `None` when the kernel refuses a change.
#[inline(always)]
pub(crate) fn answer<A: Answer, F: Frame>(frame: &mut F, packet: &Packet<A>) -> Option<()> {
    if F::ETHERNET {
        rewrite::turn_round(frame)?;
    }
    if packet.is_tcp() {
        reset(frame, packet)
    } else if packet.is_sctp() && !packet.opens() {
        abort(frame, packet)
    } else {
        unreachable_port(frame, packet)
    }
}

/// A reset (RFC 9293 §3.10.7.1). The segment keeps its options and data, which the receiver of a
/// reset ignores: so nothing but a few words and the checksum changes.
#[inline(always)]
fn reset<A: Answer, F: Frame>(frame: &mut F, packet: &Packet<A>) -> Option<()> {
    let mut tcp: Tcp = frame.load(A::TRANSPORT)?;
    let old = [tcp.seq, tcp.ack, u32::from(u16::from_ne_bytes([tcp.offset, tcp.flags]))];
    if tcp.flags & tcp_flags::ACK != 0 {
        tcp.seq = tcp.ack;
        tcp.ack = 0;
        tcp.flags = tcp_flags::RST;
    } else {
        let header = u32::from(tcp.offset >> 4) * 4;
        #[expect(clippy::cast_possible_truncation, reason = "a header length")]
        let ip_header = (A::TRANSPORT - ETH_LEN) as u32;
        let data = packet.len.wrapping_sub(ip_header).wrapping_sub(header);
        let sequence_space = data
            .wrapping_add(u32::from(tcp.flags & tcp_flags::SYN != 0))
            .wrapping_add(u32::from(tcp.flags & tcp_flags::FIN != 0));
        tcp.ack = u32::from_be(tcp.seq).wrapping_add(sequence_space).to_be();
        tcp.seq = 0;
        tcp.flags = tcp_flags::RST | tcp_flags::ACK;
    }
    let new = [tcp.seq, tcp.ack, u32::from(u16::from_ne_bytes([tcp.offset, tcp.flags]))];
    tcp.sport = packet.tuple.dport.to_be();
    tcp.dport = packet.tuple.sport.to_be();
    A::turn_ip_round(frame, &packet.tuple, packet.hop_limit)?;
    frame.store(A::TRANSPORT, tcp)?;
    // Swapped addresses and ports leave every sum as it was.
    let delta = Delta { pseudo: 0, segment: fold16(replaced(old, new)) };
    frame.correct_checksum(A::TRANSPORT + TCP_CHECK, delta, false)
}

/// An ABORT that reflects the tag, for a packet of no association (RFC 9260 §8.4): an ICMP error would
/// not end the association that its sender thinks it has.
#[inline(always)]
fn abort<A: Answer, F: Frame>(frame: &mut F, packet: &Packet<A>) -> Option<()> {
    let tuple = &packet.tuple;
    let mut sctp: Sctp = frame.load(A::TRANSPORT)?;
    frame.reshape(A::TRANSPORT + size_of::<Sctp>(), 0)?;
    A::turn_ip_round(frame, tuple, packet.hop_limit)?;
    A::set_payload_length(frame, size_of::<Sctp>())?;
    sctp.sport = tuple.dport.to_be();
    sctp.dport = tuple.sport.to_be();
    if sctp.check != 0 {
        let check = crc32c::of_abort([tuple.dport, tuple.sport], u32::from_be(sctp.tag));
        sctp.check = check.to_le();
    }
    sctp.chunk = sctp_chunk::ABORT;
    sctp.flags = REFLECTED;
    sctp.chunk_len = 4_u16.to_be();
    frame.store(A::TRANSPORT, sctp)
}

/// Flag of an ABORT whose tag is that of the packet that it answers.
const REFLECTED: u8 = 1;

/// A port unreachable that quotes the IP header and of the transport header what a socket needs to be
/// found by (RFC 792; RFC 4443 §3.1).
///
/// Of UDP that is all of it, of SCTP the ports and the verification tag; an INIT has its tag behind the
/// head of its chunk, and whoever gets an error about one that he cannot recognise ignores it (RFC 9260,
/// section 10).
#[inline(always)]
fn unreachable_port<A: Answer, F: Frame>(frame: &mut F, packet: &Packet<A>) -> Option<()> {
    let quoted_ip = A::quoted_header_sum(frame)?;
    let (quoted_transport, length) = if packet.is_udp() {
        let udp: Udp = frame.load(A::TRANSPORT)?;
        (udp_sum(&packet.tuple, &udp), size_of::<Udp>())
    } else if packet.opens() {
        quoted_words::<F, 5>(frame, A::TRANSPORT)?
    } else {
        quoted_words::<F, { QUOTED / 4 }>(frame, A::TRANSPORT)?
    };
    let quoted = add(quoted_ip, quoted_transport);
    let ip_len = A::TRANSPORT - ETH_LEN;
    let icmp_at = A::TRANSPORT;
    let inserted = ip_len + size_of::<IcmpError>();
    frame.reshape(A::TRANSPORT + length, inserted)?;
    if F::ETHERNET {
        frame.store(ETH_TYPE, A::ETHERTYPE.to_be())?;
    }
    let payload = size_of::<IcmpError>() + ip_len + length;
    let pseudo = A::write_outer_header(frame, &packet.tuple, payload)?;
    let [kind, code] = A::PORT_UNREACHABLE;
    let head = u32::from(u16::from_ne_bytes([kind, code]));
    let check = !fold16(add(add(quoted, head), pseudo));
    frame.store(icmp_at, IcmpError { kind, code, check, rest: 0 })
}

/// The sum of a quoted UDP header.
///
/// When the client leaves its checksum to the device (CHECKSUM_PARTIAL), the field holds the sum of
/// the pseudo-header for now, and whoever finishes it makes the datagram's sum its complement; that
/// is what must be counted here. Which case it is shows by the field alone.
#[inline(always)]
fn udp_sum<A: Address>(tuple: &FlowKey<A>, udp: &Udp) -> u32 {
    let last = add(u32::from(udp.len), u32::from(u16::from(proto::UDP).to_be()));
    let pseudo = add(address_sum(tuple), last);
    if udp.check != 0 && udp.check == fold16(pseudo) {
        return u32::from(!udp.check);
    }
    let ports = add(u32::from(udp.sport), u32::from(udp.dport));
    add(ports, add(u32::from(udp.len), u32::from(udp.check)))
}

/// The one's complement sum of both addresses.
#[inline(always)]
fn address_sum<A: Address>(tuple: &FlowKey<A>) -> u32 {
    let [a, b, c, d] = tuple.src.words();
    let [e, f, g, h] = tuple.dst.words();
    add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)))
}

/// The one's complement sum of the first `N` words of the IP header.
#[inline(always)]
fn sum_of_words<F: Frame, const N: usize>(frame: &F) -> Option<u32> {
    quoted_words::<F, N>(frame, ETH_LEN).map(|(sum, _)| sum)
}

/// The one's complement sum of `N` words at `at`, and their length.
#[inline(always)]
fn quoted_words<F: Frame, const N: usize>(frame: &F, at: usize) -> Option<(u32, usize)> {
    let words: [u32; N] = frame.load(at)?;
    Some((replaced([0; N], words), size_of::<[u32; N]>()))
}

/// What differs between the families in an answer.
pub trait Answer: Family {
    /// Type and code of "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];
    /// Type of an echo request.
    const ECHO_REQUEST: u8;

    /// Whether an ICMP message of this type is an error about a packet that it quotes: of IPv4 destination
    /// unreachable, time exceeded, parameter problem; of IPv6 also packet too big.
    fn is_error(kind: u8) -> bool;

    /// Whether this is the address of one sender: neither of a group nor unspecified.
    fn is_one(&self) -> bool;

    /// Swaps the addresses and restores the hop limit, which was `hop_limit`.
    fn turn_ip_round<F: Frame>(frame: &mut F, tuple: &FlowKey<Self>, hop_limit: u8) -> Option<()>;

    /// Writes the length of what follows the IP header.
    fn set_payload_length<F: Frame>(frame: &mut F, length: usize) -> Option<()>;

    /// The one's complement sum of the IP header that will be quoted.
    fn quoted_header_sum<F: Frame>(frame: &F) -> Option<u32>;

    /// Writes the IP header of an answer with `payload` bytes, and returns the sum of the
    /// pseudo-header that the ICMP checksum covers (none for ICMP over IPv4).
    fn write_outer_header<F: Frame>(
        frame: &mut F,
        tuple: &FlowKey<Self>,
        payload: usize,
    ) -> Option<u32>;
}

mod family {
    //! The two implementations.

    use lb_common::{Addr4, Addr6, FlowKey, proto};

    use super::{Answer, HOP_LIMIT, add, address_sum, fold16, replaced, sum_of_words};
    use crate::checksum::corrected;
    use crate::{
        family::Family,
        frame::Frame,
        header::{ETH_LEN, Ipv4, Ipv6},
    };

    impl Answer for Addr4 {
        const PORT_UNREACHABLE: [u8; 2] = [3, 3];
        const ECHO_REQUEST: u8 = 8;

        #[inline(always)]
        fn is_error(kind: u8) -> bool {
            matches!(kind, 3 | 11 | 12)
        }

        /// Class D, class E with the limited broadcast, and "this network" are not (RFC 1122
        /// §3.2.1.3); the broadcasts of networks cannot be told.
        #[inline(always)]
        fn is_one(&self) -> bool {
            self.octets[0] != 0 && self.octets[0] < 224
        }

        #[inline(always)]
        fn turn_ip_round<F: Frame>(f: &mut F, tuple: &FlowKey<Self>, hop_limit: u8) -> Option<()> {
            // The sum of the addresses does not change when they change places.
            Self::rewrite_ip(f, &tuple.dst, &tuple.src, 0, hop_limit.wrapping_sub(HOP_LIMIT))
        }

        #[inline(always)]
        #[expect(clippy::cast_possible_truncation, reason = "an answer has less than 100 bytes")]
        fn set_payload_length<F: Frame>(frame: &mut F, length: usize) -> Option<()> {
            let old: u16 = frame.load(ETH_LEN + 2)?;
            let new = ((size_of::<Ipv4>() + length) as u16).to_be();
            let check: u16 = frame.load(ETH_LEN + 10)?;
            let delta = replaced([u32::from(old)], [u32::from(new)]);
            frame.store(ETH_LEN + 2, new)?;
            frame.store(ETH_LEN + 10, corrected(check, delta))
        }

        #[inline(always)]
        fn quoted_header_sum<F: Frame>(frame: &F) -> Option<u32> {
            sum_of_words::<F, 5>(frame)
        }

        #[inline(always)]
        #[expect(clippy::cast_possible_truncation, reason = "an answer has less than 100 bytes")]
        fn write_outer_header<F: Frame>(
            frame: &mut F,
            tuple: &FlowKey<Self>,
            payload: usize,
        ) -> Option<u32> {
            let mut ip = Ipv4 {
                version_ihl: 0x45,
                tos: 0,
                total_len: ((size_of::<Ipv4>() + payload) as u16).to_be(),
                id: 0,
                fragment: 0x4000_u16.to_be(),
                ttl: HOP_LIMIT,
                protocol: proto::ICMP,
                check: 0,
                src: tuple.dst,
                dst: tuple.src,
            };
            let words: [u32; 5] = bytemuck::cast(ip);
            ip.check = !fold16(replaced([0; 5], words));
            frame.store(ETH_LEN, ip)?;
            Some(0)
        }
    }

    impl Answer for Addr6 {
        const PORT_UNREACHABLE: [u8; 2] = [1, 4];
        const ECHO_REQUEST: u8 = 128;

        #[inline(always)]
        fn is_error(kind: u8) -> bool {
            matches!(kind, 1..=4)
        }

        #[inline(always)]
        fn is_one(&self) -> bool {
            self.octets[0] != 0xff && *self != Self::default()
        }

        #[inline(always)]
        fn turn_ip_round<F: Frame>(f: &mut F, tuple: &FlowKey<Self>, hop_limit: u8) -> Option<()> {
            // The sum of the addresses does not change when they change places.
            Self::rewrite_ip(f, &tuple.dst, &tuple.src, 0, hop_limit.wrapping_sub(HOP_LIMIT))
        }

        #[inline(always)]
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an answer has little more than 100 bytes"
        )]
        fn set_payload_length<F: Frame>(frame: &mut F, length: usize) -> Option<()> {
            frame.store(ETH_LEN + 4, (length as u16).to_be())
        }

        #[inline(always)]
        fn quoted_header_sum<F: Frame>(frame: &F) -> Option<u32> {
            sum_of_words::<F, 10>(frame)
        }

        #[inline(always)]
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an answer has little more than 100 bytes"
        )]
        fn write_outer_header<F: Frame>(
            frame: &mut F,
            tuple: &FlowKey<Self>,
            payload: usize,
        ) -> Option<u32> {
            let ip = Ipv6 {
                version_class_label: 0x6000_0000_u32.to_be(),
                payload_len: (payload as u16).to_be(),
                next_header: proto::ICMPV6,
                hop_limit: HOP_LIMIT,
                src: tuple.dst,
                dst: tuple.src,
            };
            frame.store(ETH_LEN, ip)?;
            let sum = address_sum(tuple);
            let length = u32::from((payload as u16).to_be());
            Some(add(sum, add(length, u32::from(u16::from(proto::ICMPV6).to_be()))))
        }
    }
}
