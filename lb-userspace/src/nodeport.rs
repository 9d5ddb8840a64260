//! Which local addresses serve NodePorts: the meaning of `--nodeport-addresses`.
//!
//! Pure. A family that no selector matches has no NodePort address: never fail open.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use lb_common::Family;
use serde::{Serialize, Serializer};

use crate::model::family;

/// One word of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selector {
    /// Every local address, loopback too, but no IPv6 link-local address.
    All,
    /// The addresses of the node itself.
    Primary,
    /// Loopback addresses.
    Localhost,
    /// No loopback address, whatever the other words say.
    NoLocalhost,
    /// Local addresses in this network.
    Cidr {
        /// Network address.
        net: IpAddr,
        /// Prefix length.
        len: u8,
    },
}

/// A word that selects nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// Neither a keyword nor an address with a prefix length.
    #[error("neither a keyword nor a CIDR")]
    Unknown,
    /// The prefix length is longer than the address.
    #[error("the prefix length is not between 0 and {0}")]
    Length(u8),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match text {
            "all" => return Ok(Self::All),
            "primary" => return Ok(Self::Primary),
            "localhost" => return Ok(Self::Localhost),
            "no-localhost" => return Ok(Self::NoLocalhost),
            _ => {}
        }
        let (net, len) = text.split_once('/').ok_or(SelectorError::Unknown)?;
        let net: IpAddr = net.parse().map_err(|_parse| SelectorError::Unknown)?;
        let max = width(net);
        match len.parse() {
            Ok(len) if len <= max => Ok(Self::Cidr { net, len }),
            _ => Err(SelectorError::Length(max)),
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Primary => f.write_str("primary"),
            Self::Localhost => f.write_str("localhost"),
            Self::NoLocalhost => f.write_str("no-localhost"),
            Self::Cidr { net, len } => write!(f, "{net}/{len}"),
        }
    }
}

/// The addresses out of `local` that serve NodePorts, sorted.
///
/// The loopback networks stand as 127.0.0.1 and ::1, which is how the datapath looks them up.
/// `primary` are the addresses of the node itself.
pub fn select<'a>(
    selectors: &[Selector],
    local: impl IntoIterator<Item = &'a IpAddr>,
    primary: &[IpAddr],
) -> Vec<IpAddr> {
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    let chosen: BTreeSet<IpAddr> = local
        .into_iter()
        .copied()
        .filter(|ip| !ip.is_loopback())
        .chain(loopback)
        .filter(|ip| usable(*ip))
        .filter(|ip| !(ip.is_loopback() && selectors.contains(&Selector::NoLocalhost)))
        .filter(|ip| selectors.iter().any(|selector| selector.matches(*ip, primary)))
        .collect();
    chosen.into_iter().collect()
}

/// Whether every local address of a family is selected, whichever the node has or will have.
pub fn all_of(selectors: &[Selector], of: Family) -> bool {
    let takes_all = |selector: &Selector| match selector {
        Selector::All => true,
        Selector::Cidr { net, len: 0 } => family(*net) == of,
        Selector::Cidr { .. } | Selector::Primary | Selector::Localhost | Selector::NoLocalhost => {
            false
        }
    };
    selectors.iter().any(takes_all) && !selectors.contains(&Selector::NoLocalhost)
}

impl Selector {
    /// Whether it can take addresses of either family.
    pub fn is_of_both_families(&self) -> bool {
        matches!(self, Self::All | Self::Primary | Self::Localhost)
    }

    fn matches(self, ip: IpAddr, primary: &[IpAddr]) -> bool {
        match self {
            Self::All => true,
            Self::Primary => primary.contains(&ip),
            Self::Localhost => ip.is_loopback(),
            Self::NoLocalhost => false,
            Self::Cidr { net, len } => {
                net.is_ipv4() == ip.is_ipv4() && prefix(net, len) == prefix(ip, len)
            }
        }
    }
}

