//! Removing what kube-proxy left, and saying what was removed and what was not.

use std::{fmt, fs, io};

use serde::Serialize;

use super::{
    Backend, FAMILIES, Family, Kept, Removal, Table, ipvs, legacy, nftables, nftables::KUBE_PROXY,
};

/// What was removed, or would be.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Table by table.
    pub removed: Vec<Removed>,
    /// What stays, and why.
    pub kept: Vec<Stays>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// What could not be removed.
    pub failed: Vec<String>,
    /// Commands for what lb does not remove.
    pub commands: Vec<String>,
}

/// What goes from one table.
#[derive(Debug, Serialize)]
pub struct Removed {
    /// Name of the table.
    pub table: String,
    /// Its family.
    pub family: Family,
    /// Which back end holds it.
    pub backend: Backend,
    /// Chains, with their rules; all of them where the table itself goes.
    pub chains: Vec<String>,
    /// How many rules of other chains.
    pub rules: usize,
    /// Whether the table itself goes.
    pub whole: bool,
}

/// A chain that stays.
#[derive(Debug, Serialize)]
pub struct Stays {
    /// Name of the table.
    pub table: String,
    /// Its family.
    pub family: Family,
    /// Which chain, and why.
    #[serde(flatten)]
    pub kept: Kept,
}

/// Whether to change anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Only say what would be done.
    DryRun,
    /// Do it.
    Remove,
}

/// A process called kube-proxy, as far as this process can see others.
pub fn running_kube_proxy() -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim() == "kube-proxy").then_some(pid)
    })
}

/// A table, and what is to be done with it.
struct Task {
    table: Table,
    removal: Removal,
}

impl Task {
    fn new(table: Table) -> Self {
        let removal = if is_whole(&table) {
            let chains = table.chains.iter().map(|chain| chain.name.clone()).collect();
            Removal { chains, ..Removal::default() }
        } else if table.is_xtables() {
            Removal::plan(&table)
        } else {
            Removal::default()
        };
        Self { table, removal }
    }
}

/// Whether a table is kube-proxy's as a whole.
fn is_whole(table: &Table) -> bool {
    table.backend == Backend::Nft && table.name == KUBE_PROXY
}

/// Removes kube-proxy's rules from the network namespace of the calling thread, and nothing else.
pub fn remove(mode: Mode) -> Report {
    let mut report = Report { dry_run: mode == Mode::DryRun, ..Report::default() };
    let tasks = tasks(&mut report);
    for family in FAMILIES {
        report.notes.extend(note(&tasks, family));
    }
    for Task { table, removal } in tasks {
        let done = match mode {
            Mode::DryRun => Ok(removal),
            Mode::Remove if removal.chains.is_empty() && removal.rules.is_empty() => Ok(removal),
            Mode::Remove if is_whole(&table) => {
                nftables::remove_table(table.family).map(|()| removal)
            }
            Mode::Remove => match table.backend {
                Backend::Nft => nftables::remove(&table, &removal).map(|()| removal),
                Backend::Legacy => legacy::remove(table.family, &table.name, Removal::plan),
            },
        };
        report.note(&table, done);
    }
    if ipvs::has_device() {
        report.notes.push(
            "kube-proxy's IPVS device and virtual servers are left to the commands below: which \
             virtual servers are kube-proxy's cannot be told for certain"
                .to_owned(),
        );
        report.commands.extend(ipvs::commands());
    }
    report
}

/// Reads all tables; what cannot be read is reported.
fn tasks(report: &mut Report) -> Vec<Task> {
    let mut tasks = Vec::new();
    match nftables::chains() {
        Ok(tables) => {
            for mut table in tables {
                match nftables::read_rules(&mut table) {
                    Ok(()) => tasks.push(Task::new(table)),
                    Err(error) => report.failed.push(format!(
                        "reading the {} table {} of nf_tables: {error}",
                        table.family, table.name
                    )),
                }
            }
        }
        Err(error) => report.failed.push(format!("reading nf_tables: {error}")),
    }
    for family in FAMILIES {
        match legacy::tables(family) {
            Ok(tables) => tasks.extend(tables.into_iter().map(Task::new)),
            Err(error) => {
                report.failed.push(format!("reading the {family} tables of x_tables: {error}"));
            }
        }
    }
    tasks
}

