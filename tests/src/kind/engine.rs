//! A container engine of our own: Debian's docker, in namespaces of its own.
//!
//! The engine is the first process of a PID namespace, has its own network namespace, and sees the
//! directories that it writes to (`/etc`, `/run`, `/lib`) through overlays that only it has. So the machine
//! keeps its links, filter rules and mounts, and when the first process ends, however it ends, the kernel
//! takes everything with it. Only cgroups and one directory outlive that; [`Traces`] removes them.

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};

use super::{
    debian,
    shell::{attempt, quietly},
    traces::Traces,
};
use crate::lab::until;

/// How long the engine may take to answer or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running engine; stopped on drop.
pub(super) struct Engine {
    unshare: Child,
    first: Pid,
    packages: PathBuf,
    traces: Traces,
}

/// Unpacks what the machine lacks of the engine below `cache`, once, and returns where.
pub(super) fn fetch(cache: &Path) -> Result<PathBuf> {
    let packages = cache.join("engine");
    let complete = cache.join("engine.complete");
    if complete.exists() {
        return Ok(packages);
    }
    if packages.exists() {
        fs::remove_dir_all(&packages)
            .with_context(|| format!("removing {}", packages.display()))?;
    }
    debian::unpack(&["docker.io", "debootstrap", "iptables"], &packages)?;
    // The links that the packages' scripts would make.
    let bin = packages.join("usr/sbin");
    let tables = bin.join("xtables-nft-multi");
    if tables.exists() {
        for name in ["iptables", "ip6tables", "iptables-save", "iptables-restore"] {
            symlink(&tables, bin.join(name)).with_context(|| format!("linking {name}"))?;
        }
    }
    fs::write(&complete, "").with_context(|| format!("writing {}", complete.display()))?;
    Ok(packages)
}

impl Engine {
    /// Starts an engine that keeps its images below `cache`.
    pub(super) fn start(packages: &Path, cache: &Path) -> Result<Self> {
        let traces = Traces::create()?;
        let program = std::env::current_exe().context("finding this program")?;
        let runtime = cache.join("runtime");
        let runc = which("runc", packages)?;
        let script = format!(
            "#!/bin/sh\nexec '{}' runtime '{}' \"$@\"\n",
            program.display(),
            runc.display()
        );
        write_executable(&runtime, &script)?;
        let log = File::create(traces.dir().join("engine.log")).context("creating engine.log")?;
        let mut command = Command::new("unshare");
        let _ = command
            .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .args(["--propagation", "private"])
            .arg(program)
            .arg("engine")
            .args([traces.dir(), packages, cache])
            .arg(traces.name())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing engine.log")?)
            .stderr(log);
        die_with_parent(&mut command);
        let unshare = command.spawn().context("starting the engine with unshare")?;
        let first = until("the engine's first process", PATIENCE, || first_child(unshare.id()))?;
        let engine = Self { unshare, first, packages: packages.to_owned(), traces };
        until("the engine to answer", PATIENCE, || {
            Ok(attempt(engine.docker().arg("version"))?.status.success().then_some(()))
        })
        .with_context(|| engine.last_words())?;
        // What an engine left that was killed.
        let old = super::shell::output(engine.docker().args(["ps", "--all", "--quiet"]))?;
        if !old.is_empty() {
            quietly(engine.docker().args(["rm", "--force", "--volumes"]).args(old.lines()))?;
        }
        quietly(engine.docker().args(["volume", "prune", "--force"]))?;
        Ok(engine)
    }

    /// The engine's client.
    pub(super) fn docker(&self) -> Command {
        let own = self.packages.join("usr/bin/docker");
        let mut command = Command::new(if own.is_file() { own } else { "docker".into() });
        self.environment(&mut command);
        command
    }

