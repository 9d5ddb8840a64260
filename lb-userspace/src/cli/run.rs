//! `lb run`: from flags to a running agent.

use std::{path::PathBuf, process::ExitCode};

use super::{args::RunArgs, surroundings};
use crate::{agent, config::Config, telemetry::logs};

pub(super) fn run(args: RunArgs, pin_dir: PathBuf, state_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let config = Config::new(args, pin_dir, state_dir, &surroundings())?;
    logs::init(config.log_format, config.verbosity);
    agent::run(config)?;
    Ok(ExitCode::SUCCESS)
}
