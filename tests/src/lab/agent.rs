//! Agents: one `lb run` on a node, started, killed and started again.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    node::Node,
    place::Place,
    wait::{PATIENCE, until},
};

/// The `lb` binary: `LB_BIN`, or what `cargo xtask build` makes.
pub fn binary() -> PathBuf {
    std::env::var_os("LB_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lb"),
        PathBuf::from,
    )
}

/// How the commands of one node find its agent's maps and status.
#[derive(Clone)]
pub struct Commands {
    place: Place,
    pin_dir: PathBuf,
    state_dir: PathBuf,
}

impl Commands {
    /// The commands of a node.
    pub fn new(node: &Node) -> Self {
        Self {
            place: node.place.clone(),
            pin_dir: node.bpffs().join("lb"),
            state_dir: node.dir().join("state"),
        }
    }

    /// The commands of any place with an agent.
    pub const fn at(place: Place, pin_dir: PathBuf, state_dir: PathBuf) -> Self {
        Self { place, pin_dir, state_dir }
    }

    /// Where maps and links are pinned.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Where the agent keeps its status.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The place where they run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A command of the binary that knows this node's directories.
    pub fn lb(&self, words: &[impl AsRef<OsStr>]) -> Result<Command> {
        let mut command = self.place.command(binary())?;
        let _ = command
            .env("LB_PIN_DIR", &self.pin_dir)
            .env("LB_STATE_DIR", &self.state_dir)
            .args(words);
        Ok(command)
    }

    /// Runs a command and returns what it wrote to standard output as JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let Output { status, stdout, stderr } = self.lb(words)?.args(["-o", "json"]).output()?;
        // `lb status` fails when the node is not healthy, and says so in JSON all the same.
        serde_json::from_slice(&stdout).with_context(|| {
            let said = String::from_utf8_lossy(&stderr);
            format!("lb {} -o json: {status}: {said}", words.join(" "))
        })
    }
}

/// A running agent. Dropping it kills it; the datapath stays until the lab goes.
pub struct Agent {
    /// The commands of its node.
    pub commands: Commands,
    source: PathBuf,
    node: String,
    cgroup: PathBuf,
    log: PathBuf,
    flags: Vec<OsString>,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent on `node` that reads `source`, and waits until it is ready.
    pub fn start(node: &Node, source: &Path, flags: &[&str]) -> Result<Self> {
        let mut agent = Self {
            commands: Commands::new(node),
            source: source.to_owned(),
            node: node.name().to_owned(),
            cgroup: node.cgroup().to_owned(),
            log: node.dir().join("agent.log"),
            flags: flags.iter().map(OsString::from).collect(),
            child: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Other flags from the next start on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(OsString::from).collect();
    }

    /// Starts the agent, killing the one that still runs, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the agent without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = self
            .commands
            .lb(&["run"])?
            .arg("--source")
            .arg(&self.source)
            .arg("--cgroup-root")
            .arg(&self.cgroup)
            .args(["--node-name", &self.node])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", binary().display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Name of its node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills the agent with SIGKILL, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Asks the agent to end and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let status = until("the agent to end", PATIENCE, || Ok(child.try_wait()?))?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.log_tail());
        Ok(())
    }

    /// Waits until the agent has ended by itself.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the agent does not run")?;
        let status = until("the agent to end by itself", PATIENCE, || Ok(child.try_wait()?));
        if status.is_err() {
            self.child = Some(child);
        }
        status.with_context(|| self.log_tail())
    }

    /// `lb status` of this node.
    pub fn status(&self) -> Result<Value> {
        self.commands.json(&["status"])
    }

    /// Waits until the status satisfies `condition`.
    pub fn wait_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        until(what, PATIENCE, || {
            let Ok(status) = self.status() else { return Ok(None) };
            Ok(condition(&status).then_some(status))
        })
        .with_context(|| format!("{}: {}", self.node, self.log_tail()))
    }

    /// Waits until this very process has programmed everything.
    pub fn wait_ready(&mut self) -> Result<()> {
        let pid = self.pid();
        let child = self.child.as_mut().context("the agent does not run")?;
        let commands = &self.commands;
        let ready = until("the agent to be ready", PATIENCE, || {
            if let Some(status) = child.try_wait()? {
                bail!("the agent ended with {status}");
            }
            let Ok(status) = commands.json(&["status"]) else { return Ok(None) };
            let ready = status["pid"].as_u64() == pid.map(u64::from)
                && status["source"]["synced"] == true
                && status["last_apply"].is_object();
            Ok(ready.then_some(()))
        });
        ready.with_context(|| format!("{}: {}", self.node, self.log_tail()))
    }

    /// Everything the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        format!("the log ends with\n{}", &log[from..])
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}
