//! kube-proxy's rules beside everybody else's: what is found, and that exactly they are removed.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    cluster::{Condition, Endpoint, Service},
    kube_proxy,
    lab::{Addresses, FAMILIES, Family, Netns, missing},
    worker::Proto,
};
use lb_userspace::foreign::{self, Backend, Finding, Mode};

/// Rules of others, with counters, in every place where kube-proxy's will be.
const OTHERS: &str = "*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
[11:660] -A PREROUTING -p tcp -m tcp --dport 7777 -j MARK --set-xmark 0x7/0xffffffff
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:CNI-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:USER-IN - [0:0]
[1:60] -A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"who is KUBE-SERVICES\" -j ACCEPT
[2:120] -A INPUT -j KUBE-FIREWALL
[3:180] -A INPUT -p udp
[4:240] -A INPUT -g USER-IN
[5:300] -A FORWARD -j CNI-FORWARD
[6:360] -A OUTPUT -j KUBE-FIREWALL
[7:420] -A CNI-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[8:480] -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
[9:540] -A USER-IN -p tcp -m multiport --dports 80,443 -j ACCEPT
[10:600] -A USER-IN -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
[12:720] -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
[13:780] -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
[14:840] -A POSTROUTING -p tcp -m tcp --dport 9999 -j MASQUERADE
[15:900] -A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 443
[16:960] -A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
COMMIT
";

const BACKENDS: [Backend; 2] = [Backend::Nft, Backend::Legacy];

fn iptables(family: Family, backend: Backend, what: &str) -> String {
    let family = if family == Family::V4 { "iptables" } else { "ip6tables" };
    format!("{family}-{backend}-{what}")
}

/// Says why not, where these tests cannot run.
fn skip() -> bool {
    let programs = ["iptables-nft-restore", "iptables-legacy-restore", "nft"];
    let lacking =
        programs.iter().find(|program| Command::new(program).arg("--version").output().is_err());
    let reason = missing().or_else(|| {
        lacking.map(|program| format!("no {program}: apt-get install iptables nftables"))
    });
    if let Some(reason) = &reason {
        println!("SKIPPED: {reason}");
    }
    reason.is_some()
}

fn namespace(what: &str) -> Netns {
    Netns::create(&format!("lb-foreign-{}-{what}", std::process::id())).unwrap()
}

