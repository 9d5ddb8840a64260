//! One transfer: octets by one connection for a while, counted by who receives them.

use std::{
    fmt,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use serde::Serialize;

use crate::lab::{Netns, PATIENCE};

/// Who sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    /// The client.
    Up,
    /// The pod.
    Down,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// What the client says first.
    const fn word(self) -> u8 {
        match self {
            Self::Up => b'u',
            Self::Down => b'd',
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

const CHUNK: usize = 128 << 10;

/// Megabits a second of one connection from `client` to `to`.
pub(super) fn speed(
    client: &Netns,
    to: SocketAddr,
    direction: Direction,
    time: Duration,
) -> Result<f64> {
    // A socket stays in the namespace where it was made.
    let stream = client
        .run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let begin = Instant::now();
    let octets = match direction {
        Direction::Up => up(&stream, begin, time),
        Direction::Down => down(&stream, begin, time),
    }
    .with_context(|| format!("{direction} with {to}"))?;
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^53 octets")]
    Ok(octets as f64 * 8.0 / 1e6 / begin.elapsed().as_secs_f64())
}

fn up(mut stream: &TcpStream, begin: Instant, time: Duration) -> Result<u64> {
    let chunk = vec![Direction::Up.word(); CHUNK];
    while begin.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    // What is still in buffers is no transfer yet: the receiver's count ends it.
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

fn down(mut stream: &TcpStream, begin: Instant, time: Duration) -> Result<u64> {
    stream.write_all(&[Direction::Down.word()])?;
    let (mut chunk, mut octets) = (vec![0; CHUNK], 0);
    while begin.elapsed() < time {
        octets += u64::try_from(stream.read(&mut chunk)?)?;
    }
    Ok(octets)
}

/// The pod's side.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the server goes without looking whether it should end.
const DOZE: TimeVal = TimeVal::new(0, 100_000);

impl Server {
    /// Serves one connection after the other, until it is dropped.
    pub(super) fn start(netns: &Netns, at: SocketAddr) -> Result<Self> {
        let listener = netns.run(|| Ok(TcpListener::bind(at)?))?;
        setsockopt(&listener, ReceiveTimeout, &DOZE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else { continue };
                // A client that has seen enough breaks the connection.
                drop(serve(&stream));
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK];
    let mut octets = u64::try_from(stream.read(&mut chunk)?)?;
    if octets > 0 && chunk[0] == Direction::Down.word() {
        loop {
            stream.write_all(&chunk)?;
        }
    }
    loop {
        let more = u64::try_from(stream.read(&mut chunk)?)?;
        if more == 0 {
            break;
        }
        octets += more;
    }
    Ok(stream.write_all(&octets.to_be_bytes())?)
}
