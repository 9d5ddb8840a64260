use clap::Parser;

use super::{kind::Kind, *};
use crate::cli::args::{Cli, Command};

/// What `kubeadm init` writes, with every field that it knows.
const KUBEADM: &str = include_str!("tests/kubeadm.conf");

/// `lb run` with these flags, beside a file that says `text`.
fn run(text: &str, flags: &[&str]) -> Result<crate::config::Config, ConfigError> {
    let all = ["lb", "run", "--config", "/etc/config.conf"];
    let cli = Cli::try_parse_from(all.iter().chain(flags)).unwrap();
    let Command::Run(args) = cli.command else { panic!("not `run`") };
    let around = crate::config::Surroundings { hostname: "host".into(), in_cluster: true };
    crate::config::Config::new(*args, cli.pin_dir, cli.state_dir, &around, Some(text))
}

fn file(fields: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{fields}\n")
}

fn warnings(config: &crate::config::Config) -> Vec<&str> {
    let texts = config.remarks.iter().filter_map(|remark| match remark {
        Remark::Warning(text) => Some(text.as_str()),
        Remark::Note(_) => None,
    });
    texts.collect()
}

/// The error names the field and the value, and says what is allowed.
fn check_error(fields: &str, field: &str, value: &str) {
    let error = run(&file(fields), &[]).unwrap_err();
    assert!(error.flag.starts_with(field), "{error}");
    assert_eq!(error.value, value, "{error}");
    assert!(error.to_string().contains("; allowed: "), "{error}");
}

/// §1.22.
#[test]
fn the_file_of_kubeadm_is_accepted_without_a_warning() {
    let config = run(KUBEADM, &["--hostname-override=worker-1"]).unwrap();
    assert_eq!(warnings(&config), [""; 0]);
    assert_eq!(config.node_name, "worker-1");
    let kubeconfig = Some("/var/lib/kube-proxy/kubeconfig.conf".into());
    let cluster = crate::config::ClusterConfig { kubeconfig, server: None };
    assert_eq!(config.source, crate::config::SourceConfig::Cluster(cluster));
    assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(config.lifetimes, crate::housekeeper::Lifetimes::DEFAULT);
    assert_eq!(config.oom_score_adj, -999);
    let expected = Remark::Note(
        "clusterCIDR \"10.244.0.0/16,fd00:10:244::/56\" changes nothing: pods are told by their \
         devices (--workload-devices)"
            .into(),
    );
    assert!(config.remarks.contains(&expected), "{:?}", config.remarks);
}

/// §1.22: a strict decode, and a lenient one with a warning where that fails.
#[test]
fn unknown_and_repeated_fields_are_named_and_the_rest_counts() {
    let text = file("hostnameOverride: a\nhostnameOverride: b\nx: 1\nconntrack: {max: 0, min: 5}");
    let config = run(&text, &[]).unwrap();
    assert_eq!(config.node_name, "b");
    let expected = [
        "--config /etc/config.conf: field \"hostnameOverride\" is there twice, the last one counts",
        "--config /etc/config.conf: unknown field \"x\"",
        "--config /etc/config.conf: unknown field \"conntrack.max\"",
    ];
    assert_eq!(warnings(&config), expected);
}

/// §1.22: validation, with the path of the field.
#[test]
fn values_that_cannot_be_are_named_with_their_field() {
    check_error("iptables: {syncPeriod: -1s}", "iptables.syncPeriod in", "-1s");
    check_error("iptables: {syncPeriod: 10s, minSyncPeriod: 20s}", "iptables.minSync", "20s");
    check_error("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit", "32");
    check_error("iptables: 5", "iptables in", "5");
    check_error("clusterCIDR: 10.0.0.0/8,10.1.0.0/16", "clusterCIDR", "10.0.0.0/8,10.1.0.0/16");
    check_error("oomScoreAdj: -1001", "oomScoreAdj", "-1001");
    check_error("mode: userspace", "mode", "userspace");
    check_error("bindAddress: here", "bindAddress", "here");
    check_error("conntrack: {tcpEstablishedTimeout: 1}", "conntrack.tcpEstab", "1ns");
    check_error("nodePortAddresses: [eth0]", "--nodeport-addresses", "eth0");
    check_error("bindAddressHardFail: \"yes\"", "bindAddressHardFail", "yes");
    check_error("detectLocalMode: InterfaceNamePrefix", "detectLocal.interfaceNamePrefix", "");
    check_error("iptables: {masqueradeAll: true}", "iptables.masqueradeAll", "true");
    check_error("featureGates: {A: 1}", "featureGates", "{\"A\":1}");
}

