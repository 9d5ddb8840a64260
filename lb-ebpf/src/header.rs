//! Protocol headers as plain data, and where they stand. Multi-byte fields are as on the wire.

use bytemuck::{Pod, Zeroable};
use lb_common::{Addr4, Addr6};

/// Length of an Ethernet header without VLAN tag (IEEE 802.3).
pub const ETH_LEN: usize = 14;
/// Offset of the EtherType.
pub const ETH_TYPE: usize = 12;
/// EtherType of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;

/// The two addresses of an Ethernet header, destination first, as three words.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct EthAddresses {
    /// The twelve bytes in memory order.
    pub words: [u32; 3],
}

/// IPv4 header without options (RFC 791).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4 bits) and header length in 32-bit words (4 bits).
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload, network order.
    pub total_len: u16,
    /// Identification, network order.
    pub id: u16,
    /// Flags (3 bits) and fragment offset (13 bits), network order.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub check: u16,
    /// Source address.
    pub src: Addr4,
    /// Destination address.
    pub dst: Addr4,
}

/// The part of an IPv4 header that a translation changes, from offset 8 on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4Tail {
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub check: u16,
    /// Source address.
    pub src: Addr4,
    /// Destination address.
    pub dst: Addr4,
}

/// IPv6 header (RFC 8200).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20), network order.
    pub version_class_label: u32,
    /// Length of what follows the header, network order.
    pub payload_len: u16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Addr6,
    /// Destination address.
    pub dst: Addr6,
}

/// The first words of an IPv6 header, before the addresses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv6Head {
    /// Version (4 bits), traffic class (8), flow label (20), network order.
    pub version_class_label: u32,
    /// Length of what follows the header, network order.
    pub payload_len: u16,
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

/// TCP header without options (RFC 9293).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Tcp {
    /// Source port, network order.
    pub sport: u16,
    /// Destination port, network order.
    pub dport: u16,
    /// Sequence number, network order.
    pub seq: u32,
    /// Acknowledgement number, network order.
    pub ack: u32,
    /// Data offset in 32-bit words (high 4 bits), reserved.
    pub offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window, network order.
    pub window: u16,
    /// Checksum.
    pub check: u16,
    /// Urgent pointer, network order.
    pub urgent: u16,
}

/// Control bits of TCP.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is meant.
    pub const ACK: u8 = 0x10;
}

/// UDP header (RFC 768).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Udp {
    /// Source port, network order.
    pub sport: u16,
    /// Destination port, network order.
    pub dport: u16,
    /// Length of header and payload, network order.
    pub len: u16,
    /// Checksum; over IPv4, zero means none.
    pub check: u16,
}

/// SCTP common header and the head of the first chunk (RFC 9260 §3).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Sctp {
    /// Source port, network order.
    pub sport: u16,
    /// Destination port, network order.
    pub dport: u16,
    /// Verification tag: zero in a packet with an INIT, and in no other.
    pub tag: u32,
    /// CRC32c, little-endian; zero until a device has computed it.
    pub check: u32,
    /// Type of the first chunk.
    pub chunk: u8,
    /// Flags of the first chunk.
    pub flags: u8,
    /// Length of the first chunk, network order.
    pub chunk_len: u16,
}

/// Types of SCTP chunks, as far as they open or end an association. One that ends it need not be the
/// first of its packet; where it is not, it is not seen.
pub mod sctp_chunk {
    /// Asks for an association; alone in its packet.
    pub const INIT: u8 = 1;
    /// Answers that, with a cookie.
    pub const INIT_ACK: u8 = 2;
    /// The association ends at once.
    pub const ABORT: u8 = 6;
    /// The sender has nothing more to send.
    pub const SHUTDOWN: u8 = 7;
    /// Nor has the other side.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// The client returns the cookie; the answer to this is the first packet that proves anything.
    pub const COOKIE_ECHO: u8 = 10;
    /// The association has ended.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Source and destination port, where every transport protocol of ours has them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Ports {
    /// Source port, network order.
    pub sport: u16,
    /// Destination port, network order.
    pub dport: u16,
}

/// ICMP or ICMPv6 error header (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub check: u16,
    /// Unused by the messages that we send.
    pub rest: u32,
}

/// Offset of the octet with the data offset in a TCP header.
pub const TCP_OFFSET: usize = 12;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECK: usize = 16;
/// Offset of the checksum in an SCTP header.
pub const SCTP_CHECK: usize = 8;
/// Offset of the checksum in a UDP header.
pub const UDP_CHECK: usize = 6;

const _: () = {
    assert!(size_of::<Ipv4Tail>() == 12);
    assert!(size_of::<EthAddresses>() == 12 && size_of::<Ipv4>() == 20 && size_of::<Ipv6>() == 40);
    assert!(size_of::<Tcp>() == 20 && size_of::<Udp>() == 8 && size_of::<Sctp>() == 16);
    assert!(size_of::<IcmpError>() == 8);
};
