//! Log lines on stderr, as text or JSON.
//!
//! stdout is for data: nothing here ever writes there.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogFormat;

/// Starts logging. `RUST_LOG`, where set, overrules `verbosity`.
///
/// A second call in one process changes nothing.
pub fn init(format: LogFormat, verbosity: u8) {
    let level = match verbosity {
        0 => "warn,lb=info,lb_userspace=info,lb_packet=info",
        1 => "info,lb=debug,lb_userspace=debug,lb_packet=info",
        _ => "debug,lb=trace,lb_userspace=trace,lb_packet=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(level));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // Only fails when logging has been started already.
    let _started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
    };
}
