//! What load balancers and operators are told about endpoints on this node follows what is programmed:
//! the health check ports of Services, and how many ports have none here.

use std::collections::BTreeSet;

use lb_common::Family;

use super::Agent;
use crate::{
    model::{Problem, Severity, Subject},
    source::kube::recorder::About,
    telemetry::health_check::{Failure, Places},
};

impl Agent {
    /// Brings the ports to what was programmed, and tries again what could not be served. Until
    /// everything that came is programmed, they tell what was true before.
    pub(super) async fn tell_local_endpoints(&mut self) {
        if !self.checks_due || !self.reconciler.settled() {
            return;
        }
        self.checks_due = false;
        let before: BTreeSet<Failure> = self.health_checks.failures().cloned().collect();
        let model = self.reconciler.model();
        for family in [Family::V4, Family::V6] {
            self.telemetry.no_local_endpoints(family, model.no_local_endpoints(family));
        }
        let selectors = &self.config.nodeport_addresses;
        let places = Places::of(selectors, &self.status.node.nodeport_addresses);
        self.health_checks.follow(model.health_checks(), &places).await;
        let after: BTreeSet<Failure> = self.health_checks.failures().cloned().collect();
        for failure in after.difference(&before) {
            let name = &failure.service;
            let service = self.reconciler.model().service(name);
            let about = About::Service(name.clone(), service.and_then(|it| it.uid.clone()));
            self.note(about, true, "FailedToStartServiceHealthcheck", "Listen", text(failure));
        }
        self.stale |= before != after;
    }

    /// What is wrong with the ports now.
    pub(super) fn health_check_problems(&self) -> Vec<Problem> {
        let problem = |failure: &Failure| Problem {
            severity: Severity::Warning,
            object: Subject::Service(failure.service.clone()),
            file: None,
            reason: text(failure).into(),
        };
        self.health_checks.failures().map(problem).collect()
    }
}

fn text(Failure { at, error, .. }: &Failure) -> String {
    let port = at.port();
    format!("healthCheckNodePort {port} cannot be served at {at}: {error}; it is tried again")
}
