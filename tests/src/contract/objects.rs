//! The objects of a table, and the orders in which they reach the agents.

use anyhow::{Context, Result};

use super::scene::Scene;
use crate::{
    cluster::{Endpoint, Service, slices},
    lab::{PATIENCE, until},
    worker::Proto,
};

/// One file of the directory that agents read.
#[derive(Clone, Debug)]
struct File {
    name: String,
    text: String,
    is_service: bool,
}

/// All files.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects(Vec<File>);

impl Objects {
    /// Adds a Service and its endpoints, or replaces them.
    pub(super) fn put(&mut self, service: &Service, endpoints: &[Endpoint]) {
        let name = format!("{}-{}", service.namespace, service.name);
        self.raw(&format!("{name}-slices.yaml"), &slices(service, endpoints));
        self.add(File { name: format!("{name}.yaml"), text: service.yaml(), is_service: true });
    }

    /// Adds a file of any objects.
    pub(super) fn raw(&mut self, name: &str, text: &str) {
        self.add(File { name: name.to_owned(), text: text.to_owned(), is_service: false });
    }

    fn add(&mut self, file: File) {
        self.0.retain(|known| known.name != file.name);
        self.0.push(file);
    }

    /// Lets them arrive: what is no Service first, so that endpoints wait for theirs.
    pub(super) fn arrive(&self, scene: &Scene) -> Result<()> {
        self.write(scene, self.0.iter().filter(|file| !file.is_service))?;
        self.write(scene, self.0.iter().filter(|file| file.is_service))
    }

    /// Lets them arrive the other way round, the last of each kind first.
    pub(super) fn arrive_in_another_order(&self, scene: &Scene) -> Result<()> {
        self.write(scene, self.0.iter().rev().filter(|file| file.is_service))?;
        self.write(scene, self.0.iter().rev().filter(|file| !file.is_service))
    }

    /// Writes files and waits until every agent has taken them in.
    fn write<'a>(&self, scene: &Scene, files: impl Iterator<Item = &'a File>) -> Result<()> {
        for file in files {
            scene.cluster.directory.write(&file.name, &file.text)?;
        }
        taken_in(scene)
    }

    /// Removes them and waits until every agent knows.
    pub(super) fn leave(&self, scene: &Scene) -> Result<()> {
        for file in &self.0 {
            scene.cluster.directory.remove(&file.name)?;
        }
        taken_in(scene)
    }
}

/// Waits until every agent has programmed what was written before. A Service that is written last and
/// comes last by name tells: whoever has its newest port has everything else.
pub(super) fn taken_in(scene: &Scene) -> Result<()> {
    let port = scene.next_number();
    let mut last = Service::new("last", 250).port("", Proto::Tcp, port, 1, None);
    last.namespace = "zz".to_owned();
    scene.cluster.directory.put_service(&last)?;
    for agent in &scene.cluster.agents {
        until("everything to be taken in", PATIENCE, || {
            let rows = agent.commands.json(&["services"])?;
            let rows = rows.as_array().context("lb services prints no list")?;
            let is_there = |row: &serde_json::Value| row["name"] == "last" && row["port"] == port;
            Ok(rows.iter().any(is_there).then_some(()))
        })
        .with_context(|| format!("{}: {}", agent.node(), agent.log()))?;
    }
    Ok(())
}
