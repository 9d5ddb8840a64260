//! Tools of the machine, run inside a namespace of the lab: for what has no netlink code here.

use std::{
    fs::File,
    io::Write,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::netns::Netns;

impl Netns {
    /// Runs `ip` with these words, separated by spaces.
    pub fn ip(&self, words: &str) -> Result<()> {
        self.tool("ip", words, "").map(drop)
    }

    /// Adds these rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.tool("nft", "-f -", rules).map(drop)
    }

    /// Runs a program with these words and this input, and returns what it says.
    pub fn tool(&self, program: &str, words: &str, input: &str) -> Result<String> {
        let what = || format!("{program} {words} in {}", self.name());
        let namespace: File = self.try_clone_fd()?;
        let mut command = Command::new(program);
        let _ = command
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let enter = move || {
            // SAFETY: an async-signal-safe system call on a descriptor that the closure owns.
            match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: `enter` runs between fork and exec: it makes one system call and allocates nothing.
        let _ = unsafe { command.pre_exec(enter) };
        let mut child = command.spawn().with_context(what)?;
        child.stdin.take().context("the input is piped")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output().with_context(what)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {said}{input}", what(), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
