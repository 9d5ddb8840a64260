//! What the planner tells of itself: who holds what, what is different, and what is wrong.

use std::collections::BTreeMap;

use lb_common::FrontendKind;

use super::{
    actual::object_name,
    limits,
    op::{Frontend, ServiceId},
    planner::Planner,
};
use crate::{
    maps::Contents,
    model::{Claim, ObjectName, Problem, Remark, Subject, family},
};

impl Planner {
    /// What the Services in the maps hold, as of now.
    pub fn holders(&self) -> Vec<(Claim, ObjectName)> {
        let held = self.actual.frontends.iter().filter(|(frontend, _)| !frontend.is_marker());
        let holders = held.filter_map(|(frontend, value)| {
            let entry = self.actual.services.get(&ServiceId(value.service))?;
            let Frontend { addr, port, proto } = *frontend;
            let claim = match value.kind == FrontendKind::NodePort as u8 {
                true => Claim::NodePort { family: family(addr), port, proto },
                false => Claim::Vip { addr, port, proto },
            };
            Some((claim, object_name(&entry.info)))
        });
        holders.collect()
    }

    /// In how many entries of each map these contents are not what was written.
    pub fn differences(&self, contents: &Contents) -> BTreeMap<&'static str, usize> {
        let counts = self.actual.differences(contents);
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// What does not fit, and what another Service's VIP hides.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = limits::problems(&self.unfit, &self.limits);
        let hidden: BTreeMap<&Frontend, _> = self.waiters.iter().collect();
        for (frontend, names) in hidden {
            let remark = Remark::warning(format!(
                "{frontend} belongs to another Service on this node: not programmed"
            ));
            let subjects = names.iter().map(|name| Subject::Service(name.clone()));
            problems.extend(subjects.map(|subject| remark.about(subject, None)));
        }
        problems
    }
}
