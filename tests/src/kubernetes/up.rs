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
        let nodes = options.nodes;
        progress.step("namespaces, links, certificates", || {
            own(&plan, &record)?;
            network::build(&plan, &record, nodes)?;
            let names: Vec<String> = (1..=nodes).map(node_name).collect();
            control::certify(&plan, &names)?;
            control::audit(&plan)?;
            let executable = executable()?;
            (1..=nodes).try_for_each(|number| node::separate(&plan, &record, &executable, number))
        })?;
        let cluster = Self::assemble(options, plan)?;
        progress.step("etcd, API server, containerd with the images, kubelets", || {
            cluster.start_component("etcd")?;
            cluster.start_component("kube-apiserver")?;
            let running = &cluster;
            let numbered: Vec<_> = (1..=nodes).zip(cluster.nodes()).collect();
            thread::scope(|threads| {
                let starting: Vec<_> = numbered
                    .into_iter()
                    .map(|(number, node)| {
                        threads.spawn(move || (node, node::runtime(running, node, number)))
                    })
                    .collect();
                cluster.wait_api_server()?;
                register(&cluster)?;
                for starting in starting {
                    let (node, started) =
                        starting.join().map_err(|_panic| anyhow!("starting a node panicked"))?;
                    started?;
                    node::kubelet(&cluster, node)?;
                }
                anyhow::Ok(())
            })?;
            cluster.start_component("kube-controller-manager")?;
            cluster.start_component("kube-scheduler")
        })?;
        progress.step("applying CoreDNS and the agent", || addons::apply(&cluster))?;
        let kubelets: Vec<String> =
            cluster.nodes().iter().map(|node| format!("{}-kubelet", node.name)).collect();
        let mut responsible: Vec<&str> = kubelets.iter().map(String::as_str).collect();
        responsible.extend(["kube-controller-manager", "kube-scheduler"]);
        progress.step("waiting for the nodes", || {
            let all = ["node", "--all", "--for=condition=Ready"];
            cluster.until("the nodes to be Ready", PATIENCE, &responsible, || {
                Ok(cluster.kubectl(&[&["wait", "--timeout=2s"], &all[..]].concat()).is_ok())
            })
        })?;
        if cluster.options().agent != AgentMode::None {
            progress.step("waiting for the agents", || addons::wait_agent(&cluster, PATIENCE))?;
            progress.step("waiting for CoreDNS, which needs them", || {
                addons::wait_dns(&cluster, PATIENCE)
            })?;
        }
        cluster.save()?;
        progress.say(&format!("the cluster is up after {:.1} s", begin.elapsed().as_secs_f32()));
        Ok(cluster)
    }
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
        if Cluster::open(name).is_ok() {
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
        let done = work().with_context(|| format!("making the cluster: {what}"))?;
        self.say(&format!("    {what} — done in {:.1} s", begin.elapsed().as_secs_f32()));
        Ok(done)
    }

    fn say(&self, line: &str) {
        if self.shown {
            eprintln!("{line}");
        }
    }
}
