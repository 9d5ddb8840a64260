//! What a cluster owns on the machine, written down before it is made.
//!
//! One line for each thing, appended, so that a killed `up` leaves at worst a line about something
//! that does not exist. `down` needs nothing else. A process is written down after it has started,
//! because it has no number earlier; until then it is known by its cgroup, which it joins first.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::process::Identity;

const FILE: &str = "record";

/// One thing that the cluster owns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Owned {
    /// A network namespace, by its name under `/run/netns`.
    Netns(String),
    /// A cgroup, by its directory.
    Cgroup(PathBuf),
    /// A directory outside of the state directory.
    Directory(PathBuf),
    /// A process: the component's name and the process.
    Process(String, Identity),
}

/// The record of one cluster.
pub(super) struct Record {
    file: File,
}

impl Record {
    /// Opens the record in a cluster's state directory for writing.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("opening {}", path.display()))? })
    }

    /// Adds a thing.
    pub(super) fn add(&self, owned: &Owned) -> Result<()> {
        // One write, so that the line is there whole or not at all.
        (&self.file).write_all(line(owned).as_bytes()).context("writing the cluster's record")
    }

    /// Everything in the record, in the order of writing; nothing where there is none.
    pub(super) fn read(state: &Path) -> Vec<Owned> {
        let text = fs::read_to_string(state.join(FILE)).unwrap_or_default();
        text.lines().filter_map(parse).collect()
    }
}

/// The processes of a record: the latest one of each component.
pub(super) fn processes(state: &Path) -> Vec<(String, Identity)> {
    let mut latest: Vec<(String, Identity)> = Vec::new();
    for owned in Record::read(state) {
        let Owned::Process(name, identity) = owned else { continue };
        match latest.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = identity,
            None => latest.push((name, identity)),
        }
    }
    latest
}

fn line(owned: &Owned) -> String {
    match owned {
        Owned::Netns(name) => format!("netns {name}\n"),
        Owned::Cgroup(path) => format!("cgroup {}\n", path.display()),
        Owned::Directory(path) => format!("directory {}\n", path.display()),
        Owned::Process(name, Identity { pid, start }) => format!("process {name} {pid} {start}\n"),
    }
}

fn parse(line: &str) -> Option<Owned> {
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "netns" => Some(Owned::Netns(rest.to_owned())),
        "cgroup" => Some(Owned::Cgroup(rest.into())),
        "directory" => Some(Owned::Directory(rest.into())),
        "process" => {
            let mut words = rest.split(' ');
            let name = words.next()?.to_owned();
            let (pid, start) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Owned::Process(name, Identity { pid, start }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let all = [
            Owned::Netns("lbk-a-lan".into()),
            Owned::Cgroup("/sys/fs/cgroup/lbk-a".into()),
            Owned::Directory("/var/lib/lb-cluster/a".into()),
            Owned::Process("etcd".into(), Identity { pid: 7, start: 99 }),
        ];
        for owned in all {
            assert_eq!(parse(line(&owned).trim_end()), Some(owned));
        }
    }

    #[test]
    fn a_torn_line_is_nothing() {
        for torn in ["", "pro", "process etcd 7", "process etcd 7 x"] {
            assert_eq!(parse(torn), None, "{torn:?}");
        }
    }
}
