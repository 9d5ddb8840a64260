//! `lb cleanup`: removes what is ours, or with `--kube-proxy` what is kube-proxy's, and says what that was.

use std::{fs, io, path::Path, process::ExitCode};

use super::{FAILED, args::CleanupArgs, print};
use crate::{
    datapath::cleanup::{self, WhileRunning},
    foreign::{self, Mode},
    status,
};

pub(super) fn cleanup(
    args: &CleanupArgs,
    pin_dir: &Path,
    state_dir: &Path,
) -> anyhow::Result<ExitCode> {
    if args.kube_proxy {
        return kube_proxy(args);
    }
    let while_running = if args.force { WhileRunning::Proceed } else { WhileRunning::Refuse };
    let report = cleanup::cleanup(pin_dir, while_running)?;
    match fs::remove_file(status::path(state_dir, pin_dir)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "the status file stays"),
    }
    let _code = print(args.output.format, &report, ToString::to_string)?;
    // Settings of the loopback device are only mentioned; what is left of the pins is a failure.
    let left = report.kept.iter().any(|kept| Path::new(&kept.what).starts_with(pin_dir));
    Ok(if left { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Removes what kube-proxy left in the network namespace of this process.
fn kube_proxy(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Remove };
    if let Some(pid) = foreign::running_kube_proxy()
        && mode == Mode::Remove
        && !args.force
    {
        anyhow::bail!(
            "kube-proxy is running (pid {pid}) and would write its rules again: take it off this node \
             first, or say --force"
        );
    }
    let report = foreign::remove(mode);
    let _code = print(args.output.format, &report, ToString::to_string)?;
    let left = mode == Mode::Remove && report.incomplete();
    Ok(if left { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}
