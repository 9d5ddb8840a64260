//! The image of a kind node: a small Debian, the files of kind's own base image, and the components.
//!
//! It differs from kind's published image in where the programs come from, and in two things that spare the
//! machine: Debian's sysctls are left out, and the kubelet finds the sysctls that it insists on as files.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    debian,
    engine::Engine,
    shell::{attempt, output, quietly, words},
};
use crate::image::{Format, Image};

/// The image's name in the engine.
pub(super) const NAME: &str = "lb-kind-node:current";

/// Counts changes of what this file puts into an image.
const EDITION: u32 = 3;

/// Packages of the node, as kind's base image has them, less what only storage needs.
const PACKAGES: [&str; 20] = [
    "systemd",
    "dbus",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "util-linux",
    "mount",
    "kmod",
    "libseccomp2",
    "bash",
    "ca-certificates",
    "curl",
    "jq",
    "procps",
    "hostname",
    "socat",
    "e2fsprogs",
    "iputils-ping",
];

/// What the image is made of.
pub(super) struct Ingredients<'a> {
    /// Components of Kubernetes, by their names.
    pub(super) bin: &'a Path,
    /// `images/base/files` of kind's module.
    pub(super) base: &'a Path,
    /// Archive of the image that holds a pod's namespaces.
    pub(super) pause: &'a Path,
    /// Where preparations are kept.
    pub(super) cache: &'a Path,
}

/// Units that the image starts, besides the components'.
const LOAD_IMAGES: &str = "\
[Unit]
Description=Import the images of the components
Requires=containerd.service
After=containerd.service
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/kind/bin/load-images.sh

[Install]
WantedBy=multi-user.target
";
/// Only what the node will run: each image takes its size twice, on every node.
const LOAD_SCRIPT: &str = "\
#!/bin/sh -e
cd /kind/images
archives='pause.tar coredns.tar'
case $(hostname) in *-control-plane*) archives=$(echo *.tar) ;; esac
for archive in $archives; do
    ctr -n k8s.io images import --label=io.cri-containerd.pinned=pinned $archive
done
";
/// Runs before everything else in the node, systemd included, which raises one of them.
const KEEP_SYSCTLS: &str = "\
#!/bin/sh -e
cd /kind/sysctl
for file in $(find . -type f); do
    if [ -e /proc/sys/$file ]; then mount --bind $file /proc/sys/$file; fi
done
cd /
exec /usr/local/bin/entrypoint /sbin/init
";

