//! Applying a translation to the bytes of a packet.

use lb_common::{FlowValue, NextHop};

use crate::{
    checksum::Delta,
    crc32c,
    family::Family,
    frame::Frame,
    header::{ETH_LEN, EthAddresses, Ports, SCTP_CHECK, TCP_CHECK, UDP_CHECK},
    packet::Packet,
};

/// Rewrites the addresses and ports of a packet as its flow entry says and corrects every checksum;
/// lowers the hop limit by `hops`.
///
/// The caller has parsed the packet, so headers are known to be there; `None` only when the kernel
/// refuses a write, and then the packet may be half rewritten and must be dropped.
#[inline(always)]
pub(crate) fn translate<A: Family, F: Frame>(
    frame: &mut F,
    flow: &FlowValue<A>,
    packet: &Packet<A>,
    hops: u8,
) -> Option<()> {
    A::rewrite_ip(frame, &flow.src, &flow.dst, flow.address_delta, hops)?;
    frame.store(A::TRANSPORT, Ports { sport: flow.sport.to_be(), dport: flow.dport.to_be() })?;
    let delta = Delta { pseudo: flow.address_delta, segment: flow.port_delta };
    if packet.is_sctp() {
        correct_crc32c(frame, flow, packet)
    } else if packet.is_udp() {
        frame.correct_checksum(A::TRANSPORT + UDP_CHECK, delta, true)
    } else {
        frame.correct_checksum(A::TRANSPORT + TCP_CHECK, delta, false)
    }
}

/// Corrects the checksum of an SCTP packet, which covers its ports. One of zero is left: its sender
/// leaves it to a device to compute, over the packet as it is then.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a header length")]
fn correct_crc32c<A: Family, F: Frame>(
    frame: &mut F,
    flow: &FlowValue<A>,
    packet: &Packet<A>,
) -> Option<()> {
    let (old, new) = ([packet.tuple.sport, packet.tuple.dport], [flow.sport, flow.dport]);
    let at = A::TRANSPORT + SCTP_CHECK;
    let check = u32::from_le(frame.load(at)?);
    if check == 0 || old == new {
        return Some(());
    }
    let length = packet.len.wrapping_sub((A::TRANSPORT - ETH_LEN) as u32);
    frame.store(at, crc32c::corrected(check, old, new, length).to_le())
}

/// Writes the Ethernet addresses of a next hop.
#[inline(always)]
pub(crate) fn address<F: Frame>(frame: &mut F, hop: &NextHop) -> Option<()> {
    let words = bytemuck::cast([hop.dmac, hop.smac]);
    frame.store(0, EthAddresses { words })
}

/// Writes the Ethernet addresses that answer the sender of this frame into `hop`.
#[inline(always)]
pub(crate) fn way_back<F: Frame>(frame: &F, hop: &mut NextHop) -> Option<()> {
    let eth: EthAddresses = frame.load(0)?;
    let [dst, src] = bytemuck::cast(eth.words);
    hop.dmac = src;
    hop.smac = dst;
    Some(())
}

/// Swaps the Ethernet addresses of a frame.
#[inline(always)]
pub(crate) fn turn_round<F: Frame>(frame: &mut F) -> Option<()> {
    let mut hop = NextHop::default();
    way_back(frame, &mut hop)?;
    address(frame, &hop)
}
