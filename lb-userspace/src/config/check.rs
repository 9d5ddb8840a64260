//! Whether values can be used: one function a kind of value, each of which names the flag in its
//! errors.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    ClusterConfig, ConfigError, SourceConfig, Surroundings,
    proxy::{self, Settings},
};
use crate::nodeport::Selector;

/// Most entries that a map may be asked for: 16 Mi, some GiB of kernel memory.
const MAX_ENTRIES: u32 = 1 << 24;

/// Where objects come from.
pub(super) fn source(
    dir: Option<PathBuf>,
    settings: &Settings,
    around: &Surroundings,
) -> Result<SourceConfig, ConfigError> {
    let error = |value: String, problem: &str| ConfigError {
        flag: "--source".into(),
        value,
        problem: problem.into(),
        allowed: "one of --source DIR, --kubeconfig FILE (or clientConnection.kubeconfig), or \
                  neither in a pod with a service account"
            .into(),
    };
    let server = settings.text("master").map(ToOwned::to_owned);
    match (dir, settings.text("clientConnection.kubeconfig")) {
        (Some(dir), None) => Ok(SourceConfig::Dir(dir)),
        (None, kubeconfig) if kubeconfig.is_some() || server.is_some() || around.in_cluster => {
            let kubeconfig = kubeconfig.map(PathBuf::from);
            Ok(SourceConfig::Cluster(ClusterConfig { kubeconfig, server }))
        }
        (None, _) => Err(error(String::new(), "nothing says where Services come from")),
        (Some(dir), Some(_)) => {
            Err(error(dir.display().to_string(), "given together with --kubeconfig"))
        }
    }
}

/// The name of this node: as given, or the host name; trimmed and in lower case, as the kubelet
/// registers it.
///
/// # Errors
///
/// An empty name or one with characters that no node name has.
pub fn node_name(given: Option<&str>, around: &Surroundings) -> Result<String, ConfigError> {
    let name = given.unwrap_or(&around.hostname).trim().to_lowercase();
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(valid) {
        return Err(ConfigError {
            flag: "--node-name".into(),
            problem: "not a node name".into(),
            value: given.unwrap_or(&around.hostname).to_owned(),
            allowed: "up to 253 of a-z, 0-9, '-' and '.'".into(),
        });
    }
    Ok(name)
}

/// Addresses of this node: as given, or kube-proxy's `bindAddress` where that is one.
pub(super) fn node_ips(
    given: &[String],
    bind_address: Option<&str>,
) -> Result<Vec<IpAddr>, ConfigError> {
    let bind_address = bind_address.and_then(|text| text.parse::<IpAddr>().ok());
    if given.is_empty()
        && let Some(ip) = bind_address
        && !ip.is_unspecified()
    {
        return Ok(vec![ip]);
    }
    let allowed =
        "at most one IPv4 and one IPv6 address of this node, e.g. 192.0.2.10,2001:db8::10";
    let error = |value: &str, problem: &str| ConfigError {
        flag: "--node-ip".into(),
        value: value.into(),
        problem: problem.into(),
        allowed: allowed.into(),
    };
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in given.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let ip: IpAddr = text.parse().map_err(|_parse| error(text, "not an IP address"))?;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(error(text, "not an address that others can reach"));
        }
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            return Err(error(text, "a second address of the same family"));
        }
        ips.push(ip);
    }
    Ok(ips)
}

/// Which local addresses serve NodePorts.
///
/// # Errors
///
/// A word that is neither a keyword nor a CIDR.
pub fn nodeport_addresses(given: &[String]) -> Result<Vec<Selector>, ConfigError> {
    given
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse().map_err(|problem: crate::nodeport::SelectorError| ConfigError {
                flag: "--nodeport-addresses".into(),
                value: text.into(),
                problem: problem.to_string(),
                allowed: "`all`, `primary`, `localhost`, or CIDRs like 192.0.2.0/24,2001:db8::/64"
                    .into(),
            })
        })
        .collect()
}

