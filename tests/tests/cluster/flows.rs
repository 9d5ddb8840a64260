//! Traffic that goes on while something happens to the cluster, and must not notice.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    lab::until,
    worker::{MonitorKind, MonitorReport, Running, Worker},
};

use crate::stage::SOON;

/// Clients that are at it.
#[derive(Default)]
pub(crate) struct Flows<'a> {
    flows: Vec<Flow<'a>>,
}

struct Flow<'a> {
    what: String,
    client: &'a Worker,
    running: Running,
}

impl<'a> Flows<'a> {
    /// Adds a client that sends every `every`.
    pub(crate) fn add(
        &mut self,
        client: &'a Worker,
        kind: MonitorKind,
        to: SocketAddr,
        every: Duration,
    ) -> Result<()> {
        let what = format!("{} to {to} {kind:?}", client.name());
        let running = client.monitor(kind, to, every).with_context(|| what.clone())?;
        self.flows.push(Flow { what, client, running });
        Ok(())
    }

    /// Waits until each client had this many answers more.
    pub(crate) fn progress(&self, answers: u64) -> Result<()> {
        for Flow { what, client, running } in &self.flows {
            let begin = client.peek(*running)?.answered;
            until(&format!("{answers} answers more: {what}"), SOON, || {
                let report = client.peek(*running)?;
                ensure!(report.broken.is_empty(), "{what}: {:?}", report.broken);
                Ok((report.answered >= begin + answers).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Lets the clients go on for this long, watching that all of them get answers all the time.
    pub(crate) fn go_on(&self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.progress(5)?;
        }
        Ok(())
    }

    /// Ends all clients. Nothing was lost, refused, reset, or answered wrongly. Returns the reports.
    pub(crate) fn end(self) -> Result<Vec<MonitorReport>> {
        let mut reports = Vec::new();
        let mut wrong = Vec::new();
        for Flow { what, client, running } in self.flows {
            let report = client.end(running)?;
            if report.answered == 0 || report.lost + report.refused > 0 || !report.broken.is_empty()
            {
                let MonitorReport { sent, answered, lost, refused, broken, .. } = &report;
                let broken = &broken[..broken.len().min(5)];
                wrong.push(format!(
                    "{what}: {sent} sent, {answered} answered, {lost} lost, {refused} refused, \
                     longest gap {} ms, {broken:?}, seen {:?}",
                    report.longest_gap_ms, report.transitions
                ));
            }
            reports.push(report);
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(reports)
    }
}

/// Adds up what clients saw, for the log.
pub(crate) fn sum(reports: &[MonitorReport]) -> String {
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    let gap = reports.iter().map(|report| report.longest_gap_ms).max().unwrap_or_default();
    let again: u32 = reports.iter().map(|report| report.retransmitted).sum();
    format!(
        "{} clients, {answered} answers, none lost; longest gap {gap} ms, {again} segments sent again",
        reports.len()
    )
}
