//! IP addresses as they lie in map keys and values.

use core::{fmt, hash::Hash, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An address family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An IPv4 address: four octets in network order, aligned so that the kernel side loads one word.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct Addr4 {
    /// Octets in network order.
    pub octets: [u8; 4],
}

/// An IPv6 address: sixteen octets in network order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct Addr6 {
    /// Octets in network order.
    pub octets: [u8; 16],
}

/// What map types and datapath code need to know of an address, whatever its family.
pub trait Address: Copy + Default + Eq + Hash + Ord + Pod + fmt::Debug + 'static {
    /// The family of the address.
    const FAMILY: Family;

    /// The address as 32-bit words, each the next four octets read in memory order; IPv4 fills one.
    fn words(&self) -> [u32; 4];

    /// The address as the standard library's type.
    fn ip(&self) -> IpAddr;

    /// The address of this family in `ip`, or `None` when `ip` is of the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
}

impl Address for Addr4 {
    const FAMILY: Family = Family::V4;

    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        [u32::from_ne_bytes(self.octets), 0, 0, 0]
    }

    fn ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.octets))
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(Self { octets: ip.octets() }),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for Addr6 {
    const FAMILY: Family = Family::V6;

    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        let o = &self.octets;
        [
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ]
    }

    fn ip(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.octets))
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(Self { octets: ip.octets() }),
        }
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(ip: Ipv4Addr) -> Self {
        Self { octets: ip.octets() }
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(ip: Ipv6Addr) -> Self {
        Self { octets: ip.octets() }
    }
}

impl fmt::Display for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(self.octets).fmt(f)
    }
}

impl fmt::Display for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.octets).fmt(f)
    }
}

const _: () = assert!(size_of::<Addr4>() == 4 && size_of::<Addr6>() == 16);
