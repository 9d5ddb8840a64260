//! What settings of kube-proxy mean in our terms, beside the flags that only lb has.

use super::{
    ConfigError, LogFormat, Task, check, nodeport_addresses,
    proxy::{self, Remark, Settings},
};
use crate::{
    cli::args::{RunArgs, Verbosity},
    housekeeper::Lifetimes,
    model::ExternalIps,
    nodeport::Selector,
};

/// The flags that `lb run` and kube-proxy both have, beside those that only kube-proxy has.
pub(super) fn shared_flags(args: &RunArgs) -> proxy::Flags {
    let mut flags = args.proxy.given.clone();
    let mut add = |name: &'static str, value: Option<String>| {
        flags.extend(value.map(|value| (name, vec![value])));
    };
    add("kubeconfig", args.kubeconfig.as_ref().map(|file| file.display().to_string()));
    add("healthz-bind-address", args.healthz_bind_address.clone());
    add("metrics-bind-address", args.metrics_bind_address.clone());
    add("bind-address-hard-fail", args.bind_address_hard_fail.map(|fail| fail.to_string()));
    let level = args.verbose.iter().rev().find_map(|verbosity| match verbosity {
        Verbosity::Level(level) => Some(level.to_string()),
        Verbosity::More(_) => None,
    });
    add("v", level);
    if !args.nodeport_addresses.is_empty() {
        flags.push(("nodeport-addresses", args.nodeport_addresses.clone()));
    }
    flags
}

pub(super) fn nodeport_selectors(settings: &Settings) -> Result<Vec<Selector>, ConfigError> {
    let mut selectors = nodeport_addresses(&settings.words("nodePortAddresses"))?;
    if selectors.is_empty() {
        selectors.push(Selector::All);
    }
    if settings.switch("iptables.localhostNodePorts") == Some(false) {
        selectors.push(Selector::NoLocalhost);
    }
    Ok(selectors)
}

/// The one feature of kube-proxy that has a switch here.
const EXTERNAL_IPS: &str = "AllowServiceExternalIPs";

/// By our own flag, else by kube-proxy's feature gate.
pub(super) fn external_ips(
    given: Option<ExternalIps>,
    settings: &Settings,
    remarks: &mut Vec<Remark>,
) -> ExternalIps {
    let gates = settings.gates("featureGates");
    for (name, on) in gates.iter().filter(|(name, _)| *name != EXTERNAL_IPS) {
        remarks.push(Remark::Note(format!(
            "featureGates {name}={on} changes nothing: this feature of kube-proxy has no switch here"
        )));
    }
    let allowed = gates.iter().find(|(name, _)| *name == EXTERNAL_IPS).map(|(_, on)| *on);
    match (given, allowed) {
        (None, Some(false)) => ExternalIps::Off,
        (Some(given), Some(false)) if given != ExternalIps::Off => {
            remarks.push(Remark::Warning(format!(
                "featureGates {EXTERNAL_IPS}=false changes nothing: --external-ips goes before it"
            )));
            given
        }
        (given, _) => given.unwrap_or_default(),
    }
}

pub(super) fn workload_devices(
    given: Vec<String>,
    settings: &Settings,
) -> Result<Vec<String>, ConfigError> {
    let given = check::globs("--workload-devices", given)?;
    let by_prefix = settings.text("detectLocalMode") == Some("InterfaceNamePrefix");
    match settings.text("detectLocal.interfaceNamePrefix") {
        Some(prefix) if by_prefix && given.is_empty() => {
            check::globs("detectLocal.interfaceNamePrefix", vec![format!("{prefix}*")])
        }
        _ => Ok(given),
    }
}

pub(super) fn lifetimes(settings: &Settings) -> Result<Lifetimes, ConfigError> {
    let usual = Lifetimes::DEFAULT;
    let seconds = |key: &'static str, usual: u32| check::lifetime(key, settings.time(key), usual);
    Ok(Lifetimes {
        established: seconds("conntrack.tcpEstablishedTimeout", usual.established)?,
        half_closed: seconds("conntrack.tcpCloseWaitTimeout", usual.half_closed)?,
        udp_unreplied: seconds("conntrack.udpTimeout", usual.udp_unreplied)?,
        udp_replied: seconds("conntrack.udpStreamTimeout", usual.udp_replied)?,
        ..usual
    })
}

pub(super) fn oom_score_adj(settings: &Settings) -> i32 {
    // The table holds the bounds, which fit.
    settings.number("oomScoreAdj").and_then(|score| i32::try_from(score).ok()).unwrap_or(-999)
}

pub(super) fn log_format(settings: &Settings) -> LogFormat {
    match settings.text("logging.format") {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    }
}

/// Our own scale: by `-v` and `-vv`, or by Kubernetes' numbers, of which 2 is what everybody runs.
pub(super) fn verbosity(given: &[Verbosity], settings: &Settings) -> u8 {
    let more: u8 = given.iter().fold(0, |sum, verbosity| match verbosity {
        Verbosity::More(more) => sum.saturating_add(*more),
        Verbosity::Level(_) => sum,
    });
    let level = match settings.number("logging.verbosity") {
        None | Some(..=3) => 0,
        Some(4 | 5) => 1,
        Some(_) => 2,
    };
    more.max(level)
}

pub(super) fn task(settings: &Settings) -> Task {
    if settings.switch("cleanup") == Some(true) {
        Task::Cleanup
    } else if let Some(file) = settings.text("write-config-to") {
        Task::WriteConfig(file.into())
    } else if settings.switch("init-only") == Some(true) {
        Task::InitOnly
    } else {
        Task::Run
    }
}
