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
    Config::new(*args, cli.pin_dir, cli.state_dir, &around())
}

fn check_error(flags: &[&str], flag: &str, value: &str) {
    let mut all = vec!["--source", "/etc/lb"];
    all.extend(flags);
    let error = parse(&all).unwrap_err();
    assert_eq!((error.flag, error.value.as_str()), (flag, value), "{error}");
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
    check_error(&["--metrics-bind-address", "localhost"], "--metrics-bind-address", "localhost");
}
