//! Addresses and networks as the contract reads them.
//!
//! Invariant: like the rest of the reading, this shares no code with the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// FAM-10, FAM-11: zeros mean nothing. Loopback addresses cannot be served to anybody.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let ip: Ipv6Addr = text.parse().ok()?;
        return ip.to_ipv4_mapped().is_none().then_some(IpAddr::V6(ip));
    }
    let parts: Vec<u8> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let parts: [u8; 4] = parts.try_into().ok()?;
    let ip = Ipv4Addr::from(parts);
    (!ip.is_loopback()).then_some(IpAddr::V4(ip))
}

/// A network: its bits, and how many count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Net {
    pub(crate) v4: bool,
    bits: u128,
    pub(crate) len: u32,
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl Net {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (ip, len) = text.trim().split_once('/')?;
        let (ip, len) = (address(ip)?, len.parse().ok()?);
        let v4 = ip.is_ipv4();
        (len <= if v4 { 32 } else { 128 }).then_some(Self { v4, bits: bits(ip), len })
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let differ = (bits(ip) ^ self.bits).leading_zeros();
        ip.is_ipv4() == self.v4 && differ >= self.len
    }
}
