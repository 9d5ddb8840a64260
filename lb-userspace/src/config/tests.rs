use std::path::PathBuf;

use clap::Parser;

use super::*;
use crate::cli::args::{Cli, Command};

fn around() -> Surroundings {
    Surroundings { hostname: "Worker-1".into(), in_cluster: false }
}

fn parse(flags: &[&str]) -> Result<Config, ConfigError> {
    let all = ["lb", "run"].iter().chain(flags);
    let cli = Cli::try_parse_from(all).unwrap();
    let Command::Run(args) = cli.command else { panic!("not `run`") };
    Config::new(*args, cli.pin_dir, cli.state_dir, &around(), None)
}

fn check_error(flags: &[&str], flag: &str, value: &str) {
    let mut all = vec!["--source", "/etc/lb"];
    all.extend(flags);
    let error = parse(&all).unwrap_err();
    assert_eq!((&*error.flag, error.value.as_str()), (flag, value), "{error}");
    assert!(error.to_string().contains("; allowed: "), "{error}");
}

#[test]
fn defaults_are_those_of_the_help_text() {
    let config = parse(&["--source", "/etc/lb"]).unwrap();
    assert_eq!(config.source, SourceConfig::Dir("/etc/lb".into()));
    assert_eq!(config.node_name, "worker-1");
    assert_eq!(config.nodeport_addresses, [Selector::All]);
    assert_eq!((config.snat_first, config.snat_count), (16384, 16384));
    assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(config.pin_dir, PathBuf::from("/sys/fs/bpf/lb"));
    assert_eq!(config.xdp, XdpMode::Auto);
    assert_eq!(config.socket_lb, SocketLb::Host);
}

#[test]
fn lists_are_split_at_commas_and_may_be_repeated() {
    let config = parse(&[
        "--source",
        "/etc/lb",
        "--node-ip",
        "192.0.2.1,2001:db8::1",
        "--external-devices",
        "eth*",
        "--external-devices",
        "bond?",
        "--nodeport-addresses",
        "primary,127.0.0.0/8",
    ])
    .unwrap();
    assert_eq!(config.node_ips.len(), 2);
    assert_eq!(config.external_devices, ["eth*", "bond?"]);
    assert_eq!(config.nodeport_addresses.len(), 2);
}

/// HZ-13: unlike in kube-proxy, an empty address is none, as its help text promises.
#[test]
fn what_is_served_may_be_off() {
    for off in ["off", "", "127.0.0.1:0"] {
        let config = parse(&["--source", "/x", "--metrics-bind-address", off]).unwrap();
        assert_eq!(config.metrics, None, "{off}");
        let config = parse(&["--source", "/x", "--healthz-bind-address", off]).unwrap();
        assert_eq!(config.healthz, None, "{off}");
    }
}

#[test]
fn a_source_is_needed_outside_a_pod() {
    let error = parse(&[]).unwrap_err();
    assert_eq!(error.flag, "--source");
    let both = parse(&["--source", "/a", "--kubeconfig", "/b"]).unwrap_err();
    assert!(both.to_string().contains("--kubeconfig"), "{both}");
}

#[test]
fn every_unusable_value_is_named_with_its_flag() {
    check_error(&["--node-name", "Worker_1"], "--node-name", "Worker_1");
    check_error(&["--node-ip", "node"], "--node-ip", "node");
    check_error(&["--node-ip", "127.0.0.1"], "--node-ip", "127.0.0.1");
    check_error(&["--node-ip", "192.0.2.1,192.0.2.2"], "--node-ip", "192.0.2.2");
    check_error(&["--nodeport-addresses", "eth0"], "--nodeport-addresses", "eth0");
    check_error(&["--external-devices", "a/b"], "--external-devices", "a/b");
    check_error(
        &["--workload-devices", "averyverylongname"],
        "--workload-devices",
        "averyverylongname",
    );
    check_error(&["--snat-ports", "20000"], "--snat-ports", "20000");
    check_error(&["--snat-ports", "20000-10000"], "--snat-ports", "20000-10000");
    check_error(&["--snat-ports", "80-20000"], "--snat-ports", "80-20000");
    check_error(&["--snat-ports", "20000-20001"], "--snat-ports", "20000-20001");
    check_error(&["--snat-ports", "20000-70000"], "--snat-ports", "20000-70000");
    check_error(&["--max-flows", "1"], "--max-flows", "1");
    check_error(&["--max-backends", "4294967295"], "--max-backends", "4294967295");
    check_error(&["--pin-dir", "here"], "--pin-dir", "here");
    check_error(
        &["--metrics-bind-address", "localhost"],
        "--metrics-bind-address (metricsBindAddress)",
        "localhost",
    );
    check_error(&["--conntrack-udp-timeout", "1s"], "conntrack.udpTimeout", "1s");
}

/// ES-5, NODE-5.
#[test]
fn the_node_name_is_trimmed_and_in_lower_case_wherever_it_comes_from() {
    let name = |flags: &[&str]| {
        let mut all = vec!["--source", "/x"];
        all.extend(flags);
        parse(&all).unwrap().node_name
    };
    assert_eq!(name(&[]), "worker-1");
    assert_eq!(name(&["--hostname-override", " Worker-2 "]), "worker-2");
    assert_eq!(name(&["--node-name=Worker-3", "--hostname-override=worker-2"]), "worker-3");
}

