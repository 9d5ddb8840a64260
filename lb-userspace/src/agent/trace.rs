//! `--trace`: what the programs log about each packet, forwarded to the log of the agent.
//!
//! One line a packet, target `lb_packet`. Lines that come faster than they are read are lost by
//! the kernel, never waited for.

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};

/// Starts forwarding the lines of a loaded object.
///
/// # Errors
///
/// When the object does not log, or its ring buffer cannot be watched.
pub(super) fn forward(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let logger = EbpfLogger::init_with_logger(ebpf, Lines)
        .context("the eBPF object has no log: it was built without feature trace")?;
    // SAFETY: the logger owns the ring buffer that it names as its descriptor and never replaces
    // or closes it before it is dropped.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
        .context("watching the log of the programs")?;
    let _task = tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "the log of the programs ends");
                    return;
                }
            }
        }
    });
    Ok(())
}

/// Turns the lines of the programs into events of the agent's log.
struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args();
        match record.level() {
            Level::Error | Level::Warn => tracing::warn!(target: "lb_packet", "{line}"),
            Level::Info | Level::Debug | Level::Trace => {
                tracing::info!(target: "lb_packet", "{line}");
            }
        }
    }

    fn flush(&self) {}
}