/// TP-6, D15.
#[test]
fn masquerading_all_is_refused_in_whatever_form_it_is_asked_for() {
    for fields in ["iptables: {masqueradeAll: true}", "nftables: {masqueradeAll: true}"] {
        let error = run(&file(fields), &[]).unwrap_err();
        assert_eq!((error.value.as_str(), error.flag.contains("masqueradeAll")), ("true", true));
    }
    let cli = Cli::try_parse_from(["lb", "run", "--masquerade-all"]).unwrap();
    let Command::Run(args) = cli.command else { panic!("not `run`") };
    let around = crate::config::Surroundings { hostname: "host".into(), in_cluster: true };
    let error = crate::config::Config::new(*args, cli.pin_dir, cli.state_dir, &around, None);
    let error = error.unwrap_err();
    assert!(error.flag.contains("--masquerade-all"), "{error}");
    for fields in ["iptables: {masqueradeAll: false}", "nftables: {masqueradeAll: false}"] {
        assert!(run(&file(fields), &["--masquerade-all=false"]).is_ok(), "{fields}");
    }
}

/// TP-5: no mode that tells pods by their addresses changes anything, nor do the networks of pods.
#[test]
fn pods_are_told_by_their_devices_whatever_mode_is_asked_for() {
    let usual = run(&file(""), &[]).unwrap();
    for fields in [
        "detectLocalMode: ClusterCIDR\nclusterCIDR: \"\"",
        "detectLocalMode: ClusterCIDR\nclusterCIDR: 10.244.0.0/16",
        "detectLocalMode: NodeCIDR",
        "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
    ] {
        let config = run(&file(fields), &[]).unwrap();
        assert_eq!(warnings(&config), [""; 0], "{fields}");
        assert_eq!(config.workload_devices, usual.workload_devices, "{fields}");
    }
    let prefix = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}";
    assert_eq!(run(&file(prefix), &[]).unwrap().workload_devices, ["cali*"]);
}

/// §1.22.
#[test]
fn a_file_of_another_kind_is_refused() {
    for text in ["", "a: [", "apiVersion: v1\nkind: ConfigMap", "5"] {
        let error = run(text, &[]).unwrap_err();
        assert_eq!(error.flag, "--config /etc/config.conf", "{error}");
        assert!(error.allowed.contains(API_VERSION), "{error}");
    }
}

