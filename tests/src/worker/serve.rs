//! Servers that answer with their name and the client address they saw.
//!
//! TCP speaks HTTP to a client that starts with `GET` or `PUT`, and otherwise answers each line
//! with that line and the answer, for as long as the client likes. UDP answers each datagram so.

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
};

/// How long a server that nothing wakes may go without looking whether it should stop.
const DOZE: Duration = Duration::from_secs(1);

/// A listening socket and the thread that serves it.
pub(super) struct Server {
    proto: Proto,
    at: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts to serve; connections are accepted when this returns.
    pub(super) fn start(proto: Proto, at: SocketAddr, name: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (name, flag): (Arc<str>, _) = (name.into(), Arc::clone(&stop));
        let thread = match proto {
            Proto::Tcp => {
                let listener = TcpListener::bind(at)?;
                let doze = TimeVal::new(DOZE.as_secs().cast_signed(), 0);
                setsockopt(&listener, ReceiveTimeout, &doze)?;
                thread::spawn(move || serve_tcp(&listener, &name, &flag))
            }
            Proto::Udp => {
                let socket = UdpSocket::bind(at)?;
                socket.set_read_timeout(Some(DOZE))?;
                thread::spawn(move || serve_udp(&socket, &name, &flag))
            }
        };
        Ok(Self { proto, at, stop, thread })
    }

    /// Stops serving; the port is closed when this returns.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread. Whether that succeeds does not matter: it wakes by itself in a while.
        match self.proto {
            Proto::Tcp => drop(TcpStream::connect_timeout(&self.at, DOZE)),
            Proto::Udp => {
                let any = SocketAddr::new(self.at.ip(), 0);
                drop(UdpSocket::bind(any).and_then(|socket| socket.send_to(b"", self.at)));
            }
        }
        drop(self.thread.join());
    }
}

fn serve_tcp(listener: &TcpListener, name: &Arc<str>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let answer = Answer { by: name.to_string(), source: peer };
        // A connection that breaks is the client's to report.
        let serve = move || drop(connection(&stream, &answer));
        drop(thread::Builder::new().stack_size(256 << 10).spawn(serve));
    }
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let Ok(token) = std::str::from_utf8(&buffer[..length]) else { continue };
        let answer = Answer { by: name.to_owned(), source: peer };
        drop(socket.send_to(reply(token, &answer).as_bytes(), peer));
    }
}

/// What a server sends for one token: the token first, so that the client can match.
pub(super) fn reply(token: &str, answer: &Answer) -> String {
    format!("{} {}\n", token.trim_end(), answer.text())
}

fn connection(stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if line.starts_with("GET ") || line.starts_with("PUT ") {
            return http(&line, &mut reader, stream, answer);
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
        write!(to, "{}", head(octets))?;
        return pattern(octets, |chunk| to.write_all(chunk));
    }
    let text = if length > 0 {
        format!("{} received {}\n", answer.by, count_pattern(&mut reader.take(length))?)
    } else {
        format!("{}\n", answer.text())
    };
    write!(to, "{}{text}", head(text.len() as u64))
}

fn head(length: u64) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
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
