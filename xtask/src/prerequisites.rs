//! What the lab and the tests need from this machine: root, a kernel with BTF, and a few programs.
//!
//! Programs come as Debian packages and are installed only when they are missing and we are root. What
//! cannot be had is said in one sentence that tells how to get it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::step::Step;

/// A program and the Debian package that brings it.
struct Program {
    name: &'static str,
    package: &'static str,
}

const PROGRAMS: [Program; 6] = [
    Program { name: "bpftool", package: "bpftool" },
    Program { name: "curl", package: "curl" },
    Program { name: "ethtool", package: "ethtool" },
    Program { name: "ip", package: "iproute2" },
    // The tests of leaving kube-proxy write its rules with these.
    Program { name: "iptables-nft", package: "iptables" },
    Program { name: "nft", package: "nftables" },
];

/// Makes sure that the programs are there, installing them if need be.
pub(crate) fn programs() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    install(&format!("{} missing", listed(&missing)), &packages)
}

/// Installs Debian packages when we are root, and says what to do otherwise. `why` begins the sentence.
pub(crate) fn install(why: &str, packages: &[&str]) -> Result<()> {
    let install = format!("apt-get install {}", packages.join(" "));
    if !is_root()? {
        bail!("{why}: run `{install}` as root");
    }
    if which("apt-get").is_none() {
        bail!("{why}, and this is no Debian: install {}", packages.join(", "));
    }
    let step = Step::begin(format!("installing the Debian packages {}", packages.join(", ")));
    if apt_install(packages).is_err() {
        // A fresh image has no package lists, and an old one has stale ones.
        apt(&["update"])?;
        apt_install(packages).with_context(|| format!("`{install}` did not work"))?;
    }
    step.done();
    Ok(())
}

/// Why the kernel's side of the load balancer cannot run here, if so.
pub(crate) fn obstacle() -> Result<Option<&'static str>> {
    Ok(if !is_root()? {
        Some("not root: namespaces and eBPF programs need it")
    } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        Some("this kernel has no BTF: boot one with CONFIG_DEBUG_INFO_BTF=y, such as Debian's")
    } else {
        None
    })
}

fn missing() -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| which(program.name).is_none()).collect()
}

fn listed(programs: &[&Program]) -> String {
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Where a program is.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Root's shell has the sbin directories; a user who looks should find the same.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

fn is_root() -> Result<bool> {
    Ok(process::output(Command::new("id").arg("-u"))? == "0")
}

fn apt_install(packages: &[&str]) -> Result<()> {
    apt(&[&["install", "-y", "--no-install-recommends"], packages].concat())
}

fn apt(words: &[&str]) -> Result<()> {
    process::quietly(
        Command::new("apt-get").arg("-qq").args(words).env("DEBIAN_FRONTEND", "noninteractive"),
    )
}
