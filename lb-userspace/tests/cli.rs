//! The command line as a process: exit codes, and what stands on which stream.
//!
//! Needs no privilege and no kernel support; nothing outside of a temporary directory is touched.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

fn lb(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    for (name, _) in std::env::vars() {
        if name.starts_with("LB_") {
            let _ = command.env_remove(name);
        }
    }
    let _ = command.args(words);
    command
}

fn run(words: &[&str]) -> Output {
    lb(words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit code 2, nothing on stdout, and `says` on stderr.
fn check_usage(words: &[&str], says: &str) {
    let Output { status, stdout, stderr } = run(words);
    let stderr = text(&stderr);
    assert_eq!(status.code(), Some(2), "{words:?}: {stderr}");
    assert_eq!(text(&stdout), "", "{words:?}");
    assert!(stderr.contains(says), "{words:?} should say {says:?}: {stderr}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_allowed() {
    check_usage(&[], "Usage:");
    check_usage(&["walk"], "walk");
    check_usage(&["run", "--xdp", "maybe"], "auto, native, generic, off");
    check_usage(&["run", "--no-such-flag"], "--no-such-flag");
    check_usage(&["run"], "one of --source DIR, --kubeconfig FILE");
    check_usage(&["run", "--source", "/x", "--snat-ports", "9-1"], "--snat-ports \"9-1\"");
    check_usage(&["run", "--source", "/x", "--node-ip", "nine"], "--node-ip \"nine\"");
    check_usage(&["plan"], "--source <DIR>");
    check_usage(&["services", "describe"], "NAME");
    check_usage(&["flows", "--family", "5"], "4, 6");
    check_usage(&["status", "--pin-dir", "relative"], "--pin-dir");
}

#[test]
fn help_teaches_every_command() {
    for command in ["run", "plan", "status", "services", "backends", "flows", "dump", "cleanup"] {
        let Output { status, stdout, .. } = run(&[command, "--help"]);
        let help = text(&stdout);
        assert_eq!(status.code(), Some(0), "{command}");
        assert!(help.contains("Examples:"), "{command}: {help}");
        assert!(help.contains("[env: LB_PIN_DIR="), "{command}: {help}");
    }
    let help = run(&["run", "--help"]);
    let help = text(&help.stdout);
    for flag in [
        "--source",
        "--kubeconfig",
        "--node-name",
        "--node-ip",
        "--nodeport-addresses",
        "--external-devices",
        "--workload-devices",
        "--xdp",
        "--tc",
        "--forward",
        "--socket-lb",
        "--cgroup-root",
        "--snat-ports",
        "--max-flows",
        "--max-services",
        "--max-frontends",
        "--max-backends",
        "--metrics-bind-address",
        "--trace",
        "--log-format",
    ] {
        let env = format!("[env: LB_{}=", flag[2..].to_uppercase().replace('-', "_"));
        assert!(help.contains(flag) && help.contains(&env), "{flag} {env}: {help}");
    }
}

const VOTE: &str = "
apiVersion: v1
kind: Service
metadata: {name: vote, namespace: default}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  ports:
  - {name: http, port: 80, nodePort: 30000, protocol: TCP, targetPort: 8080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: vote-1
  namespace: default
  labels: {kubernetes.io/service-name: vote}
addressType: IPv4
ports:
- {name: http, port: 8080, protocol: TCP}
endpoints:
- {addresses: [10.244.0.2], conditions: {ready: true}}
- {addresses: [10.244.0.3], conditions: {ready: true}}
";

fn plan(dir: &Path, more: &[&str]) -> Output {
    let mut words = vec![
        "plan",
        "--empty",
        "--node-name",
        "n1",
        "--nodeport-addresses",
        "localhost",
        "--source",
        dir.to_str().unwrap(),
    ];
    words.extend(more);
    run(&words)
}

#[test]
fn a_plan_against_empty_maps_needs_no_privilege() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vote.yaml"), VOTE).unwrap();
    let Output { status, stdout, stderr } = plan(dir.path(), &[]);
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), Some(0), "{stderr}");
    for line in [
        "put service 1 default/vote:http TCP IPv4\n",
        "put frontend 10.96.0.10:80/TCP ClusterIP service 1, slots ",
        "put frontend 10.96.0.10 (any other port)\n",
        "put frontend 127.0.0.1:30000/TCP NodePort service 1, slots ",
        ":8080/TCP serving (service 1; cluster)\n",
    ] {
        assert!(stdout.contains(line), "{line:?} in\n{stdout}");
    }
    let json = plan(dir.path(), &["-o", "json"]);
    let ops: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(ops.as_array().unwrap().len(), stdout.lines().count(), "{ops}");
    assert!(ops.as_array().unwrap().iter().any(|op| op["op"] == "put-service"), "{ops}");
}

/// EIP-7: what is not served is told.
#[test]
fn a_plan_knows_which_external_ips_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let vote =
        VOTE.replace("  type: NodePort\n", "  type: NodePort\n  externalIPs: [203.0.113.7]\n");
    fs::write(dir.path().join("vote.yaml"), vote).unwrap();
    let frontend = "put frontend 203.0.113.7:80/TCP ExternalIP service 1, slots ";
    let planned = |more: &[&str]| {
        let Output { status, stdout, stderr } = plan(dir.path(), more);
        assert_eq!(status.code(), Some(0), "{}", text(&stderr));
        (text(&stdout).contains(frontend), text(&stderr).contains("external IP 203.0.113.7"))
    };
    assert_eq!(planned(&[]), (true, false));
    assert_eq!(planned(&["--external-ips", "off"]), (false, true));
}