/// Runs a program on the thread's namespace and returns what it wrote.
fn run(program: &str, words: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", words.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// All rules with their counters, without the remarks that hold the time. In which order chains are
/// named means nothing.
fn saved(family: Family, backend: Backend) -> Result<String> {
    let text = run(&iptables(family, backend, "save"), &["-c"], "")?;
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for table in lines.split_mut(|line| *line == "COMMIT") {
        let chains = table.iter().position(|line| line.starts_with('[')).unwrap_or(table.len());
        table[..chains].sort_unstable();
    }
    Ok(lines.join("\n"))
}

fn service() -> Service {
    Service::new("vote", 10).port("http", Proto::Tcp, 80, 8080, Some(30000)).port(
        "dns",
        Proto::Udp,
        53,
        5353,
        None,
    )
}

fn endpoints() -> Vec<Endpoint> {
    (1..4)
        .map(|n: u8| Endpoint {
            name: format!("vote-{n}"),
            addresses: Addresses {
                v4: [10, 244, 1, n].into(),
                v6: [0xfd44, 0, 0, 1, 0, 0, 0, u16::from(n)].into(),
            },
            node: "node1".to_owned(),
            condition: Condition::Ready,
            hints: lb_tests::cluster::Hints::default(),
        })
        .collect()
}

fn add_kube_proxy(family: Family, backend: Backend) -> Result<()> {
    let rules = kube_proxy::iptables(family, &service(), &endpoints());
    run(&iptables(family, backend, "restore"), &["--noflush"], &rules).map(drop)
}

/// SYNC-8.
#[test]
fn of_iptables_exactly_kube_proxys_rules_are_removed() {
    if skip() {
        return;
    }
    let netns = namespace("iptables");
    netns
        .run(|| {
            for backend in BACKENDS {
                for family in FAMILIES {
                    let _said = run(&iptables(family, backend, "restore"), &["-c"], OTHERS)?;
                }
            }
            ensure!(
                foreign::detect().is_empty(),
                "found in others' rules: {:?}",
                foreign::detect()
            );
            for backend in BACKENDS {
                for family in FAMILIES {
                    let others = saved(family, backend)?;
                    add_kube_proxy(family, backend)?;
                    let all = saved(family, backend)?;
                    assert_eq!(found(), [(backend, family)]);

                    let report = foreign::remove(Mode::DryRun);
                    assert_eq!(saved(family, backend)?, all, "a dry run changed rules");
                    assert_eq!(report.removed.len(), 3, "{report}");
                    let report = foreign::remove(Mode::Remove);
                    assert_eq!(saved(family, backend)?, others, "{report}");
                    assert!(!report.incomplete() && report.kept.is_empty(), "{report}");
                    assert!(report.notes.is_empty(), "others track connections: {report}");
                    assert_eq!(found(), []);
                    let again = foreign::remove(Mode::Remove).to_string();
                    assert_eq!(again, "nothing of kube-proxy's to remove\n");
                }
            }
            Ok(())
        })
        .unwrap();
}

fn found() -> Vec<(Backend, Family)> {
    foreign::detect()
        .into_iter()
        .map(|finding| {
            let Finding::Iptables { backend, family, chains } = finding else {
                panic!("also found {finding}");
            };
            // Three tables' canaries, 5 chains of filter, 4 of nat, 2 a port and 3 endpoints of each.
            assert_eq!(chains, 3 + 5 + 4 + 2 * (2 + 3), "{finding}");
            let family = if family == foreign::Family::V4 { Family::V4 } else { Family::V6 };
            (backend, family)
        })
        .collect()
}

#[test]
fn what_a_cni_uses_of_kube_proxys_chains_goes_on_working() {
    if skip() {
        return;
    }
    for backend in BACKENDS {
        let netns = namespace(&format!("cni-{backend}"));
        netns.run(|| kept_for_a_cni(backend)).unwrap();
    }
}

fn kept_for_a_cni(backend: Backend) -> Result<()> {
    let _said = run(&iptables(Family::V4, backend, "restore"), &[], OTHERS)?;
    add_kube_proxy(Family::V4, backend)?;
    let rule = "*nat\n-A CNI-HOSTPORT-DNAT -s 10.0.0.0/8 -j KUBE-MARK-MASQ\nCOMMIT\n";
    let _said = run(&iptables(Family::V4, backend, "restore"), &["--noflush"], rule)?;
    let report = foreign::remove(Mode::Remove);
    let kept: Vec<&str> = report.kept.iter().map(|stays| &*stays.kept.chain).collect();
    assert_eq!(kept, ["KUBE-MARK-MASQ", "KUBE-POSTROUTING"], "{report}");
    let left = saved(Family::V4, backend)?;
    for rule in [
        "-A CNI-HOSTPORT-DNAT -s 10.0.0.0/8 -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-j KUBE-POSTROUTING",
    ] {
        assert!(left.contains(rule), "{left}");
    }
    assert!(!left.contains("KUBE-SERVICES -") && !left.contains("KUBE-SVC"), "{left}");
    assert_eq!(foreign::detect(), [], "what is left is not kube-proxy any more");
    Ok(())
}

/// SYNC-8.
#[test]
fn of_nftables_exactly_kube_proxys_tables_are_removed() {
    if skip() {
        return;
    }
    let others = "table ip nat2 {
        chain post { type nat hook postrouting priority srcnat; ip daddr 192.0.2.1 masquerade; }
    }
    table inet kube-proxy-like {
        chain services { counter packets 5 bytes 300 accept; }
    }
    table inet kube-proxy {
        chain another { counter packets 6 bytes 360 accept; }
    }
    ";
    let netns = namespace("nftables");
    netns
        .run(|| {
            let _said = run("nft", &["-f", "-"], others)?;
            let before = run("nft", &["list", "ruleset"], "")?;
            assert_eq!(foreign::detect(), []);
            for family in FAMILIES {
                let rules = kube_proxy::nftables(family, &service(), &endpoints());
                let _said = run("nft", &["-f", "-"], &rules)?;
            }
            let found = foreign::detect();
            assert!(
                matches!(found[..], [Finding::Nftables { .. }, Finding::Nftables { .. }]),
                "{found:?}"
            );
            let all = run("nft", &["list", "ruleset"], "")?;
            let _report = foreign::remove(Mode::DryRun);
            assert_eq!(run("nft", &["list", "ruleset"], "")?, all);
            let report = foreign::remove(Mode::Remove);
            assert_eq!(run("nft", &["list", "ruleset"], "")?, before, "{report}");
            // Only IPv6 has no other chain that translates.
            assert_eq!(report.notes.len(), 1, "{report}");
            assert!(
                report.notes[0].contains("no other chain on this node translates addresses (IPv6)"),
                "{report}"
            );
            assert_eq!(foreign::detect(), []);
            Ok(())
        })
        .unwrap();
}

#[test]
fn looking_creates_no_table() {
    if skip() {
        return;
    }
    let netns = namespace("empty");
    netns
        .run(|| {
            assert_eq!(foreign::detect(), []);
            assert_eq!(
                foreign::remove(Mode::Remove).to_string(),
                "nothing of kube-proxy's to remove\n"
            );
            for names in ["ip_tables_names", "ip6_tables_names"] {
                let names = std::fs::read_to_string(format!("/proc/thread-self/net/{names}"))?;
                assert_eq!(names, "");
            }
            assert_eq!(run("nft", &["list", "ruleset"], "")?, "");
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_large_set_of_rules_is_removed_whole() {
    if skip() {
        return;
    }
    let mut rules = String::from("*nat\n:KUBE-SERVICES - [0:0]\n");
    for n in 0..3000 {
        rules += &format!(":KUBE-SVC-{n:016} - [0:0]\n:KUBE-SEP-{n:016} - [0:0]\n");
    }
    rules += "-A PREROUTING -j KUBE-SERVICES\n";
    for n in 0..3000 {
        rules += &format!(
            "-A KUBE-SERVICES -d 10.96.0.1 -j KUBE-SVC-{n:016}\n-A KUBE-SVC-{n:016} -j KUBE-SEP-{n:016}\n"
        );
    }
    rules += "COMMIT\n";
    let netns = namespace("large");
    netns
        .run(|| {
            for backend in BACKENDS {
                let _said = run(&iptables(Family::V4, backend, "restore"), &["--noflush"], &rules)?;
                let report = foreign::remove(Mode::Remove);
                assert!(!report.incomplete(), "{report}");
                assert_eq!(report.removed[0].chains.len(), 6001, "{report}");
                assert!(!saved(Family::V4, backend)?.contains("KUBE"));
            }
            Ok(())
        })
        .unwrap();
}
