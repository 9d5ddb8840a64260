//! Clients: one request, many requests, one large transfer.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    protocol::{Answer, Bulk, Failure, Outcome, Proto, Share, Shot, UdpStyle},
    sctp::Association,
    serve::count_pattern,
};

/// Octet `n` of a bulk transfer is `n % PATTERN`: a prime, so that no packet size hides a shift.
pub(super) const PATTERN: u64 = 251;

/// Octets beyond a token that no Ethernet frame holds.
const FRAGMENTED: usize = 4000;

/// One request and its answer. A UDP request is sent once: what is lost is seen.
pub(super) fn one(
    proto: Proto,
    style: UdpStyle,
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> Outcome {
    let answer = match proto {
        Proto::Tcp => tcp(to, from, timeout),
        Proto::Udp => udp(style, to, from, timeout),
        Proto::Sctp => sctp(to, from, timeout),
    };
    answer.unwrap_or_else(|error| outcome(&error))
}

/// `count` requests, each by a fresh socket, `parallel` at a time.
pub(super) fn many(
    proto: Proto,
    to: SocketAddr,
    count: u32,
    parallel: u32,
    timeout: Duration,
) -> Share {
    let taken = AtomicU32::new(0);
    let share = Mutex::new(Share::default());
    thread::scope(|scope| {
        for _ in 0..parallel {
            let _ = scope.spawn(|| {
                while taken.fetch_add(1, Ordering::Relaxed) < count {
                    let outcome = one(proto, UdpStyle::Connected, to, None, timeout);
                    record(&mut share.lock().expect("no holder of this lock panics"), outcome);
                }
            });
        }
    });
    share.into_inner().expect("no holder of this lock panics")
}

/// Every shot, each by a fresh socket, `parallel` at a time.
pub(super) fn each(shots: &[Shot], parallel: u32) -> Vec<Outcome> {
    let taken = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![Outcome::Timeout; shots.len()]);
    thread::scope(|scope| {
        for _ in 0..parallel {
            let _ = scope.spawn(|| {
                while let Some((at, shot)) = {
                    let at = taken.fetch_add(1, Ordering::Relaxed);
                    shots.get(at).map(|shot| (at, shot))
                } {
                    let Shot { proto, style, to, from, timeout_ms } = *shot;
                    let outcome = one(proto, style, to, from, Duration::from_millis(timeout_ms));
                    outcomes.lock().expect("no holder of this lock panics")[at] = outcome;
                }
            });
        }
    });
    outcomes.into_inner().expect("no holder of this lock panics")
}

fn record(share: &mut Share, outcome: Outcome) {
    if let Outcome::Answered(Answer { by, source }) = outcome {
        *share.by.entry(by).or_default() += 1;
        *share.sources.entry(source.ip()).or_default() += 1;
    } else if let Some(known) = share.failures.iter_mut().find(|known| known.outcome == outcome) {
        known.count += 1;
    } else {
        share.failures.push(Failure { outcome, count: 1 });
    }
}

fn tcp(to: SocketAddr, from: Option<SocketAddr>, timeout: Duration) -> io::Result<Outcome> {
    let stream = connect(to, from, timeout)?;
    let (status, body) = match request(&stream, &format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n")) {
        Ok(answer) => answer,
        // Refusal is what meets a connection attempt; what meets an established one is a reset.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Ok(Outcome::Reset);
        }
        Err(error) => return Err(error),
    };
    if stream.peer_addr()? != to {
        return Ok(Outcome::Failed(format!("connected to {}", stream.peer_addr()?)));
    }
    Ok(Answer::parse(&body).map_or(Outcome::Failed(status), Outcome::Answered))
}

