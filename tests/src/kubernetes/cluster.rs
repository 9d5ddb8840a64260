//! A running cluster, opened by its name: whoever holds it may use it, and it outlives them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;

use super::{
    control, hierarchy,
    node::{self, Node},
    options::{self, Options},
    plan::Plan,
    pods, process,
    process::Identity,
    record::{self, Owned, Record},
};
use crate::lab::{Place, netns};

/// File of a cluster's options in its state directory.
const OPTIONS: &str = "options.json";

/// A running cluster.
pub struct Cluster {
    options: Options,
    plan: Plan,
    record: Record,
    control: Place,
    client: Place,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Opens the cluster called `name`, which `up` has made.
    pub fn open(name: &str) -> Result<Self> {
        options::check_name(name)?;
        let plan = Plan::new(name);
        let path = plan.state().join(OPTIONS);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no cluster {name} is up: `cargo xtask cluster up` makes one")
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let options =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        Self::assemble(options, plan)
    }

    /// The cluster whose namespaces are all there, with or without processes.
    pub(super) fn assemble(options: Options, plan: Plan) -> Result<Self> {
        let held = record::processes(&plan.state());
        let nodes = (1..=options.nodes)
            .map(|number| {
                let holder = Node::holder(number);
                let (_, identity) = held
                    .iter()
                    .find(|(name, _)| *name == holder)
                    .with_context(|| format!("{holder} was never started"))?;
                Node::open(&plan, number, *identity)
            })
            .collect::<Result<Vec<_>>>()
            .with_context(|| {
                format!(
                    "the cluster {0} is broken: `cargo xtask cluster down --name {0}` removes it",
                    plan.name()
                )
            })?;
        let place = |name: &str| {
            let netns = Path::new(netns::NAMES).join(plan.netns(name));
            let hierarchies = hierarchy::all()?;
            let first = hierarchies.first().context("no cgroup hierarchy")?;
            Place::among(&netns, vec![first.create(&plan.cgroup().join(name))?], &[])
        };
        Ok(Self {
            control: place("control")?,
            client: place("client")?,
            record: Record::open(&plan.state())?,
            nodes,
            options,
            plan,
        })
    }

    /// Writes down the options, by which the cluster can be opened.
    pub(super) fn save(&self) -> Result<()> {
        let path = self.plan.state().join(OPTIONS);
        fs::write(&path, serde_json::to_vec_pretty(&self.options)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.plan.name()
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Directory of its record, certificates and logs.
    pub fn dir(&self) -> PathBuf {
        self.plan.state()
    }

    /// The administrator's kubeconfig. It leads somewhere only inside of the cluster's places.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plan.pki().join("admin.conf")
    }

    /// Where the API server writes down what the agents ask of it, a JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.plan.log("audit")
    }

