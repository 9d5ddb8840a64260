//! The stage of the tour: two nodes, a client, `vote` with its replicas, and a pod that shops.

use std::{
    fmt::Write, fs, os::unix::process::CommandExt, path::Path, process::Command, time::Instant,
};

use anyhow::{Context, Result, bail};

use super::screen::Screen;
use crate::{
    cluster::{Cluster, Endpoint, Service},
    lab::{Lab, Place, Pod, Setup, binary},
    worker::Proto,
};

/// Most replicas that the tour asks for.
const MOST: usize = 8;
/// The Service's node port.
pub(super) const NODE_PORT: u16 = 30000;
/// Port of the pods.
const TARGET: u16 = 8080;

/// The running lab and what the "controllers" of its cluster know.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) service: Service,
    replicas: usize,
}

impl Stage {
    /// Builds the lab, starts the agents, creates the Service with five replicas.
    pub(super) fn set(screen: &mut Screen) -> Result<Self> {
        let begin = Instant::now();
        let mut cluster = Cluster::start(Setup { pods: vec![0, 0], ..Setup::default() }, &[])?;
        for number in 1..=MOST {
            let _ = cluster.lab.add_pod((number + 1) % 2, Some(&format!("vote-{number}")))?;
        }
        let _ = cluster.lab.add_pod(0, Some("shop"))?;
        let service =
            Service::new("vote", 10).port("http", Proto::Tcp, 80, TARGET, Some(NODE_PORT));
        let mut stage = Self { cluster, service, replicas: 0 };
        stage.scale(5)?;
        screen.line(&format!("the vote lab is up after {:.1} s\n", begin.elapsed().as_secs_f32()));
        screen.line(&stage.map());
        Ok(stage)
    }

    /// The lab.
    pub(super) fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    /// The replicas there are now.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        (1..=self.replicas).filter_map(|number| self.lab().pod(&format!("vote-{number}")).ok())
    }

    /// The pod that shops.
    pub(super) fn shop(&self) -> Result<&Pod> {
        self.lab().pod("shop")
    }

    /// Starts and stops pods until there are so many, then lets the endpoints follow.
    pub(super) fn scale(&mut self, replicas: usize) -> Result<()> {
        for pod in self.pods().skip(replicas) {
            for ip in pod.addresses.both() {
                pod.worker.stop(Proto::Tcp, (ip, TARGET).into())?;
            }
        }
        let before = self.replicas;
        self.replicas = replicas;
        for pod in self.pods().skip(before) {
            for ip in pod.addresses.both() {
                pod.worker.serve(Proto::Tcp, (ip, TARGET).into())?;
            }
        }
        self.endpoints()
    }

    /// Changes the Service's selector and lets the endpoints follow.
    pub(super) fn select(&mut self, app: &str) -> Result<()> {
        app.clone_into(&mut self.service.selector);
        self.endpoints()
    }

    /// What the endpoints controller does: the pods that the selector matches become endpoints.
    fn endpoints(&self) -> Result<()> {
        let selected = self.service.selector == "vote";
        let endpoints: Vec<_> = self.pods().filter(|_| selected).map(Endpoint::pod).collect();
        self.cluster.put(&self.service, &endpoints)
    }

    /// Who is where.
    fn map(&self) -> String {
        let mut map = String::from("             IPv4          IPv6\n");
        let mut line = |name: &str, v4: std::net::IpAddr, v6: std::net::IpAddr, what: &str| {
            let _ignored = writeln!(map, "  {name:<9}  {v4:<12}  {v6:<15}  {what}");
        };
        let client = &self.lab().client.addresses;
        line("client", client.v4, client.v6, "outside of the cluster");
        for node in &self.lab().nodes {
            line(node.name(), node.addresses.v4, node.addresses.v6, "node, runs `lb run`");
            for pod in &node.pods {
                let at = format!("pod on {}", node.name());
                line(pod.name(), pod.addresses.v4, pod.addresses.v6, &at);
            }
        }
        let vip = &self.service.addresses;
        line("Service", vip.v4, vip.v6, "vote: port 80, node port 30000");
        map
    }

    /// Leaves a note of every place for [`enter`], and says how to look around.
    pub(super) fn hints(&self, screen: &mut Screen) -> Result<()> {
        let lab = self.lab();
        let mut places: Vec<(&str, &Place)> = vec![("client", &lab.client.place)];
        for node in &lab.nodes {
            places.push((node.name(), &node.place));
            places.extend(node.pods.iter().map(|pod| (pod.name(), &pod.place)));
        }
        let dir = lab.dir().join("places");
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        for (name, place) in places {
            let note = dir.join(name);
            fs::create_dir(&note)?;
            std::os::unix::fs::symlink(place.netns_path(), note.join("netns"))?;
            std::os::unix::fs::symlink(place.cgroup(), note.join("cgroup"))?;
        }
        for agent in &self.cluster.agents {
            let note = dir.join(agent.node());
            std::os::unix::fs::symlink(agent.commands.pin_dir(), note.join("pins"))?;
            std::os::unix::fs::symlink(agent.commands.state_dir(), note.join("state"))?;
        }
        let own = std::env::current_exe()?;
        let enter = format!("{} enter", own.display());
        let objects = self.cluster.directory.path().display();
        screen.line(&format!(
            "
the lab stays up until Ctrl-C. In another terminal, try

  {enter} client curl http://10.0.0.1:{NODE_PORT}/
  {enter} shop curl http://10.96.0.10/
  {enter} node1 lb status
  {enter} node1 lb flows --service vote
  {enter} node2                                (a shell on node2)
  $EDITOR {objects}/default-vote-endpointslices.yaml

each place is a network namespace under /run/netns: {}, …",
            lab.client.netns.name(),
        ));
        Ok(())
    }
}

/// Replaces this process by a command, or a shell, in a place of a running vote lab.
///
/// # Errors
///
/// No lab runs, it has no such place, or the command cannot be started.
pub fn enter(name: &str, words: &[String]) -> Result<()> {
    let place = find(name)?;
    fs::write(place.join("cgroup/cgroup.procs"), "0").context("joining the place's cgroup")?;
    let netns = fs::File::open(place.join("netns")).context("opening the place's namespace")?;
    nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_unset| "/bin/sh".to_owned());
    let default = [shell];
    let words = if words.is_empty() { &default[..] } else { words };
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = binary().parent() {
        path = [dir.as_os_str(), path.as_os_str()].join(":".as_ref());
    }
    let mut command = Command::new(&words[0]);
    let _ = command.args(&words[1..]).env("PATH", path);
    for (variable, link) in [("LB_PIN_DIR", "pins"), ("LB_STATE_DIR", "state")] {
        if let Ok(dir) = fs::read_link(place.join(link)) {
            let _ = command.env(variable, dir);
        }
    }
    Err(command.exec()).with_context(|| format!("starting {}", words[0]))
}

fn find(name: &str) -> Result<std::path::PathBuf> {
    let mut known = Vec::new();
    for lab in fs::read_dir("/run/lb-lab").context("no lab runs")?.flatten() {
        let places = lab.path().join("places");
        for place in fs::read_dir(&places).into_iter().flatten().flatten() {
            if Path::new(&place.file_name()) == Path::new(name) {
                return Ok(place.path());
            }
            known.push(place.file_name().to_string_lossy().into_owned());
        }
    }
    known.sort();
    bail!("no lab that stays up has a place called {name}; there are: {}", known.join(", "))
}
