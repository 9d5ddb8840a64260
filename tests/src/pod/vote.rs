//! The page of the vote lab: says which pod answers and which client it saw.
//!
//! Ends in two steps, so that a rolling update loses no request: told to end, it says that it is not
//! ready and goes on serving while nodes learn of it; then it closes.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use crate::worker::{Host, Proto, Server};

/// How it serves.
#[derive(clap::Args, Clone, Debug)]
pub struct Vote {
    /// Port for TCP (HTTP, or lines of text) and UDP
    // No variable: that of a Service `vote` would be found in every pod that starts after it.
    #[arg(long, default_value_t = 80)]
    pub port: u16,
    /// Seconds of serving on after being told to end
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 5)]
    pub drain: u64,
}

/// Serves until told to end.
///
/// # Errors
///
/// The port cannot be had.
pub fn serve(vote: &Vote) -> Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    // Before any thread is started, which inherits it: otherwise one of them would take the signal.
    ends.thread_block().context("blocking signals")?;
    let signals =
        SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).context("asking for signals")?;

    let name = nix::unistd::gethostname().context("reading the host name")?;
    let host = Host::named(&name.to_string_lossy());
    let servers = [Proto::Tcp, Proto::Udp]
        .into_iter()
        .map(|proto| start(proto, vote.port, &host))
        .collect::<Result<Vec<_>>>()?;
    eprintln!("{} serves TCP and UDP on port {}", name.display(), vote.port);

    let _ = signals.read_signal().context("waiting for a signal")?;
    host.leave();
    eprintln!("told to end: serves on for {} s", vote.drain);
    thread::sleep(Duration::from_secs(vote.drain));
    servers.into_iter().for_each(Server::stop);
    Ok(())
}

/// One socket for both families; for IPv4 alone where the kernel has no IPv6.
fn start(proto: Proto, port: u16, host: &std::sync::Arc<Host>) -> Result<Server> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    Server::start(proto, both, host)
        .or_else(|_no_ipv6| Server::start(proto, (Ipv4Addr::UNSPECIFIED, port).into(), host))
        .with_context(|| format!("serving {proto} on port {port}"))
}
