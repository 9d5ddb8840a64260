//! What comes of a pass: maps are written, and what that says is told on.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{Agent, Pass, report};
use crate::{
    model::{Coverage, Problem},
    plan::FAMILIES,
    status::{self, ApplyStatus},
    telemetry::Moment,
};

/// Writes in a batch after which the parsed objects behind them were many.
const MANY: u64 = 10_000;

impl Agent {
    /// Writes what changed, and attaches the programs once there is something to serve.
    pub(super) fn pass(&mut self) {
        let synced = self.reconciler.model().coverage() != Coverage::None;
        let pass = self.reconciler.pass(Instant::now());
        let took = pass.as_ref().map_or(Duration::ZERO, |pass| pass.took);
        for family in FAMILIES {
            if self.reconciler.follows(family) {
                self.waiting.programmed(family, took, Moment::now());
            } else if pass.as_ref().is_some_and(|pass| pass.error.is_some()) {
                self.waiting.failed(family, took);
            }
        }
        if let Some(pass) = pass {
            self.note_pass(pass);
        } else if synced && self.status.last_apply.is_none() {
            // The maps already were what they should be.
            self.status.last_apply = Some(ApplyStatus { at: status::now(), ..Default::default() });
            self.stale = true;
        }
        if synced && !self.attached {
            self.attach();
        }
    }

    fn note_pass(&mut self, Pass { ops, took, applying, left, error }: Pass) {
        if left {
            self.housekeeper.backends_left();
        }
        let writes: u64 = ops.values().sum();
        self.telemetry.metrics().sync_duration.observe(took.as_secs_f64());
        self.telemetry.metrics().note_apply(applying, &ops);
        let counters = &mut self.status.counters;
        counters.applies += 1;
        counters.ops += writes;
        let error = error.map(|error| report::chain(&error));
        match &error {
            None if writes > 0 => info!(writes, ?took, "maps written"),
            None => {}
            Some(error) => {
                counters.apply_errors += 1;
                let _total = self.telemetry.metrics().apply_errors.inc();
                error!(error, writes, "writing the maps failed in part, trying again");
            }
        }
        self.status.last_apply = Some(ApplyStatus {
            at: status::now(),
            ops: usize::try_from(writes).unwrap_or(usize::MAX),
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            error,
        });
        self.note_problems();
        self.stale = true;
        if writes > MANY {
            give_back_memory();
        }
    }

    /// Logs what became wrong, and what no longer is.
    pub(super) fn note_problems(&mut self) {
        let problems: HashSet<Problem> = self.reconciler.problems().into_iter().collect();
        if problems == self.known_problems {
            return;
        }
        for problem in problems.difference(&self.known_problems) {
            let file = problem.file.as_deref().map(|file| file.display().to_string());
            let reason = &*problem.reason;
            warn!(object = %problem.object, file, reason, "wrong");
            self.note_problem(problem);
            self.status.counters.bad_objects += 1;
            let _total = self.telemetry.metrics().bad_objects.inc();
        }
        for problem in self.known_problems.difference(&problems) {
            info!(object = %problem.object, reason = &*problem.reason, "no longer wrong");
        }
        self.known_problems = problems;
        self.stale = true;
    }
}

/// Gives freed memory back to the kernel: parsing a whole cluster takes far more than keeping it,
/// and the allocator would hold on to that for good.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim` takes no pointer and may be called at any time from any thread.
        let _trimmed = unsafe { libc::malloc_trim(0) };
    }
}