pub(super) fn globs(flag: &'static str, given: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let valid = |c: char| c.is_ascii_graphic() && c != '/';
    let given: Vec<_> = given.into_iter().filter(|glob| !glob.is_empty()).collect();
    match given.iter().find(|glob| glob.len() > 15 || !glob.chars().all(valid)) {
        Some(glob) => Err(ConfigError {
            flag: flag.into(),
            value: glob.clone(),
            problem: "no device can have such a name".into(),
            allowed: "device names of up to 15 characters, `*` for any text, `?` for one character"
                .into(),
        }),
        None => Ok(given),
    }
}

pub(super) fn snat_ports(text: &str) -> Result<(u16, u16), ConfigError> {
    let error = |problem: &str| ConfigError {
        flag: "--snat-ports".into(),
        value: text.into(),
        problem: problem.into(),
        allowed: "FIRST-LAST with 1024 <= FIRST < LAST <= 65535 and at least 64 ports".into(),
    };
    let (first, last) = text.split_once('-').ok_or_else(|| error("not a range"))?;
    let port = |text: &str| {
        text.trim().parse::<u16>().map_err(|_parse| error(&format!("{text:?} is not a port")))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first < 1024 {
        return Err(error("begins among the well-known ports"));
    }
    match last.checked_sub(first) {
        Some(more) if more >= 63 => Ok((first, more + 1)),
        Some(_) => Err(error("too few ports")),
        None => Err(error("ends before it begins")),
    }
}

pub(super) fn entries(flag: &'static str, n: u32) -> Result<u32, ConfigError> {
    if (64..=MAX_ENTRIES).contains(&n) {
        return Ok(n);
    }
    Err(ConfigError {
        flag: flag.into(),
        value: n.to_string(),
        problem: "out of range".into(),
        allowed: "64 to 16777216".into(),
    })
}

/// A path of which every process means the same file.
///
/// # Errors
///
/// A relative path.
pub fn absolute(flag: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError {
        flag: flag.into(),
        value: path.display().to_string(),
        problem: "not an absolute path".into(),
        allowed: "a path that begins with '/'".into(),
    })
}

/// Where something is served; `None` when nowhere.
pub(super) fn served(
    key: &'static str,
    settings: &Settings,
) -> Result<Option<SocketAddr>, ConfigError> {
    let default = proxy::table::find(key).map_or("", |setting| setting.default);
    // The address that is missing when only an IP address was given, and of the other family when
    // the node is of that.
    let usual: Option<SocketAddr> = default.parse().ok();
    let v6 = settings.text("bindAddress").is_some_and(|ip| ip.contains(':'));
    let text = settings.text(key).unwrap_or(match default {
        "0.0.0.0:10256" if v6 => "[::]:10256",
        default => default,
    });
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    let with_usual_port = || {
        let ip: IpAddr = text.parse().ok()?;
        Some(SocketAddr::new(ip, usual?.port()))
    };
    let at = text.parse().ok().or_else(with_usual_port).ok_or_else(|| ConfigError {
        flag: match key {
            "healthzBindAddress" => "--healthz-bind-address (healthzBindAddress)".into(),
            _ => "--metrics-bind-address (metricsBindAddress)".into(),
        },
        value: text.into(),
        problem: "not an address".into(),
        allowed: "ADDR:PORT like 127.0.0.1:10249 or [::1]:10249, port 0 or `off` for none".into(),
    })?;
    Ok((at.port() != 0).then_some(at))
}

/// Longest time that a flow may be idle: what the low half of the kernel's coarse clock can tell
/// apart at its fastest rate, with a margin.
const LONGEST: Duration = Duration::from_secs(20 * 24 * 3600);
/// Shortest time: entries note their last use in steps of up to 2.56 s.
const SHORTEST: Duration = Duration::from_secs(6);

/// How long a flow may be idle, in seconds.
pub(super) fn lifetime(
    key: &'static str,
    given: Option<Duration>,
    usual: u32,
) -> Result<u32, ConfigError> {
    let Some(time) = given else { return Ok(usual) };
    u32::try_from(time.as_secs()).ok().filter(|_| (SHORTEST..=LONGEST).contains(&time)).ok_or_else(
        || ConfigError {
            flag: key.into(),
            value: format!("{time:?}"),
            problem: "cannot be told by the clock of flow entries".into(),
            allowed: "6s to 480h, or 0 for the usual time".into(),
        },
    )
}
