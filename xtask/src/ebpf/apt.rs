//! Debian as a source of Rust's sources, and of a whole compiler as the fallback.
//!
//! Packages are downloaded and unpacked below the target directory, never installed, and the machine's
//! package sources are only read: root is not needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process;
use crate::step::Step;

/// Suites that carry rust-src of recent compilers, newest-stable first.
const SUITES: [&str; 3] = ["trixie-backports", "sid", "trixie"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Unpacks the sources of exactly this release, such that `library` becomes Rust's `library` directory.
pub(super) fn fetch_rust_src(release: &str, library: &Path) -> Result<()> {
    let mirror = mirror()?;
    let step =
        Step::begin(format!("fetching the sources of Rust {release} from Debian (45 MB, once)"));
    let parent = library.parent().expect("the library has a place in the tools directory");
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    for suite in SUITES {
        let apt = PrivateApt::new(parent, &mirror, suite)?;
        let Some(version) = apt.version_of("rust-src", release)? else { continue };
        let package = apt.download(&format!("rust-src={version}"))?;
        // Unpacked beside and renamed: a directory with the final name is complete.
        unpack_library(&package, apt.dir.path())?;
        fs::rename(apt.dir.path().join("library"), library)
            .with_context(|| format!("moving the sources to {}", library.display()))?;
        step.done();
        return Ok(());
    }
    bail!("none of {} has rust-src {release}", SUITES.join(", "))
}

/// Where [`fetch_rustc_web`] puts the compiler. Written last: when it is there, all of it is there.
pub(super) fn rustc_web_in(home: &Path) -> PathBuf {
    home.join("rustc")
}

/// Unpacks Debian's `rustc-web` with everything that it needs, and returns a compiler that runs from there.
pub(super) fn fetch_rustc_web(home: &Path) -> Result<PathBuf> {
    let rustc = rustc_web_in(home);
    let step = Step::begin("fetching Debian's Rust compiler (140 MB, once)");
    fs::create_dir_all(home).with_context(|| format!("creating {}", home.display()))?;
    let plan = process::output(Command::new("apt-get").args([
        "-s",
        "-qq",
        "-o",
        "Debug::NoLocking=1",
        "install",
        "--no-install-recommends",
        "rustc-web",
        "rust-web-src",
    ]))?;
    let packages: Vec<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect();
    ensure!(!packages.is_empty(), "apt would install nothing for rustc-web");
    let debs = tempfile::tempdir_in(home).context("creating a download directory")?;
    process::quietly(
        Command::new("apt-get")
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
            .args(packages)
            .current_dir(debs.path()),
    )?;
    for deb in debs.path().read_dir().context("listing the downloaded packages")? {
        let deb = deb.context("listing the downloaded packages")?.path();
        process::quietly(Command::new("dpkg-deb").arg("-x").arg(deb).arg(home))?;
    }
    let libraries = home.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        libraries.display(),
        home.join("usr/bin/rustc").display()
    );
    write_executable(&rustc, &script)?;
    step.done();
    Ok(rustc)
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", path.display()))
}

/// The mirror that this machine uses for its own release.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME")?;
    if let Some(mirror) = mirror_for(codename)? {
        return Ok(mirror);
    }
    // A fresh image has empty package lists; root can fill them.
    process::quietly(Command::new("apt-get").args(["-qq", "update"]))
        .context("the package lists are empty: run `apt-get update` as root")?;
    mirror_for(codename)?.with_context(|| format!("apt knows no mirror of Debian {codename}"))
}

fn mirror_for(codename: &str) -> Result<Option<String>> {
    let targets = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE)",
        "Created-By: Packages",
    ]))?;
    Ok(targets.lines().find_map(|line| {
        let (site, release) = line.split_once(' ')?;
        (release == codename).then(|| site.to_owned())
    }))
}

/// An apt with package lists and downloads of its own.
struct PrivateApt {
    dir: tempfile::TempDir,
}

impl PrivateApt {
    fn new(parent: &Path, mirror: &str, suite: &str) -> Result<Self> {
        let dir = tempfile::tempdir_in(parent).context("creating a download directory")?;
        for sub in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.path().join(sub)).with_context(|| format!("creating {sub}"))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(dir.path().join("sources.list"), source)
            .context("writing a private sources.list")?;
        let apt = Self { dir };
        process::quietly(apt.command("apt-get").arg("update"))
            .with_context(|| format!("reading the package list of {suite}"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let dir = self.dir.path().display();
        let mut command = Command::new(program);
        let _ = command.current_dir(self.dir.path()).arg("-qq");
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache::archives={dir}/archives"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            let _ = command.arg("-o").arg(option);
        }
        command
    }

    /// The package version that holds this upstream release.
    fn version_of(&self, package: &str, release: &str) -> Result<Option<String>> {
        let table = process::output(self.command("apt-cache").args(["madison", package]))?;
        let versions = table.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
        let prefix = format!("{release}+");
        Ok(versions.into_iter().find(|version| version.starts_with(&prefix)).map(str::to_owned))
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        process::quietly(self.command("apt-get").args(["download", package]))?;
        let entries = self.dir.path().read_dir().context("listing the download")?;
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download {package} left no package"))
    }
}

fn unpack_library(package: &Path, into: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting dpkg-deb")?;
    let tar = archive.stdout.take().expect("standard output is piped");
    let status = Command::new("tar")
        .args(["-x", "--strip-components=4", "--wildcards", "--no-wildcards-match-slash", "-C"])
        .arg(into)
        .arg("./usr/src/rustc-*/library")
        .stdin(tar)
        .status()
        .context("starting tar")?;
    // tar may stop reading early, so only its own verdict counts.
    let _ = archive.wait().context("waiting for dpkg-deb")?;
    ensure!(status.success(), "tar ended with {status}");
    Ok(())
}