/// What becomes of the connections that kube-proxy translated, where they do not just go on.
///
/// The kernel tracks and translates connections in a network namespace only while some rule there
/// asks for it. With the last one, also those under way are no longer translated.
fn note(tasks: &[Task], family: Family) -> Option<String> {
    let of_family = || tasks.iter().filter(move |task| task.table.family == family);
    if of_family().all(|task| task.removal.is_empty()) {
        return None;
    }
    // What cannot be read is not counted on.
    let (nat, tracks) = nftables::of_both().unwrap_or_default();
    let nat = nat
        || of_family().any(|Task { table, removal }| {
            table.chains.iter().any(|chain| chain.nat && !removal.chains.contains(&chain.name))
        });
    let tracks =
        tracks || of_family().any(|Task { table, removal }| removal.leaves_tracking(table));
    let lacking = match (nat, tracks) {
        (true, true) => return None,
        (false, _) => "no other chain on this node translates addresses",
        (true, false) => "no other rule on this node tracks connections",
    };
    Some(format!(
        "{lacking} ({family}): open connections that kube-proxy translated end with its rules"
    ))
}

impl Report {
    /// Whether kube-proxy's rules are still there in part.
    pub fn incomplete(&self) -> bool {
        !self.failed.is_empty() || !self.commands.is_empty()
    }

    fn note(&mut self, table: &Table, done: io::Result<Removal>) {
        let Table { backend, family, name, .. } = table;
        let removal = match done {
            Ok(removal) => removal,
            Err(error) if is_whole(table) => {
                let nft = if *family == Family::V4 { "ip" } else { "ip6" };
                self.failed.push(format!(
                    "{family} table {name} of nftables: {error}; `nft delete table {nft} {name}` \
                     removes it"
                ));
                return;
            }
            Err(error) => {
                self.failed.push(format!(
                    "{family} table {name} ({backend} back end): {error}; try again, or let \
                     `kube-proxy --cleanup` of the version that made the rules remove them"
                ));
                return;
            }
        };
        if !removal.is_empty() {
            self.removed.push(Removed {
                table: name.clone(),
                family: *family,
                backend: *backend,
                chains: removal.chains.iter().cloned().collect(),
                rules: removal.rules.len(),
                whole: is_whole(table),
            });
        }
        self.kept.extend(removal.kept.into_iter().map(|kept| Stays {
            table: name.clone(),
            family: *family,
            kept,
        }));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dry_run, removed, kept, notes, failed, commands } = self;
        let verb = if *dry_run { "would remove" } else { "removed" };
        if removed.is_empty() && failed.is_empty() && commands.is_empty() {
            writeln!(f, "nothing of kube-proxy's to remove")?;
        }
        for Removed { table, family, backend, chains, rules, whole } in removed {
            let count = chains.len();
            if *whole {
                writeln!(f, "{verb} the nftables table {table} ({family}): {count} chains")?;
            } else {
                writeln!(
                    f,
                    "{verb} from table {table} ({family}, {backend} back end): {count} chains, and \
                     {rules} rules that lead to them"
                )?;
            }
            if *dry_run {
                for chain in chains {
                    writeln!(f, "  {chain}")?;
                }
            }
        }
        for Stays { table, family, kept: Kept { chain, why } } in kept {
            writeln!(f, "kept {chain} of table {table} ({family}): {why}")?;
        }
        for note in notes {
            writeln!(f, "note: {note}")?;
        }
        for failed in failed {
            writeln!(f, "not removed: {failed}")?;
        }
        for command in commands {
            writeln!(f, "left to do: {command}")?;
        }
        Ok(())
    }
}
