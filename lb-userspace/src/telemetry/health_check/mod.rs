//! The health check ports of Services: for each Service that has one, a small HTTP server that tells
//! load balancers whether this node has endpoints of it.
//!
//! Invariants: what is told is what was programmed last; a check that has ended never answers 200; and
//! a family without an address to listen at listens nowhere.

mod answer;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use lb_common::Family;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::{
    Telemetry,
    http::{self, Handler, Methods},
    listen,
};
use crate::{
    model::{HealthCheck, ObjectName},
    nodeport::{self, Selector},
};

/// At which addresses of one family the ports listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// At all of them, whichever they are.
    Everywhere,
    /// At these.
    At(BTreeSet<IpAddr>),
}

impl Default for Place {
    fn default() -> Self {
        Self::At(BTreeSet::new())
    }
}

/// Where the ports listen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// With IPv4.
    pub v4: Place,
    /// With IPv6.
    pub v6: Place,
}

impl Places {
    /// Where node ports are served; `node_port` are the addresses that these words select now.
    pub fn of(selectors: &[Selector], node_port: &[IpAddr]) -> Self {
        let place = |family: Family| match nodeport::all_of(selectors, family) {
            true => Place::Everywhere,
            false => {
                let of_family = |ip: &&IpAddr| crate::model::family(**ip) == family;
                Place::At(node_port.iter().filter(of_family).copied().collect())
            }
        };
        Self { v4: place(Family::V4), v6: place(Family::V6) }
    }

    fn addresses(&self, family: Family, port: u16) -> Vec<SocketAddr> {
        let (place, wildcard) = match family {
            Family::V4 => (&self.v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => (&self.v6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        match place {
            Place::Everywhere => vec![SocketAddr::new(wildcard, port)],
            Place::At(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
        }
    }
}

/// A port that cannot be served, and is tried again.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Failure {
    /// Whose it is.
    pub service: ObjectName,
    /// Where it should listen.
    pub at: SocketAddr,
    /// What the kernel says.
    pub error: String,
}

type Key = (ObjectName, SocketAddr);

/// All the servers of this node.
#[derive(Debug)]
pub struct HealthChecks {
    telemetry: Telemetry,
    open: BTreeMap<Key, Open>,
    failed: BTreeMap<Key, Failure>,
}

/// One server.
#[derive(Debug)]
struct Open {
    /// What it tells.
    local: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Whoever is being answered at this moment is told that nothing is here.
        self.local.store(0, Ordering::Relaxed);
        self.task.abort();
    }
}

impl HealthChecks {
    /// No server yet. Whether the node is healthy is asked of `telemetry`.
    pub fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, open: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Serves these checks and no others. To be called when what they tell is programmed; what could
    /// not be served is tried again with each call.
    pub async fn follow<'a>(
        &mut self,
        checks: impl IntoIterator<Item = HealthCheck<'a>>,
        places: &Places,
    ) {
        let mut wanted = BTreeMap::new();
        for check in checks {
            for family in [Family::V4, Family::V6] {
                let Some(count) = check.count(family) else { continue };
                for at in places.addresses(family, check.port) {
                    let _same = wanted.insert((check.service.clone(), at), count);
                }
            }
        }
        self.close(|key| !wanted.contains_key(key)).await;
        self.failed.retain(|key, _| wanted.contains_key(key));
        for (key, count) in wanted {
            match self.open.get(&key) {
                Some(open) => open.local.store(count, Ordering::Relaxed),
                None => self.begin(key, count),
            }
        }
    }

    /// What cannot be served now.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failed.values()
    }

    /// How many servers there are.
    pub fn served(&self) -> usize {
        self.open.len()
    }

    /// Closes ports, and every connection to them, before it returns: another may need them now.
    async fn close(&mut self, ended: impl Fn(&Key) -> bool) {
        let keys: Vec<Key> = self.open.keys().filter(|key| ended(key)).cloned().collect();
        for key in keys {
            let Some(mut open) = self.open.remove(&key) else { continue };
            open.local.store(0, Ordering::Relaxed);
            open.task.abort();
            // It was aborted, which is all that it can say.
            let _aborted = (&mut open.task).await.is_err();
            info!(service = %key.0, at = %key.1, "health check closed");
        }
    }

    fn begin(&mut self, key: Key, count: u32) {
        match self.serve(&key, count) {
            Ok(open) => {
                info!(service = %key.0, at = %key.1, "health check served");
                let _none = self.failed.remove(&key);
                let _none = self.open.insert(key, open);
            }
            Err(error) => {
                let (service, at) = key.clone();
                let error = error.to_string();
                let failure = Failure { service, at, error };
                if self.failed.get(&key) == Some(&failure) {
                    debug!(service = %key.0, at = %key.1, error = failure.error, "still not served");
                } else {
                    warn!(
                        service = %key.0, at = %key.1, error = failure.error,
                        "health check cannot be served, trying again"
                    );
                }
                let _before = self.failed.insert(key, failure);
            }
        }
    }

    fn serve(&self, (service, at): &Key, count: u32) -> io::Result<Open> {
        let listener = listen::listen_one_family(*at)?;
        let local = Arc::new(AtomicU32::new(count));
        let (told, telemetry, service) =
            (Arc::clone(&local), self.telemetry.clone(), service.clone());
        let handler: Arc<Handler> = Arc::new(move |_path| {
            let healthy = telemetry.is_healthy(Instant::now());
            answer::answer(&service, told.load(Ordering::Relaxed), healthy)
        });
        let task = tokio::spawn(http::serve(listener, Methods::Any, handler));
        Ok(Open { local, task })
    }
}
