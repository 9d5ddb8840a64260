//! Processes that outlive the program that starts them, known by their number and start time.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// Start time in clock ticks since boot.
    pub(super) start: u64,
}

impl Identity {
    /// The process that has this number now, unless it has ended.
    pub(super) fn of(pid: i32) -> Option<Self> {
        // A child of ours that has ended keeps its number until it is waited for; of others'
        // children this knows nothing, which is right.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in brackets and may hold anything.
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, start })
    }

    /// Whether it still runs.
    pub(super) fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still runs.
    pub(super) fn signal(self, signal: Signal) {
        if self.runs() {
            // It may have ended since the line above, which is as good.
            let _ = kill(Pid::from_raw(self.pid), signal).ok();
        }
    }
}

/// Starts a command whose output goes to a log, and leaves it running.
pub(super) fn start(command: &mut Command, log: &Path) -> Result<Identity> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("opening {}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let pid = i32::try_from(child.id()).context("a process number is an int")?;
    // One that has ended at once is found out by whoever waits for it to be ready.
    Ok(Identity::of(pid).unwrap_or(Identity { pid, start: 0 }))
}

/// The last lines of a log.
pub(super) fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("starting sleep");
        let pid = i32::try_from(child.id()).expect("a process number is an int");
        let identity = Identity::of(pid).expect("it runs");
        assert!(identity.runs());
        assert!(!Identity { start: identity.start + 1, ..identity }.runs());
        identity.signal(Signal::SIGKILL);
        drop(child.wait());
        assert!(!identity.runs());
    }
}
