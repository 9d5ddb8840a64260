//! The process that holds a pod's namespaces, and the parent of its orphans where they share one.

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

/// Waits until told to end, burying dead children meanwhile.
///
/// # Errors
///
/// Signals cannot be waited for.
pub fn pause() -> Result<()> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    // The first process of a pid namespace gets only the signals that it asked for.
    awaited.thread_block().context("blocking signals")?;
    loop {
        if awaited.wait().context("waiting for a signal")? != Signal::SIGCHLD {
            return Ok(());
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(why) => return Err(why).context("waiting for children"),
            }
        }
    }
}
