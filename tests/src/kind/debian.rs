//! Debian as the source of the container engine and of the node image's system.
//!
//! Packages of the engine are unpacked below a directory, never installed, and only those that the
//! machine does not have; a system for the image is made by debootstrap, in a mount namespace of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::shell::{output, quietly};

/// What the machine lacks of these packages and of what they need, unpacked below `into`.
pub(super) fn unpack(packages: &[&str], into: &Path) -> Result<()> {
    let mut apt = Command::new("apt-get");
    let _ = apt.args(["-s", "-qq", "-o", "Debug::NoLocking=1", "install"]);
    let _ = apt.arg("--no-install-recommends").args(packages);
    let plan = match output(&mut apt) {
        Ok(plan) => plan,
        // A fresh machine has no package lists.
        Err(_) => {
            quietly(Command::new("apt-get").args(["-qq", "update"]))?;
            output(&mut apt).with_context(|| {
                format!("{} come from Debian's package mirrors", packages.join(", "))
            })?
        }
    };
    let missing: Vec<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect();
    let debs = into.with_extension("debs");
    for dir in [into, &debs] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut download = Command::new("apt-get");
    let _ = download.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]);
    quietly(download.args(&missing).current_dir(&debs))?;
    for deb in fs::read_dir(&debs).with_context(|| format!("reading {}", debs.display()))? {
        let deb = deb.with_context(|| format!("reading {}", debs.display()))?.path();
        quietly(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))?;
    }
    fs::remove_dir_all(&debs).with_context(|| format!("removing {}", debs.display()))
}

/// Makes a small Debian of this machine's own release at `root`, with these packages.
pub(super) fn bootstrap(engine: &Path, root: &Path, packages: &[&str]) -> Result<()> {
    let (codename, mirror) = release()?;
    let unpacked = engine.join("usr/share/debootstrap");
    let mut unshare = Command::new("unshare");
    let _ = unshare.args(["--mount", "--propagation", "private"]);
    if unpacked.is_dir() {
        let _ = unshare.arg(engine.join("usr/sbin/debootstrap")).env("DEBOOTSTRAP_DIR", unpacked);
    } else {
        let _ = unshare.arg("debootstrap");
    }
    let include = format!("--include={}", packages.join(","));
    quietly(unshare.args(["--variant=minbase", &include, &codename]).arg(root).arg(mirror))
        .context("making a Debian for the node image")
}

/// The codename of this machine's Debian, and a mirror that its apt uses for it.
fn release() -> Result<(String, String)> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let Some(codename) = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))
    else {
        bail!(
            "/etc/os-release names no VERSION_CODENAME: the kind cluster is made from Debian's packages, on Debian"
        )
    };
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(RELEASE) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = targets.lines().find_map(|line| line.strip_prefix(codename)?.strip_prefix(' '));
    let mirror = mirror.with_context(|| format!("apt knows no mirror of Debian {codename}"))?;
    Ok((codename.to_owned(), mirror.to_owned()))
}

/// Takes away what a system does in a container that is not the container's business: units for
/// hardware and consoles, and sysctls, which are the machine's.
pub(super) fn tame(root: &Path) -> Result<()> {
    let units = root.join("usr/lib/systemd/system");
    for (dir, keep) in [
        (units.join("multi-user.target.wants"), &[][..]),
        (units.join("local-fs.target.wants"), &[][..]),
        (units.join("basic.target.wants"), &[][..]),
        (units.join("timers.target.wants"), &[][..]),
        (
            units.join("sockets.target.wants"),
            &["dbus.socket", "systemd-journald.socket", "systemd-journald-dev-log.socket"][..],
        ),
        (
            units.join("sysinit.target.wants"),
            &["systemd-journald.service", "systemd-sysctl.service", "systemd-sysusers.service"][..],
        ),
        (root.join("usr/lib/sysctl.d"), &[][..]),
        (root.join("etc/sysctl.d"), &[][..]),
        (root.join("var/cache/apt/archives"), &["partial"][..]),
        (root.join("var/lib/apt/lists"), &["partial"][..]),
    ] {
        clear(&dir, keep)?;
    }
    let wants = root.join("etc/systemd/system");
    for entry in fs::read_dir(&wants).with_context(|| format!("reading {}", wants.display()))? {
        let path = entry.with_context(|| format!("reading {}", wants.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "wants") {
            clear(&path, &[])?;
        }
    }
    Ok(())
}

/// Removes the files of a directory of ours that are not to be kept.
fn clear(dir: &Path, keep: &[&str]) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let path: PathBuf = entry.path();
        ensure!(path.starts_with(dir), "{} is not in {}", path.display(), dir.display());
        let kept = keep.iter().any(|name| entry.file_name() == *name);
        if !kept && !path.is_dir() {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}