    /// The nodes, `node1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node, counted from 0.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes.get(index).with_context(|| format!("the cluster has no node {}", index + 1))
    }

    /// Outside of the cluster, on the nodes' link. kubectl runs here too.
    pub fn client(&self) -> &Place {
        &self.client
    }

    /// Where the control plane runs.
    pub fn control(&self) -> &Place {
        &self.control
    }

    /// Inside of a running pod: its network, its cgroup, the node's files.
    pub fn pod(&self, namespace: &str, pod: &str) -> Result<Place> {
        pods::place(self, namespace, pod)
    }

    /// Runs kubectl as administrator and returns what it wrote to standard output.
    pub fn kubectl<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        self.kubectl_with(words, "")
    }

    /// Creates or changes the objects in a YAML text.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], yaml).map(drop)
    }

    /// Runs kubectl with an input.
    pub fn kubectl_with<S: AsRef<OsStr>>(&self, words: &[S], input: &str) -> Result<String> {
        let mut child = self
            .client
            .command(self.program("kubectl"))?
            .envs(self.environment())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting kubectl")?;
        let mut to = child.stdin.take().expect("standard input is piped");
        // kubectl may end without having read all; its exit code says what is wrong.
        let _ = to.write_all(input.as_bytes()).ok();
        drop(to);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", words.join(" "), said.trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs kubectl and reads its answer as JSON.
    pub fn json(&self, words: &[&str]) -> Result<serde_json::Value> {
        let text = self.kubectl(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("reading kubectl {}", words.join(" ")))
    }

    /// Stops the API server, as an outage would: at once.
    pub fn stop_api_server(&self) -> Result<()> {
        self.stop("kube-apiserver", Signal::SIGKILL)
    }

    /// Starts the API server and waits until it is ready.
    pub fn start_api_server(&self) -> Result<()> {
        let running = self.process("kube-apiserver").is_some_and(Identity::runs);
        ensure!(!running, "the API server of {} runs already", self.name());
        self.start_component("kube-apiserver")?;
        self.wait_api_server()
    }

    /// Gives every node an image archive.
    pub fn import(&self, image: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|one| node::import(self, one, image))
    }

    /// The environment of commands in this cluster: KUBECONFIG, PATH, HOME for caches.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("KUBECONFIG", self.kubeconfig().into()),
            ("PATH", self.path()),
            ("KUBECACHEDIR", self.dir().join("cache").into()),
            ("LB_BIN", self.options.lb.clone().into()),
        ]
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// PATH with the components and the agent first.
    pub(super) fn path(&self) -> OsString {
        let mut dirs = vec![self.options.bin.clone()];
        dirs.extend(self.options.lb.parent().map(Path::to_owned));
        dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        dirs.extend(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
        env::join_paths(dirs).unwrap_or_default()
    }

    /// The program of a component.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.options.bin.join(name)
    }

    /// Starts a component's process and records it.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<()> {
        let identity = process::start(command, &self.plan.log(name))?;
        self.record.add(&Owned::Process(name.to_owned(), identity))
    }

    /// Starts a component of the control plane.
    pub(super) fn start_component(&self, name: &str) -> Result<()> {
        self.start(name, &mut control::command(self, name)?)
    }

    /// Ends a component's process and waits until it has ended.
    pub(super) fn stop(&self, name: &str, signal: Signal) -> Result<()> {
        let identity = self.process(name).with_context(|| format!("{name} was never started"))?;
        identity.signal(signal);
        node::gone(&format!("{name} to end"), identity)
    }

    /// The latest process of a component.
    pub(super) fn process(&self, name: &str) -> Option<Identity> {
        let all = record::processes(&self.plan.state());
        all.into_iter().find_map(|(known, identity)| (known == name).then_some(identity))
    }

    /// Waits until the API server is ready.
    pub(super) fn wait_api_server(&self) -> Result<()> {
        let patience = Duration::from_secs(90);
        self.until("the API server", patience, &["kube-apiserver", "etcd"], || {
            Ok(self.kubectl(&["get", "--raw", "/readyz"]).is_ok())
        })
    }

    /// Waits for a condition while the components that bring it about run. When one of them ends,
    /// or the time is up, the error shows the last lines of their logs.
    pub(super) fn until(
        &self,
        what: &str,
        patience: Duration,
        components: &[&str],
        mut ask: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let begin = Instant::now();
        loop {
            if ask()? {
                return Ok(());
            }
            for component in components {
                if !self.process(component).is_some_and(Identity::runs) {
                    return Err(self.explain(&format!("{component} has ended"), &[component]));
                }
            }
            if begin.elapsed() > patience {
                let what = format!("waited {patience:?} for {what}");
                return Err(self.explain(&what, components));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An error that shows the last lines of components' logs and says where the logs are.
    pub(super) fn explain(&self, what: &str, components: &[&str]) -> anyhow::Error {
        let mut text = what.to_owned();
        for component in components {
            let log = self.plan.log(component);
            let lines = process::tail(&log, 12);
            text.push_str(&format!("\n--- the end of {}\n{lines}", log.display()));
        }
        anyhow!(text)
    }
}
