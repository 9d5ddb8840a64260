//! How much fits into the maps, and the words for what does not.

use std::{borrow::Cow, collections::BTreeMap};

use lb_common::{Family, names};

use super::op::Frontend;
use crate::model::{ObjectName, Problem, Remark, Severity, Subject};

/// Numbers of entries of the maps that the planner fills.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Entries of `LB_SERVICES`.
    pub services: u32,
    /// Entries of each frontend map, markers included.
    pub frontends: u32,
    /// Entries of each backend map; id 0 is never used.
    pub backends: u32,
    /// Entries of `LB_SLOTS`.
    pub slots: u32,
    /// Entries of each map of source ranges.
    pub ranges: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 65_536,
            frontends: 131_072,
            backends: 131_072,
            slots: 262_144,
            ranges: 131_072,
        }
    }
}

/// A map that is too small.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Full {
    Services,
    Frontends4,
    Frontends6,
    Backends,
    Slots,
    Ranges4,
    Ranges6,
}

impl Full {
    /// The map of a frontend.
    pub(super) fn of_frontend(frontend: &Frontend) -> Self {
        match frontend.family() {
            Family::V4 => Self::Frontends4,
            Family::V6 => Self::Frontends6,
        }
    }

    /// The map of the source ranges of a family.
    pub(super) fn of_ranges(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ranges4,
            Family::V6 => Self::Ranges6,
        }
    }

    fn map(self) -> &'static str {
        match self {
            Self::Services => names::LB_SERVICES,
            Self::Frontends4 => names::LB4_FRONTENDS,
            Self::Frontends6 => names::LB6_FRONTENDS,
            Self::Backends => names::LB4_BACKENDS,
            Self::Slots => names::LB_SLOTS,
            Self::Ranges4 => names::LB4_RANGES,
            Self::Ranges6 => names::LB6_RANGES,
        }
    }

    fn entries(self, limits: &Limits) -> u32 {
        match self {
            Self::Services => limits.services,
            Self::Frontends4 | Self::Frontends6 => limits.frontends,
            Self::Backends => limits.backends,
            Self::Slots => limits.slots,
            Self::Ranges4 | Self::Ranges6 => limits.ranges,
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Services => "--max-services",
            // The source ranges are sized after the frontends.
            Self::Frontends4 | Self::Frontends6 | Self::Ranges4 | Self::Ranges6 => {
                "--max-frontends"
            }
            // The slots are sized after the backends.
            Self::Backends | Self::Slots => "--max-backends",
        }
    }
}

/// One problem for each map that is too small, and one for each Service that is closed by that.
pub(super) fn problems(unfit: &BTreeMap<ObjectName, Full>, limits: &Limits) -> Vec<Problem> {
    let mut by_map: BTreeMap<Full, Vec<&ObjectName>> = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, full) in unfit {
        match full {
            Full::Ranges4 | Full::Ranges6 => problems.push(closed(name, *full, limits)),
            Full::Services | Full::Frontends4 | Full::Frontends6 | Full::Backends | Full::Slots => {
                by_map.entry(*full).or_default().push(name)
            }
        }
    }
    let problem = |(full, services): (Full, Vec<&ObjectName>)| {
        let others = match services.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        Problem {
            severity: Severity::Warning,
            object: Subject::Map(full.map()),
            file: None,
            reason: Cow::Owned(format!(
                "full ({} entries): Service {}{others} not programmed as a whole; start the agent with a larger {}",
                full.entries(limits),
                services[0],
                full.flag(),
            )),
        }
    };
    problems.extend(by_map.into_iter().map(problem));
    problems
}

/// A Service whose source ranges do not fit.
fn closed(name: &ObjectName, full: Full, limits: &Limits) -> Problem {
    Remark::warning(format!(
        "its source ranges do not fit into map {} ({} entries): nobody may use its load \
         balancer's addresses; start the agent with a larger {}",
        full.map(),
        full.entries(limits),
        full.flag(),
    ))
    .about(Subject::Service(name.clone()), None)
}
