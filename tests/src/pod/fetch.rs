//! A client, for `kubectl exec` into images that have no shell: `/vote get http://vote.default.svc/`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// How long each step of a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes one HTTP request and returns the body of the answer.
///
/// # Errors
///
/// The name is not known, nobody answers, or the answer is no success.
pub fn fetch(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let addresses = resolve(authority)?;
    let mut stream = connect(&addresses).with_context(|| format!("connecting to {authority}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("setting a timeout")?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")
        .with_context(|| format!("asking {authority}"))?;
    let mut answer = String::new();
    let _ =
        stream.read_to_string(&mut answer).with_context(|| format!("the answer of {authority}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or("");
    ensure!(status == "200", "{url} answers {status}: {}", body.trim_end());
    Ok(body.to_owned())
}

fn resolve(authority: &str) -> Result<Vec<SocketAddr>> {
    // A port follows the last colon, unless that belongs to an address in brackets.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let found = with_port.to_socket_addrs().with_context(|| format!("looking up {authority}"))?;
    Ok(found.collect())
}

fn connect(addresses: &[SocketAddr]) -> Result<TcpStream> {
    let mut last = None;
    for at in addresses {
        match TcpStream::connect_timeout(at, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(why) => last = Some(anyhow::Error::new(why).context(at.to_string())),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("the name has no address")))
}
