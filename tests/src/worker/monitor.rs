//! Clients that never stop, counting every request that got no answer.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use super::{
    probe::{connect, one, retransmitted, unspecified},
    protocol::{Answer, MonitorKind, MonitorReport, Outcome, Proto, Transition, UdpStyle},
    sctp::Association,
};

/// How long an answer may take before its request counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection may stand still before it counts as broken: longer than what a busy machine
/// does to it, so that slowness is not taken for a loss.
const STALL: Duration = Duration::from_secs(10);

/// As many addresses of a client are kept: a flow has one, and each of many connections another.
const SOURCES: usize = 8;

/// A running client.
pub(super) struct Monitor {
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    report: Mutex<MonitorReport>,
}

impl Monitor {
    /// Opens the socket, for a stream also the connection, and starts.
    pub(super) fn start(
        kind: MonitorKind,
        to: SocketAddr,
        from: Option<SocketAddr>,
        every: Duration,
    ) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let thread = match kind {
            MonitorKind::Connections => {
                thread::spawn(move || connections(to, from, every, &shared))
            }
            MonitorKind::Stream => {
                let stream = connect(to, from, STALL)
                    .with_context(|| format!("connecting a stream to {to}"))?;
                thread::spawn(move || stream_lines(&stream, every, &shared))
            }
            MonitorKind::Association => {
                let association = Association::open(to, from, STALL)
                    .with_context(|| format!("opening an association to {to}"))?;
                thread::spawn(move || messages(association, every, &shared))
            }
            MonitorKind::Ping(style) => {
                let socket = UdpSocket::bind(from.unwrap_or_else(|| unspecified(to)))?;
                if style.is_connected() {
                    socket.connect(to).with_context(|| format!("connecting to {to}"))?;
                }
                thread::spawn(move || ping(&socket, style, to, every, &shared))
            }
        };
        Ok(Self { seen, thread })
    }

    /// What has been seen until now; requests under way count as lost.
    pub(super) fn peek(&self) -> MonitorReport {
        self.seen.report().clone()
    }

    /// Stops sending, waits for the last answers, and reports.
    pub(super) fn end(self) -> MonitorReport {
        self.seen.stop.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        self.seen.report().clone()
    }
}

impl Seen {
    fn report(&self) -> MutexGuard<'_, MonitorReport> {
        self.report.lock().expect("no holder of this lock panics")
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sent(&self) {
        let mut report = self.report();
        report.sent += 1;
        report.lost += 1;
    }

    fn answered(&self, Answer { by, source }: &Answer, last: &mut Instant) {
        let gap = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
        *last = Instant::now();
        let mut report = self.report();
        report.answered += 1;
        report.lost = report.lost.saturating_sub(1);
        report.longest_gap_ms = report.longest_gap_ms.max(gap);
        *report.by.entry(by.clone()).or_default() += 1;
        if report.sources.len() < SOURCES {
            let _ = report.sources.insert(*source);
        }
        transition(&mut report, by);
    }

    fn refused(&self) {
        let mut report = self.report();
        report.refused += 1;
        report.lost = report.lost.saturating_sub(1);
        transition(&mut report, "refused");
    }

    fn broken(&self, why: String) {
        let mut report = self.report();
        transition(&mut report, "broken");
        report.broken.push(why);
    }
}

fn transition(report: &mut MonitorReport, state: &str) {
    if report.last() != Some(state) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        report.transitions.push(Transition { at_ms, state: state.to_owned() });
    }
}

fn connections(to: SocketAddr, from: Option<SocketAddr>, every: Duration, seen: &Seen) {
    let mut last = Instant::now();
    for number in 0_u64.. {
        if seen.stopped() {
            return;
        }
        let begin = Instant::now();
        seen.sent();
        match one(Proto::Tcp, UdpStyle::Connected, to, from, STALL) {
            Outcome::Answered(answer) => seen.answered(&answer, &mut last),
            Outcome::Refused => seen.refused(),
            other @ (Outcome::Timeout
            | Outcome::Unreachable
            | Outcome::Reset
            | Outcome::Failed(_)) => seen.broken(format!("request {number}: {other}")),
        }
        thread::sleep(every.saturating_sub(begin.elapsed()));
    }
}

