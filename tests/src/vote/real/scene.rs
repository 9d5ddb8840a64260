//! Where the tour takes place: a cluster, a machine outside of it, and what was created on the way.
//!
//! Invariant: what the tour made is removed when the scene is dropped, also while an error passes: the
//! whole cluster if it is the tour's own, else the objects that the tour created.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::{
    interrupt,
    screen::{Said, Screen, silently},
};
use crate::{
    kubernetes::{Options, Temporary},
    lab::{Commands, Place},
};

/// How long anything in a cluster may take: pods start and end in their own time.
const PATIENCE: Duration = Duration::from_secs(120);
/// The objects of the tour, as kubectl names them.
const OBJECTS: [&str; 3] = ["deployment/vote", "service/vote", "pod/shop"];

/// A node of the cluster.
pub(super) struct Machine {
    /// Its name.
    pub(super) name: String,
    /// Its addresses, IPv4 first.
    pub(super) addresses: Vec<IpAddr>,
    /// Where its own processes run, if it can be entered.
    pub(super) place: Option<Place>,
    /// The pod of its agent.
    agent: String,
}

/// The cluster and what surrounds it.
pub(super) struct Scene {
    /// The nodes.
    pub(super) nodes: Vec<Machine>,
    /// A machine that is no node.
    pub(super) outside: Place,
    /// What commands need in front of them.
    environment: String,
    own: Option<Temporary>,
    /// Whether the tour's objects are its to delete.
    created: bool,
}

impl Scene {
    /// Brings up a cluster of two nodes.
    pub(super) fn make() -> Result<Self> {
        let cluster = Temporary::up(Options { progress: true, ..Options::default() })?;
        interrupt::check()?;
        let environment = cluster.environment().into_iter();
        let environment = environment.map(|(name, value)| format!("{name}='{}'", value.display()));
        let environment = environment.collect::<Vec<_>>().join(" ");
        let outside = cluster.client().clone();
        let mut scene =
            Self { nodes: Vec::new(), outside, environment, own: Some(cluster), created: false };
        scene.find_nodes()?;
        Ok(scene)
    }

    /// Takes the cluster that a kubeconfig leads to, with this machine outside of it.
    pub(super) fn of_kubeconfig(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = fs::canonicalize(kubeconfig)
            .with_context(|| format!("looking for {}", kubeconfig.display()))?;
        let outside = Place::among(Path::new("/proc/self/ns/net"), Vec::new(), &[])?;
        let tools = Options::default().bin;
        let environment =
            format!("KUBECONFIG='{}' PATH=\"$PATH:{}\"", kubeconfig.display(), tools.display());
        let mut scene = Self { nodes: Vec::new(), outside, environment, own: None, created: false };
        scene.find_nodes()?;
        Ok(scene)
    }

    fn find_nodes(&mut self) -> Result<()> {
        let nodes = self.json("get nodes")?;
        let agents = self.json("-n kube-system get pods -l k8s-app=lb")?;
        for node in items(&nodes) {
            let name = text(&node["metadata"]["name"]);
            let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
            let addresses = addresses
                .filter(|address| address["type"] == "InternalIP")
                .filter_map(|address| text(&address["address"]).parse().ok())
                .collect();
            let agent = items(&agents)
                .find(|pod| text(&pod["spec"]["nodeName"]) == name)
                .map(|pod| text(&pod["metadata"]["name"]));
            let agent = agent.with_context(|| {
                format!("no agent on {name}: install it with `kubectl apply -k deploy/`")
            })?;
            let own = self.own.as_ref().and_then(|own| {
                own.nodes().iter().find(|known| known.name == name).map(|node| node.place.clone())
            });
            self.nodes.push(Machine { name, addresses, place: own, agent });
        }
        ensure!(!self.nodes.is_empty(), "the cluster has no node");
        Ok(())
    }

    /// Makes sure that nobody else's objects have the names of the tour's; from now on these are its
    /// own.
    pub(super) fn vacant(&mut self) -> Result<()> {
        for object in OBJECTS {
            let said =
                self.silently(&format!("kubectl -n default get {object} --ignore-not-found"))?;
            ensure!(said.code == Some(0), "the cluster does not answer: {}", said.text.trim());
            ensure!(said.text.trim().is_empty(), "{object} exists already in namespace default");
        }
        self.created = true;
        Ok(())
    }

    /// Runs a command line outside, with its output shown; kubectl is in its path.
    pub(super) fn run(&self, screen: &Screen, line: &str) -> Result<Said> {
        self.run_at(screen, "client", &self.outside, line)
    }