fn usable(ip: IpAddr) -> bool {
    let unfit = ip.is_multicast() || ip.is_unspecified();
    match ip {
        IpAddr::V4(ip) => !unfit && !ip.is_broadcast(),
        IpAddr::V6(ip) => !unfit && !ip.is_unicast_link_local(),
    }
}

/// The first `len` bits of the address, as the top bits of a number.
fn prefix(ip: IpAddr, len: u8) -> u128 {
    let bits = match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    if len == 0 { 0 } else { bits >> (128 - u32::from(len)) }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &str, expected: &[&str]) {
        let selectors: Vec<Selector> =
            words.split(',').filter(|w| !w.is_empty()).map(|w| w.parse().unwrap()).collect();
        let ip = |text: &&str| text.parse::<IpAddr>().unwrap();
        let local: Vec<IpAddr> = [
            "127.0.0.1",
            "192.0.2.10",
            "10.244.0.1",
            "::1",
            "2001:db8::10",
            "fe80::1",
            "255.255.255.255",
        ]
        .iter()
        .map(ip)
        .collect();
        let primary: Vec<IpAddr> = ["192.0.2.10", "2001:db8::10"].iter().map(ip).collect();
        let expected: Vec<IpAddr> = expected.iter().map(ip).collect();
        assert_eq!(select(&selectors, &local, &primary), expected, "{words}");
    }

    #[test]
    fn all_takes_loopback_but_no_link_local_and_no_broadcast() {
        check("all", &["10.244.0.1", "127.0.0.1", "192.0.2.10", "::1", "2001:db8::10"]);
    }

    #[test]
    fn primary_takes_only_the_addresses_of_the_node() {
        check("primary", &["192.0.2.10", "2001:db8::10"]);
    }

    #[test]
    fn localhost_takes_both_loopback_addresses() {
        check("localhost", &["127.0.0.1", "::1"]);
    }

    #[test]
    fn loopback_addresses_can_be_taken_out() {
        check("all,no-localhost", &["10.244.0.1", "192.0.2.10", "2001:db8::10"]);
        check("127.0.0.0/8,::/0,no-localhost", &["2001:db8::10"]);
    }

    #[test]
    fn a_family_without_match_has_no_address() {
        check("192.0.2.0/24", &["192.0.2.10"]);
        check("2001:db8::/64", &["2001:db8::10"]);
        check("203.0.113.0/24", &[]);
        check("", &[]);
    }

    /// HC-2: loopback is taken out of `all`, which then is not all.
    #[test]
    fn only_all_and_whole_families_are_all_of_a_family() {
        let all = |words: &str| {
            let selectors: Vec<Selector> = words.split(',').map(|w| w.parse().unwrap()).collect();
            (all_of(&selectors, Family::V4), all_of(&selectors, Family::V6))
        };
        assert_eq!(all("all"), (true, true));
        assert_eq!(all("primary,all"), (true, true));
        assert_eq!(all("all,no-localhost"), (false, false));
        assert_eq!(all("0.0.0.0/0,2001:db8::/32"), (true, false));
        assert_eq!(all("192.0.2.0/24,::/0"), (false, true));
        assert_eq!(all("primary,localhost"), (false, false));
    }

    #[test]
    fn a_network_of_length_zero_takes_its_family() {
        check("0.0.0.0/0", &["10.244.0.1", "127.0.0.1", "192.0.2.10"]);
        check("127.0.0.0/8,::/0", &["127.0.0.1", "::1", "2001:db8::10"]);
    }

    #[test]
    fn words_that_select_nothing_are_errors() {
        assert_eq!("eth0".parse::<Selector>(), Err(SelectorError::Unknown));
        assert_eq!("10.0.0.0/33".parse::<Selector>(), Err(SelectorError::Length(32)));
        assert_eq!("::/129".parse::<Selector>(), Err(SelectorError::Length(128)));
        assert_eq!("10.0.0.0/8".parse::<Selector>().unwrap().to_string(), "10.0.0.0/8");
    }
}