fn stream_lines(stream: &TcpStream, every: Duration, seen: &Seen) {
    let mut reader = BufReader::new(stream);
    let mut last = Instant::now();
    for number in 0_u64.. {
        if seen.stopped() {
            break;
        }
        seen.sent();
        match line(stream, &mut reader, number) {
            Ok(answer) => seen.answered(&answer, &mut last),
            Err(error) => {
                seen.broken(format!("line {number}: {error}"));
                break;
            }
        }
        thread::sleep(every.saturating_sub(last.elapsed()).min(every));
    }
    seen.report().retransmitted = retransmitted(stream);
}

fn messages(mut association: Association, every: Duration, seen: &Seen) {
    let mut last = Instant::now();
    for number in 0_u64.. {
        if seen.stopped() {
            drop(association.close());
            return;
        }
        seen.sent();
        match association.ask(&number.to_string()).and_then(|text| numbered(&text, number)) {
            Ok(answer) => seen.answered(&answer, &mut last),
            Err(error) => {
                seen.broken(format!("message {number}: {error}"));
                return;
            }
        }
        thread::sleep(every.saturating_sub(last.elapsed()).min(every));
    }
}

fn line(mut to: &TcpStream, from: &mut impl BufRead, number: u64) -> io::Result<Answer> {
    to.write_all(format!("{number}\n").as_bytes())?;
    let mut text = String::new();
    if from.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    numbered(&text, number)
}

/// The answer to request `number`.
fn numbered(text: &str, number: u64) -> io::Result<Answer> {
    let wrong = || io::Error::other(format!("answered {text:?}"));
    let (echo, rest) = text.split_once(' ').ok_or_else(wrong)?;
    if echo.parse() != Ok(number) {
        return Err(wrong());
    }
    Answer::parse(rest).ok_or_else(wrong)
}

fn ping(socket: &UdpSocket, style: UdpStyle, to: SocketAddr, every: Duration, seen: &Seen) {
    let mut waiting = BTreeSet::new();
    let mut last = Instant::now();
    let mut next = Instant::now();
    let mut number = 0_u64;
    let mut until = None;
    loop {
        if seen.stopped() {
            let end = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            if waiting.is_empty() || Instant::now() >= end {
                return;
            }
            next = end;
        } else if Instant::now() >= next {
            number += 1;
            let token = number.to_string();
            let sent = match style.is_connected() {
                true => socket.send(token.as_bytes()),
                false => socket.send_to(token.as_bytes(), to),
            };
            seen.sent();
            match sent {
                Ok(_) => drop(waiting.insert(number)),
                Err(error) => failed(&error, seen),
            }
            next += every;
        }
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_micros(100));
        match receive(socket, to, left) {
            Ok(Some((number, answer))) if waiting.remove(&number) => {
                seen.answered(&answer, &mut last);
            }
            Ok(Some((number, _))) => seen.broken(format!("request {number} answered twice")),
            Ok(None) => {}
            Err(error) => {
                // A refusal does not say which request it is for: the oldest, most likely.
                let _ = waiting.pop_first();
                failed(&error, seen);
            }
        }
    }
}

fn receive(
    socket: &UdpSocket,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<Option<(u64, Answer)>> {
    socket.set_read_timeout(Some(patience))?;
    let mut buffer = [0; 2048];
    let (length, peer) = match socket.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    if peer != to {
        return Err(io::Error::other(format!("answered by {peer}")));
    }
    let text = String::from_utf8_lossy(&buffer[..length]);
    let parsed = text
        .split_once(' ')
        .and_then(|(echo, rest)| Some((echo.parse().ok()?, Answer::parse(rest)?)));
    parsed.map(Some).ok_or_else(|| io::Error::other(format!("answered {text:?}")))
}

fn failed(error: &io::Error, seen: &Seen) {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        seen.refused();
    } else {
        seen.broken(error.to_string());
    }
}
