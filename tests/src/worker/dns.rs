//! Asks a DNS server, as a resolver does: one datagram out of a connected socket, one back.
//!
//! Speaks what RFC 1035 needs for the addresses of a name and no more.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::probe::unspecified;
use crate::lab::Family;

const HEADER: usize = 12;
const NO_SUCH_NAME: u8 = 3;
const INTERNET: u16 = 1;

/// Addresses of `name`; none when the server says that there is no such name.
pub(super) fn resolve(
    server: SocketAddr,
    name: &str,
    family: Family,
    timeout: Duration,
) -> Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind(unspecified(server))?;
    socket.connect(server).with_context(|| format!("connecting to {server}"))?;
    socket.set_read_timeout(Some(timeout))?;
    let query = query(name, family)?;
    let _ = socket.send(&query)?;
    let mut buffer = [0; 1232];
    let length = socket.recv(&mut buffer).with_context(|| format!("{server} answers nothing"))?;
    addresses(&query, &buffer[..length], family).with_context(|| format!("asking for {name}"))
}

const fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => 1,
        Family::V6 => 28,
    }
}

fn query(name: &str, family: Family) -> Result<Vec<u8>> {
    let id = std::process::id().to_be_bytes();
    // Recursion is desired; there is one question and nothing else.
    let mut query = vec![id[2], id[3], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        query.push(length.with_context(|| format!("{name:?} is no name"))?);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind(family).to_be_bytes());
    query.extend(INTERNET.to_be_bytes());
    Ok(query)
}

fn addresses(query: &[u8], answer: &[u8], family: Family) -> Result<Vec<IpAddr>> {
    ensure!(answer.get(..2) == query.get(..2), "an answer to another question");
    match answer.get(3).context("a torn answer")? & 0xf {
        0 => {}
        NO_SUCH_NAME => return Ok(Vec::new()),
        code => bail!("the server answers with code {code}"),
    }
    let count = number(answer, 6)?;
    let mut at = name_end(answer, HEADER)? + 4;
    let mut found = Vec::new();
    for _ in 0..count {
        at = name_end(answer, at)?;
        let (of, length) = (number(answer, at)?, usize::from(number(answer, at + 8)?));
        let data = answer.get(at + 10..at + 10 + length).context("a torn record")?;
        // Aliases on the way to an address are records of other kinds.
        if of == kind(family) {
            found.push(match family {
                Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(data)?).into(),
                Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(data)?).into(),
            });
        }
        at += 10 + length;
    }
    Ok(found)
}

fn number(of: &[u8], at: usize) -> Result<u16> {
    let octets = of.get(at..at + 2).context("a torn answer")?;
    Ok(u16::from_be_bytes([octets[0], octets[1]]))
}

/// Where the name at `at` ends: at its empty label, or after the pointer to the rest of it.
fn name_end(of: &[u8], mut at: usize) -> Result<usize> {
    loop {
        match *of.get(at).context("a torn name")? {
            0 => return Ok(at + 1),
            length if length >= 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = query("vote.example", Family::V4).expect("a name");
        answer[2] |= 0x80;
        answer[3] = code;
        answer[7] = u8::try_from(records.len()).expect("few records");
        for (of, data) in records {
            answer.extend([0xc0, 12]);
            answer.extend(of.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 5, 0, u8::try_from(data.len()).expect("short")]);
            answer.extend(*data);
        }
        answer
    }

    fn check(code: u8, records: &[(u16, &[u8])], expected: &[&str]) {
        let query = query("vote.example", Family::V4).expect("a name");
        let found = addresses(&query, &answer(code, records), Family::V4).expect("an answer");
        let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().expect("one")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn addresses_are_found_among_other_records() {
        check(0, &[(5, b"\x03abc\xc0\x0c"), (1, &[10, 96, 0, 7]), (28, &[0; 16])], &["10.96.0.7"]);
        check(0, &[], &[]);
        check(NO_SUCH_NAME, &[], &[]);
    }

    #[test]
    fn what_is_torn_is_an_error() {
        let query = query("vote.example", Family::V4).expect("a name");
        let whole = answer(0, &[(1, &[10, 96, 0, 7])]);
        for length in 0..whole.len() {
            assert!(addresses(&query, &whole[..length], Family::V4).is_err(), "{length} octets");
        }
        assert!(addresses(&query, &answer(2, &[]), Family::V4).is_err());
    }
}
