//! Waiting for a condition, with a deadline and a reason.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a cluster may take for one thing.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// Asks until the answer is `Some`; names `what` when the time is up.
pub(super) fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
