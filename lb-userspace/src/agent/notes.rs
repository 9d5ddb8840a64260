//! What the agent tells as events, on the Service or on the Node.

use std::time::Duration;

use super::Agent;
use crate::{
    model::{Problem, Severity, Subject},
    source::kube::recorder::{About, Note},
    telemetry::listen::BindFailure,
};

/// How long the end of the agent waits for its last event.
const PATIENCE: Duration = Duration::from_secs(2);

impl Agent {
    /// The agent starts.
    pub(super) fn note_start(&self) {
        let version = env!("CARGO_PKG_VERSION");
        self.note(About::Node, false, "Starting", "StartLb", format!("lb {version} starts"));
    }

    /// Something is wrong that an operator can do something about.
    pub(super) fn note_problem(&self, problem: &Problem) {
        if problem.severity != Severity::Warning {
            return;
        }
        let text = problem.reason.to_string();
        match &problem.object {
            Subject::Service(name) => {
                let service = self.reconciler.model().service(name);
                let uid = service.and_then(|service| service.uid.clone());
                let about = About::Service(name.clone(), uid);
                self.note(about, true, "NotProgrammed", "Programming", text);
            }
            Subject::Map(map) => {
                let text = format!("map {map}: {text}");
                self.note(About::Node, true, "MapFull", "Programming", text);
            }
            Subject::File(_) | Subject::Document(_) | Subject::Slice(_) | Subject::Source(_) => {}
        }
    }

    /// The agent is about to end because it cannot serve an address.
    pub(super) async fn note_failure(&self, failure: &BindFailure) {
        let text = super::report::chain(failure);
        self.note(About::Node, true, failure.event, "StartLb", text);
        if let Some(recorder) = &self.recorder {
            recorder.flush(PATIENCE).await;
        }
    }

    pub(super) fn note(
        &self,
        about: About,
        warning: bool,
        reason: &'static str,
        action: &'static str,
        text: String,
    ) {
        if let Some(recorder) = &self.recorder {
            recorder.note(Note { about, warning, reason, action, text });
        }
    }
}