    /// A program in the engine's network, outside of every container.
    pub(super) fn outside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        let _ = command.arg(format!("--net=/proc/{}/ns/net", self.first)).arg(program);
        self.environment(&mut command);
        command
    }

    /// The name under which everything of this engine goes.
    pub(super) fn name(&self) -> &str {
        self.traces.name()
    }

    /// A directory for files that end with the engine.
    pub(super) fn dir(&self) -> &Path {
        self.traces.dir()
    }

    fn environment(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = vec![self.packages.join("usr/bin")];
        dirs.extend(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(dirs) {
            let _ = command.env("PATH", path);
        }
        let socket = self.traces.dir().join("docker.sock");
        let _ = command
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env_remove("DOCKER_CONTEXT");
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.traces.dir().join("engine.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        format!("the engine said:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // In order, so that the images stay usable; then for certain.
        if kill(self.first, Signal::SIGTERM).is_ok() {
            let unshare = &mut self.unshare;
            drop(until("the engine to stop", PATIENCE, || Ok(unshare.try_wait()?)));
        }
        drop(self.unshare.kill());
        drop(self.unshare.wait());
        let process = PathBuf::from(format!("/proc/{}", self.first));
        drop(until("the engine's namespace to end", PATIENCE, || {
            Ok((!process.exists()).then_some(()))
        }));
    }
}

/// `lb-kind engine`: the first process in the new namespaces arranges what the engine sees, and becomes it.
///
/// # Errors
///
/// A mount that does not work, or an engine that does not start.
pub fn become_engine(state: &Path, packages: &Path, cache: &Path, name: &str) -> Result<()> {
    ensure!(std::process::id() == 1, "`lb-kind engine` is started by `lb-kind test`");
    // The state directory must stay the machine's own, though /run around it does not.
    let kept = File::open(state).with_context(|| format!("opening {}", state.display()))?;
    let handle = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
    let layers = state.join("layers");
    fs::create_dir_all(&layers).with_context(|| format!("creating {}", layers.display()))?;
    tmpfs(&layers)?;
    overlay(Path::new("/etc"), &layers.join("etc"))?;
    if !Path::new("/lib/modules").exists() {
        overlay(Path::new("/usr/lib"), &layers.join("lib"))?;
    }
    tmpfs(Path::new("/run"))?;
    fs::create_dir_all(state).with_context(|| format!("creating {}", state.display()))?;
    mount(Some(handle.as_str()), state, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {}", state.display()))?;
    drop(kept);
    quietly(Command::new("ip").args(["link", "set", "lo", "up"]))?;

    let dockerd = which("dockerd", packages)?;
    let mut command = Command::new(&dockerd);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![packages.join("usr/bin"), packages.join("usr/sbin")];
    dirs.extend(std::env::split_paths(&path));
    dirs.extend(["/usr/sbin".into(), "/sbin".into()]);
    let libraries = packages.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let _ = command
        .env("PATH", std::env::join_paths(dirs).context("a path of directories")?)
        .env("LD_LIBRARY_PATH", libraries);
    let help = attempt(command.arg("--help"))?;
    let adjusts = String::from_utf8_lossy(&help.stdout).contains("--oom-score-adjust");

    let mut engine = Command::new(&dockerd);
    for (key, value) in command.get_envs() {
        let _ = engine.env(key, value.unwrap_or_default());
    }
    let socket = format!("unix://{}", state.join("docker.sock").display());
    let runtime = format!("lb={}", cache.join("runtime").display());
    let _ = engine
        .arg("--data-root")
        .arg(cache.join("docker"))
        .args(["--exec-root", "/run/docker-exec", "--pidfile", "/run/docker.pid"])
        .args(["--host", &socket, "--config-file", "/run/docker.json"])
        .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .args(["--cgroup-parent", &format!("/{name}")])
        .args(["--add-runtime", &runtime, "--default-runtime", "lb"])
        .args(["--storage-driver", "overlay2", "--shutdown-timeout", "5"]);
    // The engine would protect itself from the kernel's killer, which not every root may.
    if adjusts {
        let _ = engine.args(["--oom-score-adjust", "0"]);
    }
    fs::write("/run/docker.json", "{}\n").context("writing the engine's configuration")?;
    let error = engine.exec();
    Err(error).with_context(|| format!("starting {}", dockerd.display()))
}

fn tmpfs(at: &Path) -> Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting a tmpfs at {}", at.display()))
}

/// Puts a layer that takes all writes over a directory of the machine.
fn overlay(at: &Path, layer: &Path) -> Result<()> {
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at.display(),
        upper.display(),
        work.display()
    );
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("mounting an overlay at {}", at.display()))
}

fn which(name: &str, packages: &Path) -> Result<PathBuf> {
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    let own = ["usr/sbin", "usr/bin"].map(|dir| packages.join(dir).join(name));
    let found = own.into_iter().chain(system.map(|dir| Path::new(dir).join(name)));
    found
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is neither among the unpacked packages nor installed"))
}

/// The kernel kills the command when this process is gone.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is a system call and may be made between fork and exec.
    unsafe {
        let _ = command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
}

/// Signals that this process ignores end the command all the same.
pub(super) fn mind_signals(command: &mut Command) {
    // SAFETY: sigaction is a system call and may be made between fork and exec; no handler is set.
    unsafe {
        let _ = command.pre_exec(|| {
            for ends in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                let _ = signal(ends, SigHandler::SigDfl).map_err(std::io::Error::from)?;
            }
            Ok(())
        });
    }
}

/// The one child of a process that has forked once.
fn first_child(parent: u32) -> Result<Option<Pid>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let Ok(children) = fs::read_to_string(&path) else {
        bail!("the engine ended at once: is unshare of util-linux installed?")
    };
    Ok(children.split_whitespace().next().and_then(|pid| pid.parse().ok()).map(Pid::from_raw))
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", path.display()))
}
