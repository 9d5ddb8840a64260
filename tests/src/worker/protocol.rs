//! What a worker can be asked, and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// A transport protocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Proto {
    /// TCP; probes make an HTTP request.
    Tcp,
    /// UDP; probes send one datagram and wait for its answer.
    Udp,
    /// SCTP; probes open an association, ask once and shut it down.
    Sctp,
}

impl Proto {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name in Kubernetes objects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a UDP client uses its socket: each style meets other cgroup hooks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum UdpStyle {
    /// `connect`, `send`, `recv`.
    Connected,
    /// `sendto`, `recvfrom`.
    Unconnected,
    /// As connected, with a datagram that needs several fragments.
    Fragmented,
    /// As connected, with options between the IP and the UDP header.
    Options,
}

impl UdpStyle {
    /// Whether the socket is connected.
    pub const fn is_connected(self) -> bool {
        !matches!(self, Self::Unconnected)
    }
}

/// One probe of many.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Shot {
    /// Protocol.
    pub proto: Proto,
    /// How a UDP socket is used.
    pub style: UdpStyle,
    /// Where to.
    pub to: SocketAddr,
    /// From where, if that matters.
    pub from: Option<SocketAddr>,
    /// How long to wait for an answer.
    pub timeout_ms: u64,
}

/// One request to a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Request {
    /// Serve at an address until told to stop, answering with `name`.
    Serve { proto: Proto, at: SocketAddr, name: String },
    /// Stop serving at an address; established connections live on.
    Stop { proto: Proto, at: SocketAddr },
    /// One request, one answer. UDP repeats an unanswered request until the time is up.
    Probe {
        proto: Proto,
        style: UdpStyle,
        to: SocketAddr,
        from: Option<SocketAddr>,
        timeout_ms: u64,
    },
    /// Probes, `parallel` at a time, each by a fresh socket.
    Each { shots: Vec<Shot>, parallel: u32 },
    /// `count` probes, `parallel` at a time, each by a fresh socket.
    Many { proto: Proto, to: SocketAddr, count: u32, parallel: u32, timeout_ms: u64 },
    /// Fetch and send this many octets over one connection.
    Bulk { to: SocketAddr, octets: u64, timeout_ms: u64 },
    /// Ask a DNS server for the addresses of a name.
    Resolve { server: SocketAddr, name: String, v6: bool, timeout_ms: u64 },
    /// Send one datagram and do not wait.
    Send { to: SocketAddr, text: String },
    /// Start a client that never stops.
    Monitor { kind: MonitorKind, to: SocketAddr, from: Option<SocketAddr>, interval_ms: u64 },
    /// What a monitor has seen until now.
    Peek { id: u32 },
    /// Stop a monitor and report.
    End { id: u32 },
    /// Start recording packets on a device.
    Capture { device: String },
    /// Stop recording and report.
    EndCapture { id: u32 },
}

/// One answer of a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Reply {
    Done,
    Outcome(Outcome),
    Outcomes(Vec<Outcome>),
    Share(Share),
    Bulk(Bulk),
    Addresses(Vec<IpAddr>),
    Started(u32),
    Report(MonitorReport),
    Capture(Capture),
    Error(String),
}

/// What a server said.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// Name of the server.
    pub by: String,
    /// Client address that the server saw.
    pub source: SocketAddr,
}

impl Answer {
    /// The text that servers send.
    pub(super) fn text(&self) -> String {
        format!("{} sees {}", self.by, self.source)
    }

    /// Reads [`Self::text`] back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (by, source) = text.trim().split_once(" sees ")?;
        Some(Self { by: by.to_owned(), source: source.parse().ok()? })
    }
}

/// What became of a probe.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Outcome {
    /// A server answered, and the answer came from the address that was asked.
    Answered(Answer),
    /// Refused at once: reset, or port unreachable.
    Refused,
    /// Nothing came back in time.
    Timeout,
    /// No route, or the host, network or protocol was reported unreachable.
    Unreachable,
    /// The connection broke after it had been established.
    Reset,
    /// Anything else, in words.
    Failed(String),
}

impl Outcome {
    /// Name of the server that answered.
    pub fn by(&self) -> Option<&str> {
        if let Self::Answered(answer) = self { Some(&answer.by) } else { None }
    }

    /// Address that the server saw as the client's.
    pub fn source(&self) -> Option<IpAddr> {
        if let Self::Answered(answer) = self { Some(answer.source.ip()) } else { None }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => f.write_str(&answer.text()),
            Self::Refused => f.write_str("refused"),
            Self::Timeout => f.write_str("no answer"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Reset => f.write_str("reset"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// What became of many probes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Share {
    /// Answers by server.
    pub by: BTreeMap<String, u32>,
    /// Answers by the client address that the server saw.
    pub sources: BTreeMap<IpAddr, u32>,
    /// Every probe that was not answered, by what became of it.
    pub failures: Vec<Failure>,
}

/// A kind of failure and how often it happened.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// What became of the probes.
    pub outcome: Outcome,
    /// How many.
    pub count: u32,
}

/// What became of a bulk transfer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bulk {
    /// Octets received, each as expected.
    pub received: u64,
    /// Octets that the server says it received.
    pub sent: u64,
    /// Segments that this side sent more than once.
    pub retransmitted: u32,
}

/// A client that never stops.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum MonitorKind {
    /// A new TCP connection with one HTTP request at every interval, or as soon as the one before
    /// has ended.
    Connections,
    /// One TCP connection, a line sent and answered at every interval.
    Stream,
    /// One SCTP association, a request sent and answered at every interval.
    Association,
    /// One UDP socket, a datagram sent at every interval.
    Ping(UdpStyle),
}

/// What a monitor has seen.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct MonitorReport {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests whose time for an answer is over: sent, not answered, not refused.
    pub lost: u64,
    /// Refusals seen on the socket.
    pub refused: u64,
    /// Answers by server.
    pub by: BTreeMap<String, u64>,
    /// Addresses and ports by which servers knew the client, the first few.
    pub sources: BTreeSet<SocketAddr>,
    /// TCP segments that this side sent more than once.
    pub retransmitted: u32,
    /// Errors that ended the flow; of connections, every one that failed and was not refused.
    pub broken: Vec<String>,
    /// Longest time between two answers, in milliseconds.
    pub longest_gap_ms: u64,
    /// Every change of what the client sees, oldest first.
    pub transitions: Vec<Transition>,
}

impl MonitorReport {
    /// What the client saw last: a server's name, `refused`, or nothing yet.
    pub fn last(&self) -> Option<&str> {
        self.transitions.last().map(|last| last.state.as_str())
    }
}

/// A change of what a monitor sees.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Transition {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// A server's name, or `refused`.
    pub state: String,
}

/// Packets seen on a device.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Capture {
    /// TCP, UDP and SCTP packets, oldest first.
    pub frames: Vec<Frame>,
}

/// One packet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Frame {
    /// Leaves the device, rather than arrives.
    pub out: bool,
    /// IANA protocol number.
    pub proto: u8,
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// TCP flags, the type of the first SCTP chunk, or 0.
    pub flags: u8,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.out { "out" } else { "in" };
        write!(
            f,
            "{way} {} > {} proto {} flags {:#04x}",
            self.from, self.to, self.proto, self.flags
        )
    }
}
