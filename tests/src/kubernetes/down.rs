//! Removing a cluster: everything that its record names, whoever made it and however that ended.
//!
//! Processes go first, all at once and by their cgroups, so that nothing is left that could start
//! or mount anything. With them go the nodes' mount namespaces and what is mounted there: pods'
//! file systems, pods' namespaces, bpffs and its pins. What remains has names on the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{
    hierarchy,
    options::check_name,
    plan::Plan,
    record::{self, Owned, Record},
};
use crate::lab::netns;

/// How long processes may take to die.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes the cluster of this name; returns whether there was one.
pub fn down(name: &str) -> Result<bool> {
    check_name(name)?;
    let plan = Plan::new(name);
    if !plan.state().exists() {
        return Ok(false);
    }
    // An `up` that still runs would go on making things.
    for (component, identity) in record::processes(&plan.state()) {
        if component == super::up::MAKER && identity.pid != i32::try_from(std::process::id())? {
            identity.signal(Signal::SIGKILL);
        }
    }
    let owned = Record::read(&plan.state());
    let cgroups: Vec<PathBuf> = owned
        .iter()
        .filter_map(|one| if let Owned::Cgroup(path) = one { Some(path.clone()) } else { None })
        .collect();
    hierarchy::end(&cgroups, PATIENCE)?;
    for (_, identity) in record::processes(&plan.state()) {
        // Those that this very process has started it must also wait for.
        let _ = identity.runs();
    }
    for one in &owned {
        if let Owned::Netns(name) = one {
            netns::remove_name(&Path::new(netns::NAMES).join(name));
        }
    }
    for one in &owned {
        if let Owned::Directory(path) = one {
            remove_dir(path)?;
        }
    }
    // The record goes last: until here a second attempt finds everything.
    remove_dir(&plan.state())?;
    Ok(true)
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