fn udp(
    style: UdpStyle,
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> io::Result<Outcome> {
    let socket = UdpSocket::bind(from.unwrap_or_else(|| unspecified(to)))?;
    let deadline = Instant::now() + timeout;
    let mut token = format!("{}", std::process::id());
    match style {
        UdpStyle::Fragmented => token += &"x".repeat(FRAGMENTED),
        UdpStyle::Options => options(&socket, to)?,
        UdpStyle::Connected | UdpStyle::Unconnected => {}
    }
    if style.is_connected() {
        socket.connect(to)?;
        let _ = socket.send(token.as_bytes())?;
    } else {
        let _ = socket.send_to(token.as_bytes(), to)?;
    }
    let mut buffer = vec![0; 65_536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let (length, peer) = socket.recv_from(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Some((echo, rest)) = text.split_once(' ') else {
            return Ok(Outcome::Failed(text));
        };
        if peer != to {
            return Ok(Outcome::Failed(format!("answered by {peer}")));
        }
        if echo == token {
            return Ok(Answer::parse(rest).map_or(Outcome::Failed(text), Outcome::Answered));
        }
    }
}

fn sctp(to: SocketAddr, from: Option<SocketAddr>, timeout: Duration) -> io::Result<Outcome> {
    let mut association = Association::open(to, from, timeout)?;
    let token = format!("{}", std::process::id());
    let text = match association.ask(&token) {
        Ok(text) => text,
        // As with TCP: what was established is not refused any more.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Ok(Outcome::Reset);
        }
        Err(error) => return Err(error),
    };
    association.close()?;
    let answer = text.split_once(' ').filter(|(echo, _)| *echo == token);
    let answer = answer.and_then(|(_, rest)| Answer::parse(rest));
    Ok(answer.map_or(Outcome::Failed(text), Outcome::Answered))
}

/// Puts options that mean nothing between the IP header and what follows (RFC 791 §3.1: no operation;
/// RFC 8200 §4.2: padding).
fn options(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    let (level, name, bytes): (_, _, &[u8]) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_OPTIONS, &[1; 4]),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]),
    };
    let length = libc::socklen_t::try_from(bytes.len()).expect("a few bytes");
    // SAFETY: the kernel reads `length` bytes from where `bytes` lie, for the time of the call.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, bytes.as_ptr().cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends one datagram, allowing broadcast.
pub(super) fn send(to: SocketAddr, text: &str) -> Result<()> {
    let socket = UdpSocket::bind(unspecified(to))?;
    socket.set_broadcast(true)?;
    let _ = socket.send_to(text.as_bytes(), to).with_context(|| format!("sending to {to}"))?;
    Ok(())
}

/// Fetches `octets`, then sends as many, over one connection each.
pub(super) fn bulk(to: SocketAddr, octets: u64, timeout: Duration) -> Result<Bulk> {
    let stream = connect(to, None, timeout)?;
    write!(&stream, "GET /bytes/{octets} HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let _ = headers(&stream)?;
    let received = count_pattern(&mut &stream)?;

    let stream = connect(to, None, timeout)?;
    write!(&stream, "PUT / HTTP/1.1\r\nHost: {to}\r\nContent-Length: {octets}\r\n\r\n")?;
    pattern(octets, |chunk| (&stream).write_all(chunk))?;
    let retransmitted = retransmitted(&stream);
    let _ = headers(&stream)?;
    let mut body = String::new();
    let _ = (&stream).read_to_string(&mut body)?;
    let sent = body.trim().rsplit_once(' ').and_then(|(_, count)| count.parse().ok());
    ensure!(sent.is_some(), "the server answered {body:?}");
    Ok(Bulk { received, sent: sent.unwrap_or(0), retransmitted })
}

/// Makes the octets of a bulk transfer.
pub(super) fn pattern<E>(
    octets: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let chunk: Vec<u8> = (0..PATTERN.pow(2)).map(|n| (n % PATTERN).to_le_bytes()[0]).collect();
    let mut left = octets;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        take(&chunk[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Connects from an address, if given, and sets the time-out for everything after.
pub(super) fn connect(
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&to.into(), timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Segments sent more than once on this connection.
pub(super) fn retransmitted(stream: &TcpStream) -> u32 {
    // SAFETY: `tcp_info` is plain old data for which all zeroes are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the descriptor is open; the buffer and its length are those of a `tcp_info`, and the
    // kernel writes no more than that.
    let rc = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if rc == 0 { info.tcpi_total_retrans } else { 0 }
}

pub(super) fn unspecified(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn request(mut stream: &TcpStream, text: &str) -> io::Result<(String, String)> {
    stream.write_all(text.as_bytes())?;
    let status = headers(stream)?;
    let mut body = String::new();
    let _ = stream.read_to_string(&mut body)?;
    Ok((status, body))
}

/// Reads the head of an HTTP answer, octet by octet so that the body stays in the socket.
fn headers(mut stream: &TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        head.push(octet[0]);
    }
    Ok(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned())
}

/// What an error of a socket call means.
pub(super) fn outcome(error: &io::Error) -> Outcome {
    use io::ErrorKind as Kind;
    let kind = error.kind();
    if kind == Kind::ConnectionRefused {
        Outcome::Refused
    } else if matches!(kind, Kind::TimedOut | Kind::WouldBlock) {
        Outcome::Timeout
    } else if matches!(kind, Kind::HostUnreachable | Kind::NetworkUnreachable)
        || matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EPROTO))
    {
        Outcome::Unreachable
    } else if matches!(kind, Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof) {
        Outcome::Reset
    } else {
        Outcome::Failed(error.to_string())
    }
}
