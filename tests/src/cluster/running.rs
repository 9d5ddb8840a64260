//! A lab with an agent on every node and one directory of objects that all of them read.

use std::{collections::BTreeSet, net::SocketAddr, thread};

use anyhow::{Context, Result, anyhow};

use super::{Condition, Directory, Endpoint, Service};
use crate::lab::{Agent, Commands, FAMILIES, Lab, PATIENCE, Setup, binary, missing, until};

/// A running cluster. Agents end before the lab does.
pub struct Cluster {
    /// One agent a node, in the order of the nodes.
    pub agents: Vec<Agent>,
    /// The objects.
    pub directory: Directory,
    /// Nodes, pods, client.
    pub lab: Lab,
}

impl Cluster {
    /// Starts a lab and an agent with these flags on each node.
    pub fn start(setup: Setup, flags: &[&str]) -> Result<Self> {
        let flags = [setup.network.agent_flags(), flags].concat();
        let lab = Lab::start(setup)?;
        let directory = Directory::create(lab.dir().join("objects"))?;
        let agents = thread::scope(|threads| {
            let starting: Vec<_> = lab
                .nodes
                .iter()
                .map(|node| threads.spawn(|| Agent::start(node, directory.path(), &flags)))
                .collect();
            starting
                .into_iter()
                .map(|agent| {
                    agent.join().map_err(|_panic| anyhow!("starting an agent panicked"))?
                })
                .collect::<Result<_>>()
        })?;
        Ok(Self { agents, directory, lab })
    }

    /// Starts a cluster; where that cannot be, says why and returns `None`.
    ///
    /// # Panics
    /// When the machine can hold a cluster and starting one fails all the same.
    pub fn start_or_skip(setup: Setup, flags: &[&str]) -> Option<Self> {
        let lb = binary();
        let reason = missing().or_else(|| {
            (!lb.exists()).then(|| format!("no {}: run `cargo xtask build`", lb.display()))
        });
        if let Some(reason) = reason {
            println!("SKIPPED: {reason}");
            return None;
        }
        Some(Self::start(setup, flags).unwrap_or_else(|error| panic!("starting: {error:#}")))
    }

    /// Writes a Service and its endpoints, and waits until every agent has programmed them.
    pub fn put(&self, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        self.directory.put_endpoints(service, endpoints)?;
        self.directory.put_service(service)?;
        self.settle(service, endpoints)
    }

    /// Waits until every agent gives exactly the ready ones of these endpoints to new connections.
    pub fn settle(&self, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        self.agents.iter().try_for_each(|agent| settle(agent, service, endpoints))
    }

    /// The same for the agent of one node, counted from 0.
    pub fn settle_on(&self, node: usize, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        settle(self.agents.get(node).context("no such node")?, service, endpoints)
    }
}

fn settle(agent: &Agent, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for endpoint in endpoints.iter().filter(|one| one.condition == Condition::Ready) {
        for port in &service.ports {
            for family in FAMILIES {
                let at = endpoint.addresses.at(family, port.target);
                let _ = wanted.insert((port.proto.name().to_owned(), at));
            }
        }
    }
    let name = format!("{}/{}", service.namespace, service.name);
    let mut last = None;
    until(&format!("{name} with {} endpoints", endpoints.len()), PATIENCE, || {
        last = selectable(&agent.commands, &name).ok();
        Ok((last.as_ref() == Some(&wanted)).then_some(()))
    })
    .with_context(|| format!("the maps have {last:?}; the log has {}", agent.log()))
}

/// The backends of a Service that new connections get, as the maps of one node have them.
fn selectable(commands: &Commands, service: &str) -> Result<BTreeSet<(String, SocketAddr)>> {
    let rows = commands.json(&["backends", "--service", service])?;
    let rows = rows.as_array().context("lb backends prints no list")?;
    rows.iter()
        .filter(|row| row["slots"].as_u64() > Some(0))
        .map(|row| {
            let protocol = row["protocol"].as_str().unwrap_or_default().to_owned();
            Ok((protocol, row["address"].as_str().unwrap_or_default().parse()?))
        })
        .collect()
}