/// §1.22: beside a file, flags of kube-proxy are ignored but for those that kube-proxy heeds; our
/// own go before the file.
#[test]
fn the_file_goes_before_the_flags_of_kube_proxy_and_behind_ours() {
    let text =
        file("bindAddress: 192.0.2.1\nhostnameOverride: file\nmetricsBindAddress: 192.0.2.1:1");
    let flags = [
        "--hostname-override=flag",
        "--metrics-bind-address=192.0.2.2:2",
        "--bind-address=192.0.2.2",
        "--healthz-port=1",
        "--master=https://192.0.2.3",
        "--node-ip=192.0.2.4",
        "-v=6",
    ];
    let config = run(&text, &flags).unwrap();
    assert_eq!(config.node_name, "flag");
    assert_eq!(config.metrics, Some("192.0.2.1:1".parse().unwrap()));
    assert_eq!(config.node_ips, ["192.0.2.4".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(config.verbosity, 2);
    let source = config.source.to_string();
    assert_eq!(source, "cluster of this pod at https://192.0.2.3");
    let ignored: Vec<&str> =
        warnings(&config).into_iter().filter_map(|text| text.split(' ').next()).collect();
    assert_eq!(ignored, ["--healthz-port", "--bind-address", "--metrics-bind-address"]);
}

/// §1.22: `--write-config-to`; HZ-12: `/configz`.
#[test]
fn the_configuration_in_effect_is_a_file_that_is_read_back_as_the_same() {
    let config = run(KUBEADM, &["--hostname-override=worker-1"]).unwrap();
    assert_eq!(config.proxy["iptables"]["syncPeriod"], "30s");
    assert_eq!(config.proxy["oomScoreAdj"], -999);
    assert_eq!(config.proxy["hostnameOverride"], "worker-1");
    let text = serde_yaml_ng::to_string(&config.proxy).unwrap();
    let again = run(&text, &[]).unwrap();
    assert_eq!(again.proxy, config.proxy);
    assert_eq!(warnings(&again), [""; 0]);
    let configz: Value = serde_json::from_str(&config.document()).unwrap();
    assert_eq!(configz["kubeproxy.config.k8s.io"], config.proxy);
    assert_eq!(configz["lb"]["nodeName"], "worker-1");
}

#[test]
fn tasks_other_than_running_are_told_by_flags_beside_the_file() {
    use crate::config::Task;
    let task = |flag: &str| run(&file(""), &[flag]).unwrap().task;
    assert_eq!(task("--init-only"), Task::InitOnly);
    assert_eq!(task("--cleanup"), Task::Cleanup);
    assert_eq!(task("--cleanup=false"), Task::Run);
    assert_eq!(task("--write-config-to=/x"), Task::WriteConfig("/x".into()));
}

#[test]
fn the_table_is_consistent() {
    for (row, setting) in SETTINGS.iter().enumerate() {
        let Setting { field, flag, kind, default, treatment, note } = setting;
        let key = setting.key();
        assert!(!key.is_empty() && !note.is_empty(), "row {row}");
        let value = kind.typed(default);
        let fits = |value: &Value| kind.is_unset(value) || kind.problem(value).is_none();
        assert!(value.as_ref().is_some_and(fits), "{key}: default {default:?}");
        assert!(!(field.is_empty() && *flag == Flag::None), "row {row}");
        let later = SETTINGS.iter().skip(row + 1);
        let same = |other: &Setting| {
            other.key() == key || (flag.name().is_some() && other.flag.name() == flag.name())
        };
        assert!(!later.clone().any(same), "{key} is there twice");
        // Only a switch can be refused: any other value would have to say which one is.
        assert!(*treatment != Treatment::Refused || *kind == Kind::Bool, "{key}");
    }
}

/// Every flag of kube-proxy on Linux.
const FLAGS: &str = "bind-address bind-address-hard-fail cleanup cluster-cidr config \
    config-sync-period conntrack-max-per-core conntrack-min conntrack-tcp-be-liberal \
    conntrack-tcp-timeout-close-wait conntrack-tcp-timeout-established conntrack-udp-timeout \
    conntrack-udp-timeout-stream detect-local-mode feature-gates healthz-bind-address \
    healthz-port hostname-override init-only iptables-localhost-nodeports \
    iptables-masquerade-bit iptables-min-sync-period iptables-sync-period ipvs-exclude-cidrs \
    ipvs-min-sync-period ipvs-scheduler ipvs-strict-arp ipvs-sync-period ipvs-tcp-timeout \
    ipvs-tcpfin-timeout ipvs-udp-timeout kube-api-burst kube-api-content-type kube-api-qps \
    kubeconfig log-flush-frequency log-json-info-buffer-size log-json-split-stream \
    log-text-info-buffer-size log-text-split-stream logging-format masquerade-all master \
    metrics-bind-address metrics-port nodeport-addresses oom-score-adj pod-bridge-interface \
    pod-interface-name-prefix profiling proxy-mode proxy-port-range \
    show-hidden-metrics-for-version v version vmodule write-config-to";

/// §1.22: each flag of kube-proxy is in the table, and each flag in the table is accepted.
#[test]
fn the_table_has_the_flags_of_kube_proxy_and_the_command_line_those_of_the_table() {
    use clap::CommandFactory;
    let in_table = SETTINGS.iter().filter_map(|setting| setting.flag.name());
    let in_table: std::collections::BTreeSet<&str> = in_table.collect();
    assert_eq!(in_table, FLAGS.split_whitespace().collect());
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").unwrap();
    for flag in in_table {
        let named = |arg: &clap::Arg| {
            arg.get_long() == Some(flag)
                || arg.get_all_aliases().unwrap_or_default().contains(&flag)
        };
        assert!(run.get_arguments().any(named), "--{flag}");
    }
}
