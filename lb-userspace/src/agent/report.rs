//! What the agent says about itself: puts its parts together into one [`Status`].
//!
//! Pure but for reading which links are pinned, which is what really is attached.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, SocketLb},
    datapath::{
        attach::{AttachProblem, CGROUP},
        links::{self, Pinned, XdpFlavour},
        order::Outside,
        wanted,
        xdp::{self, NoXdp},
    },
    devices::{Device, NodeState, shortcut::Shortcut},
    model::{Problem, Severity},
    source::kube::{Class, SourceState},
    status::{
        self, ApiStatus, DeviceStatus, ForwardingStatus, ProblemStatus, ProgramStatus,
        SocketStatus, SourceStatus, WatchStatus, XdpStatus,
    },
};

/// The programs that are attached, by device.
pub(super) type Attached = BTreeMap<String, Vec<ProgramStatus>>;

/// Reads which programs are attached; those of the cgroup stand under [`CGROUP`].
pub(super) fn attached(links_dir: &Path, devices: &[Device], config: &Config) -> Attached {
    let mut attached = Attached::new();
    for pin in links::pins_in(links_dir).unwrap_or_default() {
        let Some((device, place)) = links::pin_parts(&pin) else { continue };
        let program = if device == CGROUP {
            format!("lb_{place}")
        } else {
            devices
                .iter()
                .filter(|known| known.name == device)
                .flat_map(|known| wanted::wanted(known, xdp::flavour(known, config.xdp).ok()))
                .find(|wanted| wanted.place.name() == place)
                .map_or_else(|| place.to_owned(), |wanted| wanted.program.to_owned())
        };
        let mode = match (device.as_str(), place, links::open(&links_dir.join(&pin))) {
            (CGROUP, _, _) => "cgroup",
            (_, "xdp-native", _) => "xdp native",
            (_, "xdp-generic", _) => "xdp generic",
            (_, _, Ok(Pinned::Filter)) => "clsact",
            (_, _, Ok(Pinned::Link(..))) => "tcx",
            (_, _, Err(_)) => "unknown",
        };
        attached.entry(device).or_default().push(ProgramStatus { program, mode: mode.to_owned() });
    }
    attached
}

/// The devices for the status file, sorted by name.
pub(super) fn devices(
    state: &NodeState,
    attached: &Attached,
    xdp: &BTreeMap<u32, Result<XdpFlavour, NoXdp>>,
    problems: &[AttachProblem],
) -> Vec<DeviceStatus> {
    let mut devices: Vec<DeviceStatus> = state
        .devices
        .iter()
        .map(|device| DeviceStatus {
            name: device.name.clone(),
            ifindex: device.ifindex,
            role: device.role.name().to_owned(),
            why: device.why.to_owned(),
            addresses: device.addresses.clone(),
            needed: device.is_needed(),
            programs: attached.get(&device.name).cloned().unwrap_or_default(),
            xdp: xdp.get(&device.ifindex).map(|choice| xdp_status(device, choice)),
            error: errors(problems, &device.name),
        })
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn xdp_status(device: &Device, choice: &Result<XdpFlavour, NoXdp>) -> XdpStatus {
    let mode = |flavour: &XdpFlavour| match flavour {
        XdpFlavour::Native => "native".to_owned(),
        XdpFlavour::Generic => "generic".to_owned(),
    };
    XdpStatus {
        mode: choice.as_ref().ok().map(mode),
        why_not: choice.as_ref().err().map(ToString::to_string),
        transmits: device.transmits,
    }
}

/// How packets for other nodes leave, for the status file.
pub(super) fn forwarding(shortcut: &Shortcut) -> ForwardingStatus {
    let Shortcut { obstacles, source_rules } = shortcut;
    ForwardingStatus {
        redirect: obstacles.is_empty(),
        obstacles: obstacles.iter().map(ToString::to_string).collect(),
        source_rules: *source_rules,
    }
}

/// The socket programs for the status file.
pub(super) fn sockets(
    config: &Config,
    cgroup: Option<PathBuf>,
    attached: &Attached,
    problems: &[AttachProblem],
) -> SocketStatus {
    let mode = match config.socket_lb {
        SocketLb::Host => "host",
        SocketLb::All => "all",
        SocketLb::Off => "off",
    };
    let programs = attached.get(CGROUP).into_iter().flatten();
    SocketStatus {
        mode: mode.to_owned(),
        cgroup,
        programs: programs.map(|program| program.program.clone()).collect(),
        error: errors(problems, CGROUP),
    }
}

/// How the source does, for the status file.
pub(super) fn source(status: &mut SourceStatus, state: &SourceState) {
    let SourceState { server, trouble, well_since, watches, .. } = state;
    let Some(server) = server else { return };
    let seconds = status::seconds;
    let (word, since) = match (trouble, well_since) {
        (Some((trouble, since)), _) => (trouble.class.name(), Some(*since)),
        (None, Some(since)) => ("reachable", Some(*since)),
        (None, None) => ("connecting", None),
    };
    status.error = trouble.as_ref().map(|(trouble, _)| match trouble.class {
        Class::Unreachable | Class::Slow => format!("API server {word}: {}", trouble.text),
        Class::Throttled
        | Class::Failing
        | Class::Untrusted
        | Class::Forbidden
        | Class::Unauthorized => format!("API server: {}", trouble.text),
    });
    status.api = Some(ApiStatus {
        server: server.clone(),
        state: word.to_owned(),
        since: since.map(seconds),
        error: trouble.as_ref().map(|(trouble, _)| trouble.text.clone()),
        heard: state.heard().map(seconds),
    });
    status.watches = watches
        .iter()
        .map(|watch| WatchStatus {
            kind: watch.kind.name().to_owned(),
            synced: watch.listed,
            objects: watch.objects,
            heard: watch.heard.map(seconds),
            error: watch.trouble.as_ref().map(|(trouble, _)| trouble.text.clone()),
        })
        .collect();
}

fn errors(problems: &[AttachProblem], device: &str) -> Option<String> {
    let of_device = problems.iter().filter(|problem| problem.device == device);
    let texts: Vec<String> = of_device.map(|problem| chain(&problem.error)).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Transparent wrappers repeat what they wrap.
        if !text.ends_with(&more) {
            text += ": ";
            text += &more;
        }
        cause = error.source();
    }
    text
}

/// The problems of objects, and of the order of programs, for the status file, sorted.
pub(super) fn problems(problems: &[&Problem], outside: &[Outside]) -> Vec<ProblemStatus> {
    let mut problems: Vec<ProblemStatus> = problems
        .iter()
        .map(|problem| ProblemStatus {
            object: problem.object.to_string(),
            file: problem.file.as_deref().map(Path::to_owned),
            severity: problem.severity.name().to_owned(),
            reason: problem.reason.to_string(),
        })
        .collect();
    problems.extend(outside.iter().map(|outside| ProblemStatus {
        object: format!("device {}", outside.device),
        file: None,
        severity: Severity::Warning.name().to_owned(),
        reason: outside.to_string(),
    }));
    problems.sort();
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_outside_of_ours_is_a_warning_that_names_it() {
        let outside = Outside {
            device: "eth0".into(),
            hook: "tc-in",
            program: "program tap (id 7)".into(),
            reason: "overtaken 5 times within the hour, it came back each time".into(),
        };
        let told = problems(&[], &[outside]);
        assert_eq!(
            (told[0].object.as_str(), told[0].severity.as_str()),
            ("device eth0", "warning")
        );
        assert!(told[0].reason.starts_with("program tap (id 7) sees packets at tc-in"), "{told:?}");
    }
}
