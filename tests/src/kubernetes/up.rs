//! Bringing a cluster up: one step after the other, each with its time and a deadline.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    addons,
    cluster::Cluster,
    control,
    down::down,
    hierarchy,
    network::{self, node_name},
    node,
    options::{AgentMode, Options},
    plan::{self, Plan},
    process::Identity,
    record::{self, Owned, Record},
};

/// What the process that makes a cluster is called in the record.
pub(super) const MAKER: &str = "up";

/// File in the state directory of a cluster that has come up.
const READY: &str = "ready";

/// How long nodes and pods may take to be ready.
const PATIENCE: Duration = Duration::from_secs(180);

impl Cluster {
    /// Makes a cluster and waits until every part of it works.
    ///
    /// # Errors
    ///
    /// There is one of this name already, something is missing, or a part did not become ready;
    /// the error shows the end of its log. What was made until then stays, for a look at it, and
    /// goes with [`down()`] or the next attempt.
    pub fn up(options: Options) -> Result<Self> {
        options.check()?;
        let begin = Instant::now();
        let progress = Progress { shown: options.progress };
        let plan = Plan::new(&options.name);
        let record = begin_record(&plan)?;
        let made = make(options, plan.clone(), &record, &progress);
        let cluster = made.with_context(|| {
            format!(
                "the cluster {0} did not come up; `cargo xtask cluster down --name {0}` removes what \
                 there is of it, its logs are in {1}",
                plan.name(),
                plan.state().join("logs").display()
            )
        })?;
        let ready = plan.state().join(READY);
        fs::write(&ready, "").with_context(|| format!("writing {}", ready.display()))?;
        progress.say(&format!("the cluster is up after {:.1} s", begin.elapsed().as_secs_f32()));
        Ok(cluster)
    }
}

fn make(options: Options, plan: Plan, record: &Record, progress: &Progress) -> Result<Cluster> {
    let nodes = options.nodes;
    progress.step("namespaces, links, certificates", || {
        own(&plan, record)?;
        network::build(&plan, record, nodes)?;
        let names: Vec<String> = (1..=nodes).map(node_name).collect();
        control::certify(&plan, &names)?;
        control::audit(&plan)?;
        let executable = executable()?;
        (1..=nodes).try_for_each(|number| node::separate(&plan, record, &executable, number))
    })?;
    let cluster = Cluster::assemble(options, plan)?;
    cluster.save()?;
    progress.step("etcd, API server, containerd with the images, kubelets", || start(&cluster))?;
    progress.step("applying CoreDNS and the agent", || addons::apply(&cluster))?;
    progress.step("waiting for the nodes", || wait_nodes(&cluster))?;
    if cluster.options().agent != AgentMode::None {
        progress.step("waiting for the agents", || addons::wait_agent(&cluster, PATIENCE))?;
        progress.step("waiting for CoreDNS, which needs them", || {
            addons::wait_dns(&cluster, PATIENCE)
        })?;
    }
    Ok(cluster)
}

/// Starts the control plane, and beside it the nodes.
fn start(cluster: &Cluster) -> Result<()> {
    cluster.start_component("etcd")?;
    cluster.start_component("kube-apiserver")?;
    thread::scope(|threads| {
        let starting: Vec<_> = (1..)
            .zip(cluster.nodes())
            .map(|(number, node)| {
                threads.spawn(move || (node, node::runtime(cluster, node, number)))
            })
            .collect();
        cluster.wait_api_server()?;
        register(cluster)?;
        for starting in starting {
            let (node, started) =
                starting.join().map_err(|_panic| anyhow!("starting a node panicked"))?;
            started?;
            node::kubelet(cluster, node)?;
        }
        anyhow::Ok(())
    })?;
    cluster.start_component("kube-controller-manager")?;
    cluster.start_component("kube-scheduler")
}

fn wait_nodes(cluster: &Cluster) -> Result<()> {
    let kubelets: Vec<String> =
        cluster.nodes().iter().map(|node| format!("{}-kubelet", node.name)).collect();
    let mut responsible: Vec<&str> = kubelets.iter().map(String::as_str).collect();
    responsible.extend(["kube-controller-manager", "kube-scheduler"]);
    let words = ["wait", "--timeout=2s", "node", "--all", "--for=condition=Ready"];
    cluster.until("the nodes to be Ready", PATIENCE, &responsible, || {
        Ok(cluster.kubectl(&words).is_ok())
    })
}

/// Takes the cluster's name: what an unfinished cluster left behind is removed, one that is up is not.
fn begin_record(plan: &Plan) -> Result<Record> {
    let state = plan.state();
    if state.exists() {
        let name = plan.name();
        let processes = record::processes(&state);
        let maker = processes.iter().find(|(component, _)| component == MAKER);
        if maker.is_some_and(|(_, identity)| identity.runs()) {
            bail!("the cluster {name} is just being made");
        }
        if state.join(READY).exists() && Cluster::open(name).is_ok() {
            bail!("the cluster {name} is up: `cargo xtask cluster down --name {name}` removes it");
        }
        let _ = down(name)?;
    }
    for dir in [plan.state().join("logs"), plan.pki()] {
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let record = Record::open(&state)?;
    let own = i32::try_from(std::process::id())?;
    let identity = Identity::of(own).context("finding the start time of this process")?;
    record.add(&Owned::Process(MAKER.to_owned(), identity))?;
    Ok(record)
}

/// Records and makes the cluster's cgroups and its data directory.
fn own(plan: &Plan, record: &Record) -> Result<()> {
    for hierarchy in hierarchy::all()? {
        record.add(&Owned::Cgroup(hierarchy.root.join(plan.cgroup())))?;
        let _ = hierarchy.create(&plan.cgroup())?;
    }
    let data = plan.data();
    record.add(&Owned::Directory(data.clone()))?;
    fs::create_dir_all(data.join("etcd")).with_context(|| format!("creating {}", data.display()))
}

/// Creates the Node objects before the kubelets do, so that each gets the pod networks for which
/// the routes are there.
fn register(cluster: &Cluster) -> Result<()> {
    let mut yaml = String::new();
    for (number, node) in (1..).zip(cluster.nodes()) {
        let [v4, v6] = plan::pod_networks(number).map(plan::text);
        yaml.push_str(&format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {}\nspec:\n  podCIDR: {v4}\n  podCIDRs: [{v4}, \"{v6}\"]\n",
            node.name
        ));
    }
    cluster.apply(&yaml)
}

/// The `lb-cluster` binary: the running program, or the one built beside the lab's.
fn executable() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    if own.file_stem().is_some_and(|stem| stem == "lb-cluster") {
        return Ok(own);
    }
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("lb-cluster"))
        .find(|path| path.exists())
        .context("no lb-cluster beside the running program: build it")
}

/// What is being done, on standard error.
struct Progress {
    shown: bool,
}

impl Progress {
    fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        self.say(&format!("==> {what} …"));
        let done = work().with_context(|| what.to_owned())?;
        self.say(&format!("    {what} — done in {:.1} s", begin.elapsed().as_secs_f32()));
        Ok(done)
    }

    fn say(&self, line: &str) {
        if self.shown {
            eprintln!("{line}");
        }
    }
}
