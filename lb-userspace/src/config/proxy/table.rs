//! Every field of `KubeProxyConfiguration` and every flag of kube-proxy: what kind of value it has,
//! and what becomes of it here.
//!
//! The one table behind the decoder, the flags of `lb run`, `/configz`, `--write-config-to` and
//! `docs/kube-proxy-flags.md`, which a test compares with it.

use super::kind::Kind;

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Treatment {
    /// It does what it does in kube-proxy, or its equivalent.
    Honoured,
    /// It changes nothing; a log line says so where it is set.
    Ignored,
    /// It cannot be had, and going on without it would break what it is set for: the agent says
    /// so and does not start.
    Refused,
}

impl Treatment {
    /// The word in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}

/// Who defines the flag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flag {
    /// There is none.
    None,
    /// One that only kube-proxy has; ignored beside `--config`.
    Compat(&'static str),
    /// One that only kube-proxy has, and that counts beside `--config` too.
    Always(&'static str),
    /// One that `lb run` has anyway; ignored beside `--config`.
    Shared(&'static str),
    /// One that `lb run` has anyway, and that counts beside `--config` too.
    SharedAlways(&'static str),
}

impl Flag {
    /// Its name, without dashes.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Compat(name)
            | Self::Always(name)
            | Self::Shared(name)
            | Self::SharedAlways(name) => Some(name),
        }
    }

    /// Whether it counts beside `--config`.
    pub const fn beside_config(self) -> bool {
        matches!(self, Self::Always(_) | Self::SharedAlways(_))
    }

    /// Whether it is defined for kube-proxy's sake.
    pub const fn is_compat(self) -> bool {
        matches!(self, Self::Compat(_) | Self::Always(_))
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The path of the field; empty when there is only a flag.
    pub field: &'static str,
    /// The flag.
    pub flag: Flag,
    /// What value it has.
    pub kind: Kind,
    /// The value when it is not set, as it would be typed.
    pub default: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// What it does here, or why it does nothing.
    pub note: &'static str,
}

impl Setting {
    /// The name by which it is looked up and reported: the field, or the flag.
    pub fn key(&self) -> &'static str {
        match self.flag.name() {
            Some(flag) if self.field.is_empty() => flag,
            _ => self.field,
        }
    }
}

/// The setting of this key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key() == key)
}

const fn row(
    field: &'static str,
    flag: Flag,
    kind: Kind,
    default: &'static str,
    treatment: Treatment,
    note: &'static str,
) -> Setting {
    Setting { field, flag, kind, default, treatment, note }
}

use Flag::{Always, Compat, Shared, SharedAlways};
use Treatment::{Honoured, Ignored, Refused};

const MASQUERADE_ALL: &str = "backends see the client's address; traffic is given this node's address only \
    where the answer would not come back through this node otherwise";
const IPVS: &str = "there are no IPVS servers";
const MARK: &str = "packets are not marked";
const AT_ONCE: &str = "changes are written as they come, those of 2 ms together; the cost of a change does \
    not depend on the number of Services";
const SYNC: &str = "twice this time is how long a change may wait before /healthz fails";
const WINDOWS: &str = "for Windows";
const CLIENT: &str = "three watches and their listings are all that is asked of the API server";
const LOCAL: &str = "pods are told by their devices (--workload-devices)";
const FLOWS: &str = "connections are tracked in lb's own maps, whose size is --max-flows; \
    the kernel's own tracking is left as it is";
const UNBUFFERED: &str = "each log line is written at once, to stderr";

/// All settings, in the order of the documentation.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("", SharedAlways("config"), Kind::Text, "", Honoured,
        "file with the fields below; when it changes, the agent ends so that its restart reads it"),
    row("", Always("master"), Kind::Text, "", Honoured,
        "URL of the API server, instead of what the kubeconfig or the pod's environment says"),
    row("", Always("write-config-to"), Kind::Text, "", Honoured,
        "writes the configuration in effect to this file and ends"),
    row("", Always("init-only"), Kind::Bool, "false", Honoured,
        "checks the configuration and ends: nothing has to be prepared with more privileges"),
    row("", Always("cleanup"), Kind::Bool, "false", Honoured, "does what `lb cleanup` does and ends"),
    row("", SharedAlways("version"), Kind::Bool, "false", Honoured, "prints the version of lb and ends"),
    row("", Compat("healthz-port"), Kind::int(0, 65535), "10256", Ignored,
        "obsolete: --healthz-bind-address names the port"),
    row("", Compat("metrics-port"), Kind::int(0, 65535), "10249", Ignored,
        "obsolete: --metrics-bind-address names the port"),
    row("clientConnection.kubeconfig", Shared("kubeconfig"), Kind::Text, "", Honoured,
        "names the cluster and the credentials; without it, the pod's service account"),
    row("clientConnection.qps", Compat("kube-api-qps"), Kind::Number, "5", Ignored, CLIENT),
    row("clientConnection.burst", Compat("kube-api-burst"), Kind::Number, "10", Ignored, CLIENT),
    row("clientConnection.contentType", Compat("kube-api-content-type"), Kind::Text,
        "application/vnd.kubernetes.protobuf", Ignored, "JSON is spoken"),
    row("clientConnection.acceptContentTypes", Flag::None, Kind::Text, "", Ignored, "JSON is spoken"),
    row("hostnameOverride", Always("hostname-override"), Kind::Text, "", Honoured,
        "name of this node, trimmed and in lower case (--node-name goes before it)"),
    row("bindAddress", Compat("bind-address"), Kind::Ip, "0.0.0.0", Honoured,
        "address of this node, where it is none of 0.0.0.0 and :: (--node-ip goes before it)"),
    row("healthzBindAddress", Shared("healthz-bind-address"), Kind::Served, "0.0.0.0:10256", Honoured,
        "where /healthz and /livez are served"),
    row("metricsBindAddress", Shared("metrics-bind-address"), Kind::Served, "127.0.0.1:10249", Honoured,
        "where /metrics, /proxyMode and /configz are served"),
    row("bindAddressHardFail", Shared("bind-address-hard-fail"), Kind::Bool, "false", Honoured,
        "an address that cannot be served ends the agent"),
    row("enableProfiling", Compat("profiling"), Kind::Bool, "false", Ignored,
        "profiling is not offered over HTTP: `perf` sees the agent, and `bpftool prog` the programs"),
    row("showHiddenMetricsForVersion", Compat("show-hidden-metrics-for-version"), Kind::Text, "", Ignored,
        "no metrics are hidden"),
    row("mode", Compat("proxy-mode"), Kind::Choice(&["", "iptables", "ipvs", "nftables"]), "", Ignored,
        "there is one mode, \"ebpf\""),
    row("iptables.masqueradeBit", Compat("iptables-masquerade-bit"), Kind::int(0, 31), "14", Ignored, MARK),
    row("iptables.masqueradeAll", Compat("masquerade-all"), Kind::Bool, "false", Refused, MASQUERADE_ALL),
    row("iptables.localhostNodePorts", Compat("iptables-localhost-nodeports"), Kind::Bool, "true", Honoured,
        "when false, NodePorts are served on no loopback address, of neither family"),
    row("iptables.syncPeriod", Compat("iptables-sync-period"), Kind::Period, "30s", Honoured, SYNC),
    row("iptables.minSyncPeriod", Compat("iptables-min-sync-period"), Kind::Duration, "1s", Ignored, AT_ONCE),
    row("nftables.masqueradeBit", Flag::None, Kind::int(0, 31), "14", Ignored, MARK),
    row("nftables.masqueradeAll", Flag::None, Kind::Bool, "false", Refused, MASQUERADE_ALL),
    row("nftables.syncPeriod", Flag::None, Kind::Period, "30s", Honoured, "as iptables.syncPeriod, with mode nftables"),
    row("nftables.minSyncPeriod", Flag::None, Kind::Duration, "1s", Ignored, AT_ONCE),
    row("ipvs.syncPeriod", Compat("ipvs-sync-period"), Kind::Period, "30s", Honoured, "as iptables.syncPeriod, with mode ipvs"),
    row("ipvs.minSyncPeriod", Compat("ipvs-min-sync-period"), Kind::Duration, "1s", Ignored, AT_ONCE),
    row("ipvs.scheduler", Compat("ipvs-scheduler"), Kind::Text, "", Ignored, "a backend is chosen at random for each connection"),
    row("ipvs.excludeCIDRs", Compat("ipvs-exclude-cidrs"), Kind::List, "", Ignored, IPVS),
    row("ipvs.strictARP", Compat("ipvs-strict-arp"), Kind::Bool, "false", Ignored,
        "no address of a Service is put on a device, so none is answered for"),
    row("ipvs.tcpTimeout", Compat("ipvs-tcp-timeout"), Kind::Duration, "0s", Ignored, "conntrack.tcpEstablishedTimeout is the equivalent"),
    row("ipvs.tcpFinTimeout", Compat("ipvs-tcpfin-timeout"), Kind::Duration, "0s", Ignored, "conntrack.tcpCloseWaitTimeout is the equivalent"),
    row("ipvs.udpTimeout", Compat("ipvs-udp-timeout"), Kind::Duration, "0s", Ignored, "conntrack.udpStreamTimeout is the equivalent"),
    row("winkernel.networkName", Flag::None, Kind::Text, "", Ignored, WINDOWS),
    row("winkernel.sourceVip", Flag::None, Kind::Text, "", Ignored, WINDOWS),
    row("winkernel.enableDSR", Flag::None, Kind::Bool, "false", Ignored, WINDOWS),
    row("winkernel.rootHnsEndpointName", Flag::None, Kind::Text, "", Ignored, WINDOWS),
    row("winkernel.forwardHealthCheckVip", Flag::None, Kind::Bool, "false", Ignored, WINDOWS),
    row("windowsRunAsService", Flag::None, Kind::Bool, "false", Ignored, WINDOWS),
    row("detectLocalMode", Compat("detect-local-mode"),
        Kind::Choice(&["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]), "", Honoured,
        "InterfaceNamePrefix says which devices lead to pods; with the other modes pods are told by their devices, as always"),
    row("detectLocal.bridgeInterface", Compat("pod-bridge-interface"), Kind::Text, "", Ignored, LOCAL),
    row("detectLocal.interfaceNamePrefix", Compat("pod-interface-name-prefix"), Kind::Text, "", Honoured,
        "with detectLocalMode InterfaceNamePrefix: devices that lead to pods (--workload-devices goes before it)"),
    row("clusterCIDR", Compat("cluster-cidr"), Kind::Pair, "", Ignored, LOCAL),
    row("nodePortAddresses", Shared("nodeport-addresses"), Kind::List, "", Honoured,
        "which local addresses serve NodePorts: CIDRs or `primary`; also `all` and `localhost`"),
    row("oomScoreAdj", Compat("oom-score-adj"), Kind::int(-1000, 1000), "-999", Honoured,
        "how ready the kernel is to kill the agent when memory is short"),
    row("conntrack.maxPerCore", Compat("conntrack-max-per-core"), Kind::int(0, i32::MAX as i64), "32768", Ignored, FLOWS),
    row("conntrack.min", Compat("conntrack-min"), Kind::int(0, i32::MAX as i64), "131072", Ignored, FLOWS),
    row("conntrack.tcpEstablishedTimeout", Compat("conntrack-tcp-timeout-established"), Kind::Duration, "24h0m0s", Honoured,
        "how long an established TCP connection may be idle"),
    row("conntrack.tcpCloseWaitTimeout", Compat("conntrack-tcp-timeout-close-wait"), Kind::Duration, "1h0m0s", Honoured,
        "how long a TCP connection may be idle that one side has closed"),
    row("conntrack.tcpBeLiberal", Compat("conntrack-tcp-be-liberal"), Kind::Bool, "false", Ignored,
        "sequence numbers are never checked, so no packet counts as invalid"),
    row("conntrack.udpTimeout", Compat("conntrack-udp-timeout"), Kind::Duration, "0s", Honoured,
        "how long a UDP flow without reply may be idle; 0 for 30 s"),
    row("conntrack.udpStreamTimeout", Compat("conntrack-udp-timeout-stream"), Kind::Duration, "0s", Honoured,
        "how long a UDP flow with replies may be idle; 0 for 120 s"),
    row("configSyncPeriod", Compat("config-sync-period"), Kind::Period, "15m0s", Ignored,
        "watches tell every change; a listing is only repeated where a watch has a gap"),
    row("portRange", Compat("proxy-port-range"), Kind::Text, "", Ignored, "obsolete: no ports are opened for Services"),
    row("featureGates", Compat("feature-gates"), Kind::Gates, "", Honoured,
        "`AllowServiceExternalIPs=false` serves no external IPs (--external-ips goes before it); others change nothing"),
    row("logging.format", Always("logging-format"), Kind::Choice(&["", "text", "json"]), "text", Honoured,
        "how log lines are written (--log-format goes before it)"),
    row("logging.verbosity", SharedAlways("v"), Kind::int(0, i32::MAX as i64), "0", Honoured,
        "0 to 3: what an operator must know; 4 and 5: each write; more: each event"),
    row("logging.vmodule", Always("vmodule"), Kind::List, "", Ignored, "RUST_LOG says which module logs how much"),
    row("logging.flushFrequency", Always("log-flush-frequency"), Kind::Duration, "5s", Ignored, UNBUFFERED),
    row("logging.options.text.splitStream", Always("log-text-split-stream"), Kind::Bool, "false", Ignored, UNBUFFERED),
    row("logging.options.text.infoBufferSize", Always("log-text-info-buffer-size"), Kind::Quantity, "0", Ignored, UNBUFFERED),
    row("logging.options.json.splitStream", Always("log-json-split-stream"), Kind::Bool, "false", Ignored, UNBUFFERED),
    row("logging.options.json.infoBufferSize", Always("log-json-info-buffer-size"), Kind::Quantity, "0", Ignored, UNBUFFERED),
];
