//! The command line: what people type, and what they are shown.
//!
//! Data goes to stdout and logs to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.

pub mod args;
pub mod backends;
mod cleanup;
pub mod describe;
pub mod dump;
pub mod flows;
pub mod ops;
mod plan;

mod read;
mod run;
#[cfg(test)]
mod sample;
pub mod service_ref;
pub mod services;
pub mod snapshot;
pub mod status;
pub mod table;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use serde::Serialize;

use self::{
    args::{Cli, Command, Format, ServicesCommand},
    flows::Query,
};
use crate::{
    config::{self, ConfigError, LogFormat, Surroundings},
    telemetry::logs,
};

pub use self::read::usage;

/// Exit code of what was done but shows that something is wrong.
const FAILED: u8 = 1;
/// Exit code of a command line that cannot be carried out.
const USAGE: u8 = 2;

/// Does what the command line says.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when even this cannot be printed.
            let _printed = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            if is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            let code = if error.is::<ConfigError>() { USAGE } else { FAILED };
            let _printed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { pin_dir, state_dir, command } = cli;
    let pin_dir = config::absolute("--pin-dir", pin_dir)?;
    let state_dir = config::absolute("--state-dir", state_dir)?;
    if !matches!(command, Command::Run(_)) {
        logs::init(LogFormat::Text, 0);
    }
    match command {
        Command::Run(args) => run::run(*args, pin_dir, state_dir),
        Command::Plan(args) => plan::plan(&args, &pin_dir),
        Command::Status(args) => {
            let report = read::report(&pin_dir, &state_dir);
            let _code = print(args.output.format, &report, |report| {
                status::text(report, crate::status::now())
            })?;
            Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
        Command::Services(args) => services(args, &pin_dir),
        Command::Backends(args) => {
            let snapshot = read::services(&pin_dir)?;
            let only = args.service.map(|name| service_ref::find(&snapshot, &name)).transpose()?;
            let rows = backends::rows(&snapshot, only.as_ref());
            print(args.output.format, &rows, |rows| backends::table(rows))
        }
        Command::Flows(args) => {
            let snapshot = read::everything(&pin_dir)?;
            let service =
                args.service.map(|name| service_ref::find(&snapshot, &name)).transpose()?;
            let query = Query {
                service,
                family: args.family,
                limit: args.limit,
                xdp: read::has_xdp(&pin_dir),
                clock: read::clock(),
            };
            let flows = flows::select(&snapshot, &query);
            print(args.output.format, &flows, flows::table)
        }
        Command::Dump(args) => {
            let snapshot = read::everything(&pin_dir)?;
            print(args.output.format, &dump::dump(&snapshot, read::clock()), dump::text)
        }
        Command::Cleanup(args) => cleanup::cleanup(&args, &pin_dir, &state_dir),
    }
}

fn services(args: args::ServicesArgs, pin_dir: &Path) -> anyhow::Result<ExitCode> {
    let snapshot = read::services(pin_dir)?;
    match args.command {
        None => print(args.output.format, &services::rows(&snapshot), |rows| services::table(rows)),
        Some(ServicesCommand::List { output }) => {
            print(output.format, &services::rows(&snapshot), |rows| services::table(rows))
        }
        Some(ServicesCommand::Describe { name, bpftool, output }) => {
            let service = service_ref::find(&snapshot, &name)?;
            let description = describe::describe(&snapshot, &service, &read::maps_dir(pin_dir));
            print(output.format, &description, |description| describe::text(description, bpftool))
        }
    }
}

/// Prints data to stdout, in the form that was asked for.
fn print<T: Serialize>(
    format: Format,
    data: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    let text = match format {
        Format::Table => text(data),
        Format::Json => serde_json::to_string_pretty(data).context("encoding JSON")? + "\n",
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("writing to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the reader of our output went away, which is its right.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What the configuration takes from the machine.
fn surroundings() -> Surroundings {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Surroundings {
        hostname: hostname.trim().to_owned(),
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
    }
}