    /// The same in another place.
    pub(super) fn run_at(
        &self,
        screen: &Screen,
        who: &str,
        place: &Place,
        line: &str,
    ) -> Result<Said> {
        let said = self.quietly_at(screen, who, place, line)?;
        for line in said.text.lines() {
            screen.line(&format!("  {line}"));
        }
        Ok(said)
    }

    /// The same, leaving the output to the caller.
    pub(super) fn quietly_at(
        &self,
        screen: &Screen,
        who: &str,
        place: &Place,
        line: &str,
    ) -> Result<Said> {
        interrupt::check()?;
        screen.line(&format!(
            "\n{} {}",
            screen.paint("36", &format!("{who} $")),
            screen.paint("1", line)
        ));
        // What is shown is what a user types; paths are this tour's.
        silently(place, &format!("export {}; {line}", self.environment))
    }

    fn silently(&self, line: &str) -> Result<Said> {
        silently(&self.outside, &format!("export {}; {line}", self.environment))
    }

    /// What kubectl knows, without showing it.
    pub(super) fn json(&self, words: &str) -> Result<Value> {
        let said = self.silently(&format!("kubectl {words} -o json"))?;
        serde_json::from_str(&said.text)
            .with_context(|| format!("kubectl {words}: {}", said.text.trim()))
    }

    /// `lb WORDS` in the agent's pod of a node, as typed.
    pub(super) fn lb(&self, node: &Machine, words: &str) -> String {
        format!("kubectl -n kube-system exec {} -- /lb {words}", node.agent)
    }

    /// The commands of a node that can be entered.
    pub(super) fn commands(&self, node: &Machine) -> Option<Commands> {
        let place = node.place.clone()?;
        Some(Commands::at(place, "/sys/fs/bpf/lb".into(), "/run/lb".into()))
    }

    /// A place inside of a pod, where pods can be entered.
    pub(super) fn pod(&self, name: &str) -> Result<Option<Place>> {
        self.own.as_ref().map(|own| own.pod("default", name)).transpose()
    }

    /// The ready pods of the Deployment, by name.
    pub(super) fn pods(&self) -> Result<BTreeSet<String>> {
        let pods = self.json("-n default get pods -l app=vote")?;
        let ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.clone().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        Ok(items(&pods).filter(ready).map(|pod| text(&pod["metadata"]["name"])).collect())
    }

    /// Waits until so many pods are ready and every node gives new connections to exactly them, by so
    /// many families.
    pub(super) fn settled(&self, pods: usize, families: usize) -> Result<()> {
        self.until(&format!("{pods} pods of vote, and every node with them"), || {
            if self.pods()?.len() != pods {
                return Ok(false);
            }
            self.programmed(pods * families)
        })
    }

    /// Waits until no node has a backend for the Service.
    pub(super) fn emptied(&self) -> Result<()> {
        self.until("every node without backends for vote", || self.programmed(0))
    }

    fn programmed(&self, backends: usize) -> Result<bool> {
        for node in &self.nodes {
            let line = self.lb(node, "backends --service default/vote -o json");
            let rows: Option<Vec<Value>> = serde_json::from_str(&self.silently(&line)?.text).ok();
            let selectable = |rows: &Vec<Value>| {
                rows.iter().filter(|row| row["slots"].as_u64() > Some(0)).count()
            };
            if rows.as_ref().map(selectable) != Some(backends) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for a condition.
    pub(super) fn until(&self, what: &str, ask: impl Fn() -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        while !ask()? {
            interrupt::check()?;
            if begin.elapsed() > PATIENCE {
                let events = self.silently("kubectl -n default get pods,endpointslices -o wide")?;
                bail!("waited {PATIENCE:?} for {what}\n{}", events.text);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What to try while the lab stays up.
    pub(super) fn hints(&self, screen: &Screen) {
        let enter = match &self.own {
            Some(own) => format!("cargo xtask cluster shell --name {} -- ", own.name()),
            None => String::new(),
        };
        let node = &self.nodes[0];
        let address = node.addresses.first().map(ToString::to_string).unwrap_or_default();
        screen.line(&format!(
            "
the lab stays up until Ctrl-C. In another terminal, try

  {enter}kubectl get endpointslices -w
  {enter}curl http://{address}:30000/
  {enter}{}
  {enter}{}",
            self.lb(node, "flows --service vote"),
            self.lb(node, "status"),
        ));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if self.own.is_none() && self.created {
            let line = format!("kubectl -n default delete {} --timeout=60s", OBJECTS.join(" "));
            let line = format!("{line} --ignore-not-found");
            match self.silently(&line) {
                Ok(Said { code: Some(0), .. }) => {}
                Ok(said) => eprintln!("not deleted: {}", said.text.trim()),
                Err(error) => eprintln!("not deleted: {error:#}"),
            }
        }
    }
}

/// The objects of a list.
pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// A text of an object; empty where there is none.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
