//! Looking for other Service proxies again and again, for the log and the status.
//!
//! Invariant: only looks. That rules are gone is noticed too, so that what `lb status` says ends with
//! the migration.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tracing::{info, warn};

use super::{Finding, detect};

/// How long rules may come and go unnoticed. Nothing depends on it but what people read.
const PAUSE: Duration = Duration::from_secs(60);

/// What was found last.
#[derive(Clone, Debug)]
pub struct Watch {
    found: Arc<Mutex<Vec<Finding>>>,
}

impl Watch {
    /// Looks once, says what was found, and goes on looking in the background.
    ///
    /// # Errors
    ///
    /// The thread that looks cannot be started.
    pub fn start() -> io::Result<Self> {
        let found = detect();
        tell(&[], &found);
        let watch = Self { found: Arc::new(Mutex::new(found)) };
        let again = watch.clone();
        let _thread = thread::Builder::new().name("lb-foreign".to_owned()).spawn(move || {
            loop {
                thread::sleep(PAUSE);
                let found = detect();
                let before = std::mem::replace(&mut *again.lock(), found.clone());
                tell(&before, &found);
            }
        })?;
        Ok(watch)
    }

    /// What was found last, in words.
    pub fn texts(&self) -> Vec<String> {
        self.lock().iter().map(ToString::to_string).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Finding>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line, when there is news. How many chains there are changes with every Service and is none.
fn tell(before: &[Finding], found: &[Finding]) {
    let kinds = |findings: &[Finding]| findings.iter().map(Finding::kind).collect::<Vec<_>>();
    if kinds(before) == kinds(found) {
        return;
    }
    if found.is_empty() {
        info!("no other Service proxy is on this node any more");
        return;
    }
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    warn!(
        found = found.join("; "),
        "another Service proxy is on this node: lb serves new connections first, and leaves the \
         others' alone; `lb cleanup --kube-proxy` removes what kube-proxy left"
    );
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Backend, Family},
        *,
    };

    #[test]
    fn more_chains_are_no_news() {
        let with = |chains| Finding::Iptables { backend: Backend::Nft, family: Family::V4, chains };
        assert_eq!(with(3).kind(), with(400).kind());
        assert_ne!(with(3).kind(), Finding::Nftables { family: Family::V4, chains: 3 }.kind());
    }
}
