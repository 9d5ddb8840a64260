//! Addresses as Kubernetes objects write them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// The address in `text`, or why it is none that traffic can be sent to.
///
/// Parts of an IPv4 address may have leading zeros; they are decimal all the same.
pub(super) fn parse(text: &str) -> Result<IpAddr, String> {
    let Some(addr) = parse_any(text) else { return Err(format!("{text:?} is not an IP address")) };
    let unusable = match addr {
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4-mapped IPv6 address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        _ if addr.is_unspecified() => "the unspecified address",
        _ if addr.is_multicast() => "a multicast address",
        _ if addr.is_loopback() => "a loopback address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(addr),
    };
    Err(format!("{text} is {unusable}"))
}

/// The network in `text`, which may have space around it, without the host's part; or why it is
/// none. Zeros before a number are nothing special, as in an address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let bad = || format!("{text:?} is not a network");
    let (addr, len) = text.trim().split_once('/').ok_or_else(bad)?;
    let addr = parse_any(addr).ok_or_else(bad)?;
    if matches!(addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(format!("{text:?} is a network of IPv4-mapped IPv6 addresses"));
    }
    if len.is_empty() || !len.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let net = len.parse().ok().and_then(|len| IpNet::new(addr, len).ok());
    net.map(|net| net.trunc()).ok_or_else(bad)
}

fn parse_any(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let Some(part) = parts.next() else { return text.parse().ok() };
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok();
        }
        *octet = part.parse().ok()?;
    }
    match parts.next() {
        None => Some(Ipv4Addr::from(octets).into()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = parse(text);
        match expected {
            Ok(addr) => assert_eq!(parsed.map(|addr| addr.to_string()), Ok(addr.into())),
            Err(why) => assert_eq!(parsed, Err(why.into())),
        }
    }

    #[test]
    fn leading_zeros_are_decimal() {
        check("010.0.0.1", Ok("10.0.0.1"));
        check("10.096.000.0010", Ok("10.96.0.10"));
        check("10.0.0.0256", Err("\"10.0.0.0256\" is not an IP address"));
    }

    /// FAM-10, FAM-11, SR-10.
    #[test]
    fn networks_are_as_lenient_as_addresses() {
        for (text, expected) in [
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            (" \t010.1.2.3/08\n", Ok("10.0.0.0/8")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("10.0.0.1/32", Ok("10.0.0.1/32")),
            ("fd00::1/64", Ok("fd00::/64")),
            ("::/0", Ok("::/0")),
            ("10.0.0.1", Err("is not a network")),
            ("10.0.0.0/33", Err("is not a network")),
            ("10.0.0.0/-1", Err("is not a network")),
            ("10.0.0.0/+8", Err("is not a network")),
            ("10.0.0.0/", Err("is not a network")),
            ("10.0.0/8", Err("is not a network")),
            ("fd00::/129", Err("is not a network")),
            ("", Err("is not a network")),
            ("/8", Err("is not a network")),
            ("::ffff:10.0.0.0/104", Err("is a network of IPv4-mapped IPv6 addresses")),
        ] {
            let expected = expected.map(ToOwned::to_owned);
            let expected = expected.map_err(|why| format!("{text:?} {why}"));
            assert_eq!(parse_network(text).map(|net| net.to_string()), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "x", "10.0.0", "10.0.0.1.2", "10.0.0.300", "10.0.0.-1", "10.0.0.1/24"] {
            check(text, Err(&format!("{text:?} is not an IP address")));
        }
        for text in ["fd00::g", "fe80::1%eth0", "[fd00::1]", " 10.0.0.1", "0x0a.0.0.1"] {
            check(text, Err(&format!("{text:?} is not an IP address")));
        }
    }

    #[test]
    fn addresses_that_nothing_can_be_sent_to_are_refused() {
        check("fd00:0::1", Ok("fd00::1"));
        check("::ffff:10.0.0.1", Err("::ffff:10.0.0.1 is an IPv4-mapped IPv6 address"));
        check("0.0.0.0", Err("0.0.0.0 is the unspecified address"));
        check("255.255.255.255", Err("255.255.255.255 is the broadcast address"));
        check("224.0.0.1", Err("224.0.0.1 is a multicast address"));
        check("127.0.0.1", Err("127.0.0.1 is a loopback address"));
        check("fe80::1", Err("fe80::1 is a link-local address"));
    }
}
