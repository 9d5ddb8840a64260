//! Waiting for a condition, with a deadline and a reason.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in a lab may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is `Some`; names `what` when the time is up.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begin.elapsed() > patience {
            bail!("waited {patience:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
