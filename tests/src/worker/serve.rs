//! Servers that answer with their name and the client address they saw.
//!
//! TCP speaks HTTP to a client that starts with `GET` or `PUT`, and otherwise answers each line
//! with that line and the answer, for as long as the client likes. UDP answers each datagram so.
//! SCTP answers each message so, for as long as the association lives.
//! `GET /ready` tells whether the server wants new clients.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use super::{
    probe::{PATTERN, pattern},
    protocol::{Answer, Proto},
    sctp,
};

/// How long a server that nothing wakes may go without looking whether it should stop.
const DOZE: Duration = Duration::from_secs(1);

/// Who answers.
pub(crate) struct Host {
    name: String,
    leaving: AtomicBool,
}

impl Host {
    /// A host that wants clients.
    pub(crate) fn named(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), leaving: AtomicBool::new(false) })
    }

    /// From now on it is not ready. It serves as before.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn answer(&self, peer: SocketAddr) -> Answer {
        // A socket of both families shows IPv4 clients as IPv6 addresses.
        let source = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Answer { by: self.name.clone(), source }
    }
}

/// A listening socket and the thread that serves it.
pub(crate) struct Server {
    proto: Proto,
    at: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts to serve; connections are accepted when this returns.
    pub(crate) fn start(proto: Proto, at: SocketAddr, host: &Arc<Host>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (host, flag) = (Arc::clone(host), Arc::clone(&stop));
        let thread = match proto {
            Proto::Tcp => {
                let listener = TcpListener::bind(at)?;
                let doze = TimeVal::new(DOZE.as_secs().cast_signed(), 0);
                setsockopt(&listener, ReceiveTimeout, &doze)?;
                thread::spawn(move || serve_tcp(&listener, &host, &flag))
            }
            Proto::Udp => {
                let socket = UdpSocket::bind(at)?;
                socket.set_read_timeout(Some(DOZE))?;
                thread::spawn(move || serve_udp(&socket, &host, &flag))
            }
            Proto::Sctp => {
                let server = sctp::Server::listen(at)?;
                thread::spawn(move || {
                    server.serve(&flag, DOZE, |token, peer| reply(token, &host.answer(peer)));
                })
            }
        };
        Ok(Self { proto, at, stop, thread })
    }

    /// Stops serving; the port is closed when this returns.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread. Whether that succeeds does not matter: it wakes by itself in a while.
        match self.proto {
            Proto::Tcp => drop(TcpStream::connect_timeout(&self.at, DOZE)),
            Proto::Sctp => sctp::Server::wake(self.at),
            Proto::Udp => {
                let any = SocketAddr::new(self.at.ip(), 0);
                drop(UdpSocket::bind(any).and_then(|socket| socket.send_to(b"", self.at)));
            }
        }
        drop(self.thread.join());
    }
}

fn serve_tcp(listener: &TcpListener, host: &Arc<Host>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let (host, answer) = (Arc::clone(host), host.answer(peer));
        // A connection that breaks is the client's to report.
        let serve = move || drop(connection(&stream, &host, &answer));
        drop(thread::Builder::new().stack_size(256 << 10).spawn(serve));
    }
}

fn serve_udp(socket: &UdpSocket, host: &Host, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let Ok(token) = std::str::from_utf8(&buffer[..length]) else { continue };
        let answer = host.answer(peer);
        drop(socket.send_to(reply(token, &answer).as_bytes(), peer));
    }
}

/// What a server sends for one token: the token first, so that the client can match.
pub(super) fn reply(token: &str, answer: &Answer) -> String {
    format!("{} {}\n", token.trim_end(), answer.text())
}

fn connection(stream: &TcpStream, host: &Host, answer: &Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if line.starts_with("GET ") || line.starts_with("PUT ") {
            return http(&line, &mut reader, stream, host, answer);
        }
        (&*stream).write_all(reply(&line, answer).as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// One HTTP request: `GET /` and `PUT /` answer with a line of text, `GET /bytes/N` with N octets.
fn http(
    request: &str,
    reader: &mut impl BufRead,
    mut to: &TcpStream,
    host: &Host,
    answer: &Answer,
) -> io::Result<()> {
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    if let Some(octets) = path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok()) {
        write!(to, "{}", head(OK, octets))?;
        return pattern(octets, |chunk| to.write_all(chunk));
    }
    if path == "/ready" {
        let leaving = host.leaving.load(Ordering::Relaxed);
        let (status, text) = if leaving { (UNAVAILABLE, "leaving\n") } else { (OK, "ready\n") };
        return write!(to, "{}{text}", head(status, text.len() as u64));
    }
    let text = if length > 0 {
        format!("{} received {}\n", answer.by, count_pattern(&mut reader.take(length))?)
    } else {
        format!("{}\n", answer.text())
    };
    write!(to, "{}{text}", head(OK, text.len() as u64))
}

const OK: &str = "200 OK";
const UNAVAILABLE: &str = "503 Service Unavailable";

fn head(status: &str, length: u64) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
}

/// Reads to the end and counts the octets up to the first that is not as [`pattern`] makes it.
pub(super) fn count_pattern(from: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 65_536];
    let mut count = 0_u64;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(count);
        }
        for octet in &buffer[..length] {
            if u64::from(*octet) != count % PATTERN {
                return Ok(count);
            }
            count += 1;
        }
    }
}