/// NODE-2: an address that kube-proxy would bind to is that of the node.
#[test]
fn a_bind_address_is_the_address_of_the_node_unless_it_is_all_of_them() {
    let ips = |address: &str| parse(&["--source", "/x", "--bind-address", address]).unwrap();
    assert_eq!(ips("192.0.2.7").node_ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert!(ips("0.0.0.0").node_ips.is_empty());
    let v6 = ips("::");
    assert!(v6.node_ips.is_empty());
    assert_eq!(v6.healthz, Some("[::]:10256".parse().unwrap()), "HZ-1");
}

/// §1.22: flags of kube-proxy that mean something here.
#[test]
fn flags_of_kube_proxy_are_honoured() {
    let config = parse(&[
        "--kubeconfig=/etc/lb.conf",
        "--master=https://192.0.2.1:6443",
        "--healthz-bind-address=192.0.2.7",
        "--bind-address-hard-fail=true",
        "--nodeport-addresses=192.0.2.0/24",
        "--iptables-localhost-nodeports=false",
        "--proxy-mode=nftables",
        "--iptables-sync-period=1m",
        "--conntrack-tcp-timeout-established=2h",
        "--conntrack-tcp-timeout-close-wait=90s",
        "--conntrack-udp-timeout=10s",
        "--conntrack-udp-timeout-stream=0s",
        "--oom-score-adj=-500",
        "--detect-local-mode=InterfaceNamePrefix",
        "--pod-interface-name-prefix=cali",
        "--logging-format=json",
        "--v=4",
    ])
    .unwrap();
    let cluster = ClusterConfig {
        kubeconfig: Some("/etc/lb.conf".into()),
        server: Some("https://192.0.2.1:6443".into()),
    };
    assert_eq!(config.source, SourceConfig::Cluster(cluster));
    assert_eq!(config.healthz, Some("192.0.2.7:10256".parse().unwrap()));
    assert!(config.bind_address_hard_fail);
    assert_eq!(config.nodeport_addresses.len(), 2);
    assert_eq!(config.nodeport_addresses[1], Selector::NoLocalhost);
    assert_eq!(config.sync_period, Duration::from_secs(30), "that of nftables");
    let Lifetimes { established, half_closed, udp_unreplied, udp_replied, .. } = config.lifetimes;
    assert_eq!((established, half_closed, udp_unreplied, udp_replied), (7200, 90, 10, 120));
    assert_eq!(config.oom_score_adj, -500);
    assert_eq!(config.workload_devices, ["cali*"]);
    assert_eq!((config.log_format, config.verbosity), (LogFormat::Json, 1));
    let said = |text: &str| {
        config.remarks.iter().any(|remark| {
            let (Remark::Warning(remark) | Remark::Note(remark)) = remark;
            remark.contains(text)
        })
    };
    assert!(said("mode \"nftables\" changes nothing"), "{:?}", config.remarks);
    assert!(said("nodePortAddresses has no network of IPv6"), "{:?}", config.remarks);
}

/// EIP-7, EIP-5: kube-proxy's switch, behind our own.
#[test]
fn external_ips_are_switched_by_our_flag_or_by_the_feature_gate() {
    let config = |flags: &[&str]| {
        let mut all = vec!["--source", "/x"];
        all.extend(flags);
        parse(&all).unwrap()
    };
    let off = "--feature-gates=AllowServiceExternalIPs=false,TopologyAwareHints=true";
    for (flags, expected) in [
        (&[][..], ExternalIps::Foreign),
        (&["--external-ips=off"], ExternalIps::Off),
        (&["--external-ips", "all"], ExternalIps::All),
        (&[off], ExternalIps::Off),
        (&["--feature-gates=AllowServiceExternalIPs=true"], ExternalIps::Foreign),
        (&[off, "--external-ips=all"], ExternalIps::All),
        (&[off, "--external-ips=off"], ExternalIps::Off),
    ] {
        assert_eq!(config(flags).external_ips, expected, "{flags:?}");
    }
    let said = |flags: &[&str]| format!("{:?}", config(flags).remarks);
    assert!(said(&[off]).contains("TopologyAwareHints=true changes nothing"));
    assert!(!said(&[off]).contains("AllowServiceExternalIPs"), "it does what it says");
    assert!(said(&[off, "--external-ips=all"]).contains("--external-ips goes before it"));
    let document: serde_json::Value = serde_json::from_str(&config(&[off]).document()).unwrap();
    assert_eq!(document["lb"]["externalIps"], "off");
    let gates = &document["kubeproxy.config.k8s.io"]["featureGates"];
    assert_eq!(gates["AllowServiceExternalIPs"], false);
}

#[test]
fn verbosity_is_counted_or_numbered() {
    let verbosity = |flags: &[&str]| {
        let mut all = vec!["--source", "/x"];
        all.extend(flags);
        parse(&all).unwrap().verbosity
    };
    for (flags, expected) in [
        (&[][..], 0),
        (&["-v"], 1),
        (&["-vv"], 2),
        (&["-v", "-v"], 2),
        (&["--verbose"], 1),
        (&["-v=2"], 0),
        (&["-v", "2"], 0),
        (&["--v=2"], 0),
        (&["--v", "4"], 1),
        (&["-v=9"], 2),
        (&["-v", "--trace"], 1),
    ] {
        assert_eq!(verbosity(flags), expected, "{flags:?}");
    }
}
