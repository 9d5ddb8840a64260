//! The worker process: reads requests, answers them.

use std::{
    collections::HashMap,
    io::{self, BufRead, Write},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    capture::Recording,
    dns,
    monitor::Monitor,
    probe,
    protocol::{Proto, Reply, Request},
    serve::{Host, Server},
};
use crate::lab::Family;

#[derive(Default)]
struct State {
    servers: HashMap<(Proto, SocketAddr), Server>,
    monitors: HashMap<u32, Monitor>,
    captures: HashMap<u32, Recording>,
    started: u32,
}

/// Serves requests on standard input until it ends.
pub fn run() -> Result<()> {
    let mut state = State::default();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?)?;
        let reply = state.answer(request).unwrap_or_else(|why| Reply::Error(format!("{why:#}")));
        serde_json::to_writer(&mut out, &reply)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

impl State {
    fn answer(&mut self, request: Request) -> Result<Reply> {
        Ok(match request {
            Request::Serve { proto, at, name } => {
                let server = Server::start(proto, at, &Host::named(&name))
                    .with_context(|| format!("serving {proto} at {at}"))?;
                let _ = self.servers.insert((proto, at), server);
                Reply::Done
            }
            Request::Stop { proto, at } => {
                let server = self.servers.remove(&(proto, at));
                server.with_context(|| format!("nothing serves {proto} at {at}"))?.stop();
                Reply::Done
            }
            Request::Probe { proto, style, to, from, timeout_ms } => Reply::Outcome(probe::one(
                proto,
                style,
                to,
                from,
                Duration::from_millis(timeout_ms),
            )),
            Request::Each { shots, parallel } => Reply::Outcomes(probe::each(&shots, parallel)),
            Request::Many { proto, to, count, parallel, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                Reply::Share(probe::many(proto, to, count, parallel, timeout))
            }
            Request::Bulk { to, octets, timeout_ms } => {
                Reply::Bulk(probe::bulk(to, octets, Duration::from_millis(timeout_ms))?)
            }
            Request::Resolve { server, name, v6, timeout_ms } => {
                let family = if v6 { Family::V6 } else { Family::V4 };
                let timeout = Duration::from_millis(timeout_ms);
                Reply::Addresses(dns::resolve(server, &name, family, timeout)?)
            }
            Request::Send { to, text } => {
                probe::send(to, &text)?;
                Reply::Done
            }
            Request::Monitor { kind, to, from, interval_ms } => {
                let every = Duration::from_millis(interval_ms);
                let monitor = Monitor::start(kind, to, from, every)?;
                let id = self.number();
                let _ = self.monitors.insert(id, monitor);
                Reply::Started(id)
            }
            Request::Peek { id } => {
                Reply::Report(self.monitors.get(&id).context("no such monitor")?.peek())
            }
            Request::End { id } => {
                Reply::Report(self.monitors.remove(&id).context("no such monitor")?.end())
            }
            Request::Capture { device } => {
                let recording = Recording::start(&device)?;
                let id = self.number();
                let _ = self.captures.insert(id, recording);
                Reply::Started(id)
            }
            Request::EndCapture { id } => {
                Reply::Capture(self.captures.remove(&id).context("no such capture")?.end())
            }
        })
    }

    fn number(&mut self) -> u32 {
        self.started += 1;
        self.started
    }
}
