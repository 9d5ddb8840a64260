//! When a node is healthy, in kube-proxy's sense: nothing that should be programmed waits too long.
//!
//! Pure: instants are parameters. Idleness never makes a node unhealthy; a change that waits does,
//! whether its write fails, hangs or never begins.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use lb_common::Family;
use serde::Serialize;

/// One point in time, on the clock that measures and on the clock that is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// For differences.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// Whether new connections should be sent to this node, as its Node object says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Eligibility {
    /// Nobody has told yet, or there is no cluster to tell: nothing speaks against this node.
    #[default]
    Unknown,
    /// The Node is there and stays.
    Eligible,
    /// There is no Node of this name.
    Missing,
    /// The Node is being deleted.
    Deleting,
    /// The cluster autoscaler is about to delete the Node.
    Tainted,
}

/// The taint by which the cluster autoscaler announces that a node goes away, whatever its effect.
pub const DELETION_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl Eligibility {
    /// What a Node that exists says, by whether it has a deletion timestamp and by its taints' keys.
    pub fn of<'a>(deleting: bool, taints: impl IntoIterator<Item = &'a str>) -> Self {
        if deleting {
            Self::Deleting
        } else if taints.into_iter().any(|key| key == DELETION_TAINT) {
            Self::Tainted
        } else {
            Self::Eligible
        }
    }

    /// Whether load balancers should send new connections here.
    pub fn is_eligible(self) -> bool {
        matches!(self, Self::Unknown | Self::Eligible)
    }

    /// Why not, or why so, for logs and `lb status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Eligible => "eligible",
            Self::Missing => "no Node of this name",
            Self::Deleting => "the Node is being deleted",
            Self::Tainted => "the cluster autoscaler is about to delete the Node",
        }
    }
}

/// What is known about programming and about the Node.
#[derive(Clone, Debug)]
pub struct Health {
    /// How long a change may wait.
    patience: Duration,
    v4: Progress,
    v6: Progress,
    /// Whether the maps hold what an earlier agent programmed.
    adopted: bool,
    eligibility: Eligibility,
}

/// How far one family is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The oldest and the newest change that is not known to be programmed.
    waiting: Option<(Instant, Instant)>,
    /// When everything was programmed last.
    updated: Option<Moment>,
}

/// What `/healthz` and `/livez` answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Now while healthy, as older dashboards expect; else when the unhealthy family was programmed.
    pub last_updated: String,
    /// Now.
    pub current_time: String,
    /// Whether the Node stays; not in `/livez`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    /// Whether programming keeps up.
    pub healthy: bool,
    /// The families that have something to program.
    pub status: BTreeMap<&'static str, FamilyAnswer>,
    /// Whether the status code is 200.
    #[serde(skip)]
    pub ok: bool,
}

/// What is said of one family.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyAnswer {
    /// Now while healthy; else when it was programmed last.
    pub last_updated: String,
    /// Whether nothing waits for too long.
    pub healthy: bool,
}

impl Health {
    /// Nothing programmed yet, nothing waiting. A change may wait twice the sync period.
    pub fn new(sync_period: Duration) -> Self {
        Self {
            patience: sync_period * 2,
            v4: Progress::default(),
            v6: Progress::default(),
            adopted: false,
            eligibility: Eligibility::Unknown,
        }
    }

    /// What an earlier agent programmed is in the maps and goes on serving.
    pub fn adopted(&mut self) {
        self.adopted = true;
    }

    /// A change came that this family's maps must follow.
    pub fn change_queued(&mut self, family: Family, at: Instant) {
        let waiting = &mut self.progress(family).waiting;
        *waiting = Some(waiting.map_or((at, at), |(old, new)| (old.min(at), new.max(at))));
    }

    /// Every change that came until `covers` is programmed, as of `at`.
    pub fn sync_done(&mut self, family: Family, covers: Instant, at: Moment) {
        let progress = self.progress(family);
        progress.updated = Some(at);
        progress.waiting = progress
            .waiting
            .filter(|(_, newest)| *newest > covers)
            .map(|(oldest, newest)| (oldest.max(covers), newest));
    }

    /// What the Node says. Returns whether this is news.
    pub fn node_eligibility(&mut self, eligibility: Eligibility) -> bool {
        std::mem::replace(&mut self.eligibility, eligibility) != eligibility
    }

    /// Whether nothing waits for too long: what a Service's health check node port reports too.
    pub fn is_healthy(&self, now: Instant) -> bool {
        [&self.v4, &self.v6].into_iter().all(|progress| !self.is_late(progress, now))
    }

    /// Whether connections can be served: this agent or the one before it has programmed the maps.
    pub fn is_programmed(&self) -> bool {
        self.adopted || self.v4.updated.is_some() || self.v6.updated.is_some()
    }

    /// The answer to `/healthz`: may load balancers send connections to this node?
    pub fn healthz(&self, now: Moment) -> Answer {
        let eligible = self.eligibility.is_eligible();
        let answer = self.answer(now, self.is_healthy(now.instant) && self.is_programmed());
        Answer { ok: answer.healthy && eligible, node_eligible: Some(eligible), ..answer }
    }

    /// The answer to `/livez`: would a restart help? Waiting for the cluster is no reason.
    pub fn livez(&self, now: Moment) -> Answer {
        self.answer(now, self.is_healthy(now.instant))
    }

    fn answer(&self, now: Moment, healthy: bool) -> Answer {
        let mut late = None;
        let mut status = BTreeMap::new();
        for (family, progress) in [(Family::V4, &self.v4), (Family::V6, &self.v6)] {
            if progress.waiting.is_none() && progress.updated.is_none() {
                continue;
            }
            let healthy = !self.is_late(progress, now.instant);
            let updated = progress.updated.map(|at| at.wall);
            if !healthy {
                late = Some(late.map_or(updated, |other: Option<SystemTime>| other.min(updated)));
            }
            let shown = if healthy { Some(now.wall) } else { updated };
            let last_updated = timestamp(shown);
            let _none = status.insert(name(family), FamilyAnswer { last_updated, healthy });
        }
        let last_updated = timestamp(if healthy { Some(now.wall) } else { late.flatten() });
        let current_time = timestamp(Some(now.wall));
        Answer { last_updated, current_time, node_eligible: None, healthy, status, ok: healthy }
    }

    fn is_late(&self, progress: &Progress, now: Instant) -> bool {
        progress
            .waiting
            .is_some_and(|(oldest, _)| now.saturating_duration_since(oldest) > self.patience)
    }

    fn progress(&mut self, family: Family) -> &mut Progress {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The name of a family in answers and metrics, which is Kubernetes' own.
pub const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// RFC 3339, as Go writes it; the zero of Go's clock for what never happened.
fn timestamp(at: Option<SystemTime>) -> String {
    at.and_then(|at| jiff::Timestamp::try_from(at).ok())
        .map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests;
