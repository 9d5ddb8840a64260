//! Running programs: output that is wanted, and errors that tell which command failed and what it said.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// What a command wrote to standard output, without the last line break.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let done = attempt(command)?;
    if !done.status.success() {
        bail!(
            "`{}` ended with {}\n{}{}",
            words(command),
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
}

/// Runs a command whose output matters only when it fails.
pub(super) fn quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end, whatever that is.
pub(super) fn attempt(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("starting `{}`", words(command)))
}

/// The command line.
pub(super) fn words(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}