/// What the kubelet and systemd write when they find something else. None of them is a namespace's own.
const SYSCTLS: [(&str, &str); 7] = [
    ("fs/file-max", "9223372036854775807"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

impl Ingredients<'_> {
    /// Makes the image unless the engine has it already.
    pub(super) fn make(&self, engine: &Engine, packages: &Path) -> Result<()> {
        let stamp = self.stamp()?;
        let stamped = self.cache.join("node.stamp");
        let is_there = attempt(engine.docker().args(["image", "inspect", NAME]))?.status.success();
        if is_there && fs::read_to_string(&stamped).is_ok_and(|old| old == stamp) {
            return Ok(());
        }
        let system = self.system(packages)?;
        println!("    putting the node image together");
        let root = self.root(&system)?;
        import(engine, &root)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        quietly(engine.docker().args(["image", "prune", "--force"]))?;
        fs::write(&stamped, stamp).with_context(|| format!("writing {}", stamped.display()))
    }

    /// Everything that decides what the image is.
    fn stamp(&self) -> Result<String> {
        let mut stamp = format!("edition {EDITION}\n{}\n", PACKAGES.join(" "));
        let mut files = vec![self.pause.to_owned()];
        for entry in
            fs::read_dir(self.bin).with_context(|| format!("reading {}", self.bin.display()))?
        {
            files.push(entry.context("reading the components")?.path());
        }
        files.sort();
        for file in files {
            let about =
                fs::metadata(&file).with_context(|| format!("looking at {}", file.display()))?;
            let changed = about.modified().context("the time of a file")?;
            writeln!(stamp, "{} {} {changed:?}", file.display(), about.len())
                .context("writing a stamp")?;
        }
        writeln!(stamp, "{}", self.base.display()).context("writing a stamp")?;
        Ok(stamp)
    }

    /// The Debian, made once.
    fn system(&self, packages: &Path) -> Result<PathBuf> {
        let system = self.cache.join("system");
        let complete = self.cache.join("system.complete");
        if fs::read_to_string(&complete).is_ok_and(|made| made == PACKAGES.join(" ")) {
            return Ok(system);
        }
        println!("    making a Debian for the node image (a minute or two, once)");
        if system.exists() {
            fs::remove_dir_all(&system)
                .with_context(|| format!("removing {}", system.display()))?;
        }
        debian::bootstrap(packages, &system, &PACKAGES)?;
        debian::tame(&system)?;
        fs::write(&complete, PACKAGES.join(" "))
            .with_context(|| format!("writing {}", complete.display()))?;
        Ok(system)
    }

    /// The Debian with everything that comes on top of it.
    fn root(&self, system: &Path) -> Result<PathBuf> {
        let root = Root(self.cache.join("root"));
        if root.0.exists() {
            fs::remove_dir_all(&root.0)
                .with_context(|| format!("removing {}", root.0.display()))?;
        }
        // Links, not copies: what differs is put in the place of a link, never written through it.
        quietly(Command::new("cp").arg("-al").arg(system).arg(&root.0))?;
        let mut copy = Command::new("cp");
        let _ = copy.args(["-r", "--no-preserve=all", "--remove-destination"]);
        let _ = copy.args(["etc", "kind", "usr"].map(|dir| self.base.join(dir)));
        quietly(copy.arg(&root.0))?;
        for (name, to) in PROGRAMS {
            root.program(&self.bin.join(name), &format!("{to}/{name}"))?;
        }
        root.text("kind/version", &self.version()?)?;
        root.text("etc/containerd/cri-base.json", &self.spec()?)?;
        root.text("etc/containerd/config.toml", &self.containerd()?)?;
        for (key, value) in SYSCTLS {
            root.text(&format!("kind/sysctl/{key}"), &format!("{value}\n"))?;
        }
        root.text("kind/bin/keep-sysctls.sh", KEEP_SYSCTLS)?;
        root.text("kind/bin/load-images.sh", LOAD_SCRIPT)?;
        for dir in ["kind/bin", "usr/local/bin"] {
            root.executable(dir)?;
        }
        root.text("etc/systemd/system/load-images.service", LOAD_IMAGES)?;
        root.text("etc/systemd/journald.conf", "[Journal]\nReadKMsg=no\n")?;
        let wants = root.0.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).with_context(|| format!("creating {}", wants.display()))?;
        for unit in ["containerd", "kubelet", "undo-mount-hacks", "load-images"] {
            let unit = format!("{unit}.service");
            symlink(format!("/etc/systemd/system/{unit}"), wants.join(&unit))
                .with_context(|| format!("enabling {unit}"))?;
        }
        for (link, target) in [
            ("etc/systemd/system/default.target", "/usr/lib/systemd/system/multi-user.target"),
            ("usr/sbin/init", "/usr/lib/systemd/systemd"),
            ("etc/systemd/system/systemd-binfmt.service", "/dev/null"),
        ] {
            let link = root.path(link)?;
            symlink(target, &link).with_context(|| format!("linking {}", link.display()))?;
        }
        fs::create_dir_all(root.0.join("etc/kubernetes/manifests"))
            .context("creating the manifests' directory")?;
        self.images(&root)?;
        Ok(root.0)
    }

    /// Images of the components, named as this kubeadm wants them.
    fn images(&self, root: &Root) -> Result<()> {
        let version = self.version()?;
        let wanted = output(Command::new(self.bin.join("kubeadm")).args([
            "config",
            "images",
            "list",
            "--kubernetes-version",
            &version,
        ]))?;
        for image in wanted.lines() {
            let program = image.rsplit('/').next().and_then(|last| last.split(':').next());
            let Some(program) = program.filter(|name| !["pause", "kube-proxy"].contains(name))
            else {
                continue;
            };
            let to = root.path(&format!("kind/images/{program}.tar"))?;
            let file = format!("usr/local/bin/{program}");
            let component = Image {
                names: vec![image.to_owned()],
                entrypoint: vec![format!("/{file}")],
                programs: vec![(file, Image::program(&self.bin.join(program))?)],
                labels: vec![],
                ports: vec![],
            };
            let _ = component.save(Format::Docker, &to)?;
        }
        let to = root.path("kind/images/pause.tar")?;
        let _ = fs::copy(self.pause, &to)
            .with_context(|| format!("copying {}", self.pause.display()))?;
        Ok(())
    }

    fn version(&self) -> Result<String> {
        let said = output(Command::new(self.bin.join("kubelet")).arg("--version"))?;
        said.strip_prefix("Kubernetes ")
            .map(str::to_owned)
            .with_context(|| format!("kubelet --version said {said}"))
    }

    /// The description from which each container of the node begins.
    fn spec(&self) -> Result<String> {
        let text = output(Command::new(self.bin.join("ctr")).args(["oci", "spec"]))?;
        let mut spec: Value =
            serde_json::from_str(&text).context("parsing the output of `ctr oci spec`")?;
        if let Some(process) = spec["process"].as_object_mut() {
            let _ = process.remove("rlimits");
        }
        spec["hooks"]["createContainer"] = json!([{ "path": "/kind/bin/mount-product-files.sh" }]);
        Ok(spec.to_string())
    }

    /// kind's configuration of containerd, for a root that may not lower what the kernel's killer thinks of
    /// a process, and with the name of our own image.
    fn containerd(&self) -> Result<String> {
        let path = self.base.join("etc/containerd/config.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let pause = image_name(self.pause)?;
        let lines = text.lines().map(|line| {
            let indent = &line[..line.len() - line.trim_start().len()];
            match line.trim().split(' ').next() {
                Some("restrict_oom_score_adj") => {
                    format!("{indent}restrict_oom_score_adj = true\n")
                }
                Some("sandbox_image") => format!("{indent}sandbox_image = \"{pause}\"\n"),
                _ => format!("{line}\n"),
            }
        });
        Ok(lines.collect())
    }
}

/// The name that an image archive gives its image.
fn image_name(archive: &Path) -> Result<String> {
    let text = output(Command::new("tar").arg("-xOf").arg(archive).arg("manifest.json"))?;
    let manifest: Value = serde_json::from_str(&text)
        .with_context(|| format!("parsing manifest.json of {}", archive.display()))?;
    let name = manifest[0]["RepoTags"][0].as_str();
    name.map(str::to_owned).with_context(|| format!("{} names no image", archive.display()))
}

/// Where the node has its programs.
const PROGRAMS: [(&str, &str); 11] = [
    ("containerd", "usr/local/bin"),
    ("containerd-shim-runc-v2", "usr/local/bin"),
    ("ctr", "usr/local/bin"),
    ("runc", "usr/local/sbin"),
    ("kubeadm", "usr/bin"),
    ("kubectl", "usr/bin"),
    ("kubelet", "usr/bin"),
    ("host-local", "opt/cni/bin"),
    ("loopback", "opt/cni/bin"),
    ("portmap", "opt/cni/bin"),
    ("ptp", "opt/cni/bin"),
];

/// A directory tree under way.
struct Root(PathBuf);

impl Root {
    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let dir = path.parent().context("a file of the image is in a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).with_context(|| format!("replacing {}", path.display()))?;
        }
        Ok(path)
    }

    fn text(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name)?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn program(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.path(name)?;
        let _ = fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {} executable", to.display()))
    }

    fn executable(&self, dir: &str) -> Result<()> {
        let dir = self.0.join(dir);
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("making {} executable", path.display()))?;
        }
        Ok(())
    }
}

/// The tree as an image.
fn import(engine: &Engine, root: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    let _ = tar.args(["--create", "--numeric-owner", "--file", "-", "-C"]).arg(root).arg(".");
    let mut packing = tar
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{}`", words(&tar)))?;
    let mut import = engine.docker();
    let _ = import
        .args(["import", "--change", "ENTRYPOINT [\"/kind/bin/keep-sysctls.sh\"]"])
        .args(["--change", "ENV container=docker", "-", NAME])
        .stdin(packing.stdout.take().context("the output of tar is a pipe")?);
    let done = import.output().context("starting `docker import`")?;
    // Our end of the pipe; with it open, tar would wait for ever for an import that failed.
    drop(import);
    let packed = packing.wait().context("waiting for tar")?;
    ensure!(
        done.status.success(),
        "`docker import` ended with {}: {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim_end()
    );
    ensure!(packed.success(), "packing the node image: tar ended with {packed}");
    Ok(())
}
