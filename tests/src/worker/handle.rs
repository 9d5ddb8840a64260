//! The lab's end of a worker.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::protocol::{
    Bulk, Capture, MonitorKind, MonitorReport, Outcome, Proto, Reply, Request, Share, Shot,
    UdpStyle,
};
use crate::lab::{Family, Place};

/// A worker process. One request at a time; monitors and servers go on beside them.
pub struct Worker {
    name: String,
    child: Child,
    pipes: Mutex<Pipes>,
}

struct Pipes {
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

/// A running monitor or capture, to be ended by the worker that started it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Running(u32);

impl Worker {
    /// Starts a worker called `name` in `place`; `executable` is the `lb-lab` binary.
    pub fn start(executable: &Path, place: &Place, name: &str) -> Result<Self> {
        let mut child = place
            .command(executable)?
            .args(["worker", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {} for {name}", executable.display()))?;
        let to = child.stdin.take();
        let from = child.stdout.take().expect("standard output is piped");
        let pipes = Mutex::new(Pipes { to, from: BufReader::new(from) });
        Ok(Self { name: name.to_owned(), child, pipes })
    }

    /// The name that its servers answer with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Serves at `at`, answering with the worker's name.
    pub fn serve(&self, proto: Proto, at: SocketAddr) -> Result<()> {
        self.serve_as(proto, at, &self.name)
    }

    /// Serves at `at`, answering with `name`.
    pub fn serve_as(&self, proto: Proto, at: SocketAddr, name: &str) -> Result<()> {
        self.done(Request::Serve { proto, at, name: name.to_owned() })
    }

    /// Stops serving at `at`.
    pub fn stop(&self, proto: Proto, at: SocketAddr) -> Result<()> {
        self.done(Request::Stop { proto, at })
    }

    /// One request to `to`, by a connected socket.
    pub fn probe(&self, proto: Proto, to: SocketAddr) -> Result<Outcome> {
        self.probe_with(proto, UdpStyle::Connected, to, None, Duration::from_secs(2))
    }

    /// One request to `to`, in every detail.
    pub fn probe_with(
        &self,
        proto: Proto,
        style: UdpStyle,
        to: SocketAddr,
        from: Option<SocketAddr>,
        timeout: Duration,
    ) -> Result<Outcome> {
        let request = Request::Probe { proto, style, to, from, timeout_ms: millis(timeout) };
        let Reply::Outcome(outcome) = self.call(request)? else { return self.unexpected() };
        Ok(outcome)
    }

    /// Probes, each by a fresh socket, `parallel` at a time; the outcomes in the order of the shots.
    pub fn each(&self, shots: Vec<Shot>, parallel: u32) -> Result<Vec<Outcome>> {
        let Reply::Outcomes(outcomes) = self.call(Request::Each { shots, parallel })? else {
            return self.unexpected();
        };
        Ok(outcomes)
    }

    /// `count` requests to `to`, each by a fresh socket.
    pub fn many(&self, proto: Proto, to: SocketAddr, count: u32) -> Result<Share> {
        let Reply::Share(share) =
            self.call(Request::Many { proto, to, count, parallel: 4, timeout_ms: 3000 })?
        else {
            return self.unexpected();
        };
        Ok(share)
    }

    /// Sends and fetches `octets` over one TCP connection each.
    pub fn bulk(&self, to: SocketAddr, octets: u64) -> Result<Bulk> {
        let Reply::Bulk(bulk) = self.call(Request::Bulk { to, octets, timeout_ms: 10_000 })? else {
            return self.unexpected();
        };
        Ok(bulk)
    }

    /// Addresses that the DNS server at `server` knows `name` by; none when there is no such name.
    pub fn resolve(&self, server: SocketAddr, name: &str, family: Family) -> Result<Vec<IpAddr>> {
        let name = name.to_owned();
        let request = Request::Resolve { server, name, v6: family == Family::V6, timeout_ms: 3000 };
        let Reply::Addresses(found) = self.call(request)? else { return self.unexpected() };
        Ok(found)
    }

    /// Sends one datagram, waiting for nothing.
    pub fn send(&self, to: SocketAddr, text: &str) -> Result<()> {
        self.done(Request::Send { to, text: text.to_owned() })
    }

    /// Starts a client that never stops.
    pub fn monitor(&self, kind: MonitorKind, to: SocketAddr, every: Duration) -> Result<Running> {
        self.monitor_from(kind, to, None, every)
    }

    /// Starts a client that never stops, from a given address and port.
    pub fn monitor_from(
        &self,
        kind: MonitorKind,
        to: SocketAddr,
        from: Option<SocketAddr>,
        every: Duration,
    ) -> Result<Running> {
        let Reply::Started(id) =
            self.call(Request::Monitor { kind, to, from, interval_ms: millis(every) })?
        else {
            return self.unexpected();
        };
        Ok(Running(id))
    }

    /// What a monitor has seen until now.
    pub fn peek(&self, monitor: Running) -> Result<MonitorReport> {
        self.report(Request::Peek { id: monitor.0 })
    }

    /// Ends a monitor.
    pub fn end(&self, monitor: Running) -> Result<MonitorReport> {
        self.report(Request::End { id: monitor.0 })
    }

    /// Starts recording the packets of a device.
    pub fn capture(&self, device: &str) -> Result<Running> {
        let Reply::Started(id) = self.call(Request::Capture { device: device.to_owned() })? else {
            return self.unexpected();
        };
        Ok(Running(id))
    }

    /// Ends a recording.
    pub fn end_capture(&self, capture: Running) -> Result<Capture> {
        let Reply::Capture(capture) = self.call(Request::EndCapture { id: capture.0 })? else {
            return self.unexpected();
        };
        Ok(capture)
    }

    fn report(&self, request: Request) -> Result<MonitorReport> {
        let Reply::Report(report) = self.call(request)? else { return self.unexpected() };
        Ok(report)
    }

    fn done(&self, request: Request) -> Result<()> {
        let Reply::Done = self.call(request)? else { return self.unexpected() };
        Ok(())
    }

    fn call(&self, request: Request) -> Result<Reply> {
        let what = || format!("asking the worker {} for {request:?}", self.name);
        let reply = self.exchange(&request).with_context(what)?;
        if let Reply::Error(why) = reply { Err(anyhow!(why).context(what())) } else { Ok(reply) }
    }

    fn exchange(&self, request: &Request) -> Result<Reply> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        // A poisoned lock means that another test thread died between a request and its answer.
        let mut pipes = self.pipes.lock().expect("no holder of this lock panics");
        let to = pipes.to.as_mut().context("the worker's input is closed")?;
        to.write_all(line.as_bytes())?;
        line.clear();
        if pipes.from.read_line(&mut line)? == 0 {
            bail!("the worker has ended");
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn unexpected<T>(&self) -> Result<T> {
        bail!("{}: the answer is not to the question", self.name)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker ends by itself when its input does; killing it spares waiting for its threads.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