#[test]
fn a_bad_file_is_reported_on_stderr_and_the_rest_is_planned() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vote.yaml"), VOTE).unwrap();
    fs::write(dir.path().join("bad.yaml"), "kind: [").unwrap();
    let Output { status, stdout, stderr } = plan(dir.path(), &[]);
    assert_eq!(status.code(), Some(1), "a problem is no success: {}", text(&stderr));
    assert!(text(&stderr).contains("bad.yaml"), "{}", text(&stderr));
    assert!(text(&stdout).contains("10.96.0.10:80/TCP"), "{}", text(&stdout));
}

#[test]
fn commands_that_need_maps_say_when_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let pins = dir.path().join("nothing");
    for command in ["services", "backends", "flows", "dump", "status"] {
        let Output { status, stdout, stderr } =
            run(&[command, "--pin-dir", pins.to_str().unwrap()]);
        let said = format!("{}{}", text(&stdout), text(&stderr));
        assert_eq!(status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("lb run"), "{command} should say what to do: {said}");
        assert!(said.contains(pins.to_str().unwrap()), "{command} should say where: {said}");
    }
}

#[test]
fn a_user_without_privilege_is_told_what_is_missing() {
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped, not root: only root can become another user");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_lb");
    // The workspace may lie where nobody may look.
    let dir = tempfile::Builder::new().prefix("lb-cli-").tempdir_in("/tmp").unwrap();
    let copy = dir.path().join("lb");
    let _bytes = fs::copy(binary, &copy).unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = || {
        Command::new(&copy)
            .args(["run", "--source", "/", "--pin-dir", "/sys/fs/bpf/lb-nobody"])
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
    };
    // A process that another test just forked may hold the copy open for writing until it execs.
    let deadline = Instant::now() + Duration::from_secs(10);
    let output = loop {
        match run() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                assert!(Instant::now() < deadline, "{error}");
                std::thread::yield_now();
            }
            output => break output.unwrap(),
        }
    };
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("CAP_BPF") && stderr.contains("run lb as root"), "{stderr}");
}

/// §1.22: `--init-only`, `--write-config-to`, `--version`, and start-up lines of §1.23.
#[test]
fn runs_that_end_at_once_say_what_they_go_by() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.conf");
    let written = dir.path().join("written.conf");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
        clientConnection: {kubeconfig: /nowhere}\nmode: iptables\nspare: 1\n";
    fs::write(&file, text).unwrap();
    let config = format!("--config={}", file.display());
    let Output { status, stdout, stderr } =
        run(&["run", &config, "--hostname-override=Worker-1", "--init-only"]);
    let stderr = self::text(&stderr);
    assert!(status.success() && stdout.is_empty(), "{stderr}");
    for says in [
        "node=\"worker-1\"",
        "mode=\"ebpf\"",
        &format!("config=\"{}\"", file.display()),
        "unknown field \"spare\"",
        "mode \"iptables\" changes nothing",
    ] {
        assert!(stderr.contains(says), "no {says:?} in {stderr}");
    }
    let to = format!("--write-config-to={}", written.display());
    assert!(run(&["run", &config, &to]).status.success());
    let text = fs::read_to_string(&written).unwrap();
    assert!(text.contains("mode: iptables\n") && text.contains("oomScoreAdj: -999\n"), "{text}");
    let config = format!("--config={}", written.display());
    assert!(run(&["run", &config, "--init-only"]).status.success());
    let version = run(&["run", "--version"]);
    assert!(self::text(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    let missing = dir.path().join("missing");
    let Output { status, stderr, .. } = run(&["run", "--config", missing.to_str().unwrap()]);
    assert_eq!(status.code(), Some(1));
    assert!(self::text(&stderr).contains("reading --config"), "{}", self::text(&stderr));
}

/// The flags of kube-proxy do not stand in the way of ours.
#[test]
fn kube_proxys_flags_have_a_heading_of_their_own_at_the_end_of_the_long_help() {
    let heading = "kube-proxy's flags";
    let short = run(&["run", "-h"]);
    assert!(!text(&short.stdout).contains(heading));
    let long = run(&["run", "--help"]);
    let (ours, theirs) = text(&long.stdout).split_once(heading).unwrap();
    assert!(ours.contains("--config <FILE>") && !ours.contains("--cluster-cidr"));
    assert!(theirs.contains("--cluster-cidr") && !theirs.contains("[env: LB_"));
    check_usage(&["run", "--source", "/x", "--masquerade-all"], "not supported");
}
