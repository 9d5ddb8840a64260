//! A table: objects and rows, asked in every order.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow};

use super::{
    objects::{Objects, taken_in},
    row::{From, Is, Row, Seen, To},
    scene::Scene,
};
use crate::{
    cluster::{Endpoint, Service},
    lab::Family,
    worker::{Outcome, Proto, Shot, UdpStyle},
};

/// How long silence is waited for. Nothing in a lab takes as long, so that an answer after it would be
/// missed only on a machine that hardly runs, where a table can then not find this fault.
const SILENCE_MS: u64 = 700;
/// How long an answer is waited for; only a lost one takes this long.
const ANSWER_MS: u64 = 3000;
/// How many probes of one client run at once.
const PARALLEL: u32 = 24;

/// Objects and rows.
pub struct Table {
    scene: Scene,
    objects: Objects,
    rows: Vec<Row>,
}

/// A row in one family, by one protocol, with one style of socket.
struct Cell<'a> {
    row: &'a Row,
    family: Family,
    proto: Proto,
    style: UdpStyle,
}

impl Table {
    /// An empty table.
    pub fn new(scene: Scene) -> Self {
        Self { scene, objects: Objects::default(), rows: Vec::new() }
    }

    /// The lab.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Adds a Service with these endpoints.
    pub fn put(&mut self, service: &Service, endpoints: &[Endpoint]) {
        self.objects.put(service, endpoints);
    }

    /// Adds a file of any objects.
    pub fn raw(&mut self, name: &str, text: &str) {
        self.objects.raw(name, text);
    }

    /// Adds a row for each of these clients.
    pub fn rows(&mut self, about: &str, from: &[From], to: &To, is: &Is) {
        self.rows.extend(from.iter().map(|from| Row::new(about, *from, to, is)));
    }

    /// Adds a row.
    pub fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Asks every row, in every order, and returns the lab with the objects in it.
    ///
    /// # Panics
    /// When a row is not as it says; shows what the agents have.
    pub fn check(mut self) -> Scene {
        if let Err(error) = self.check_all() {
            panic!("{error:#}\n{}", self.state());
        }
        self.scene
    }

    fn check_all(&mut self) -> Result<()> {
        assert!(!self.rows.is_empty(), "a table without rows proves nothing");
        self.objects.arrive(&self.scene)?;
        self.ask("with endpoints before Services")?;
        for agent in &mut self.scene.cluster.agents {
            agent.kill();
            agent.restart()?;
        }
        taken_in(&self.scene)?;
        self.ask("after a restart of the agents")?;
        self.objects.leave(&self.scene)?;
        self.objects.arrive_in_another_order(&self.scene)?;
        self.ask("with Services before endpoints")
    }

    /// Asks every row once.
    fn ask(&self, when: &str) -> Result<()> {
        let begin = Instant::now();
        let cells: Vec<Cell<'_>> = self.rows.iter().flat_map(cells).collect();
        let outcomes = self.outcomes(&cells)?;
        let mut wrong: BTreeMap<usize, String> = BTreeMap::new();
        for (at, (cell, outcomes)) in cells.iter().zip(&outcomes).enumerate() {
            if let Err(why) = self.judge(cell, outcomes) {
                let _ = wrong.insert(at, why);
            }
        }
        // A datagram may get lost by the kernel's queues; what is lost twice is not chance.
        let again: Vec<usize> = wrong
            .keys()
            .copied()
            .filter(|at| {
                cells[*at].proto != Proto::Tcp && outcomes[*at].contains(&Outcome::Timeout)
            })
            .collect();
        let lost: Vec<Cell<'_>> = again.iter().map(|at| Cell { ..cells[*at] }).collect();
        for ((at, cell), outcomes) in again.iter().zip(&lost).zip(self.outcomes(&lost)?) {
            if self.judge(cell, &outcomes).is_ok() {
                println!("{when}: lost once: {}", wrong.remove(at).unwrap_or_default());
            }
        }
        let (rows, all) = (self.rows.len(), cells.len());
        println!("{when}: {rows} rows, {all} cells in {:.1} s", begin.elapsed().as_secs_f64());
        if wrong.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = wrong.into_values().collect();
        Err(anyhow!(
            "{when}, {} of {} cells are wrong:\n{}",
            lines.len(),
            cells.len(),
            lines.join("\n")
        ))
    }

    /// What becomes of each cell's requests. Clients ask at the same time.
    fn outcomes(&self, cells: &[Cell<'_>]) -> Result<Vec<Vec<Outcome>>> {
        let mut by_worker: BTreeMap<u32, Vec<(usize, Shot)>> = BTreeMap::new();
        let mut workers = BTreeMap::new();
        for (at, cell) in cells.iter().enumerate() {
            let (worker, _) = self.scene.client(cell.row.from);
            let _ = workers.insert(worker.pid(), worker);
            let shots = by_worker.entry(worker.pid()).or_default();
            shots.extend((0..cell.row.times()).map(|_| (at, self.shot(cell))));
        }
        let answers = thread::scope(|threads| {
            let asking: Vec<_> = by_worker
                .iter()
                .map(|(pid, shots)| {
                    let shots = shots.iter().map(|(_, shot)| *shot).collect();
                    let worker = workers[pid];
                    threads.spawn(move || worker.each(shots, PARALLEL))
                })
                .collect();
            asking
                .into_iter()
                .map(|asked| asked.join().map_err(|_panic| anyhow!("a client panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        let mut outcomes = vec![Vec::new(); cells.len()];
        for (shots, answers) in by_worker.values().zip(answers) {
            for ((at, _), answer) in shots.iter().zip(answers) {
                outcomes[*at].push(answer);
            }
        }
        Ok(outcomes)
    }

    fn shot(&self, cell: &Cell<'_>) -> Shot {
        let Cell { row, family, proto, style } = *cell;
        Shot {
            proto,
            style,
            to: row.to.socket(family),
            from: self.scene.source(row.from, family),
            timeout_ms: if matches!(row.is, Is::Dropped) { SILENCE_MS } else { ANSWER_MS },
        }
    }

    /// Says what is wrong with a cell.
    fn judge(&self, cell: &Cell<'_>, outcomes: &[Outcome]) -> Result<(), String> {
        let Cell { row, family, proto, style } = *cell;
        let gateway = Is::by("gateway", Seen::Client);
        let is_right = match if matches!(row.is, Is::Untouched) { &gateway } else { &row.is } {
            Is::By(names, seen) => {
                let source = self.scene.seen(*seen, row.from, family);
                let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
                let answered: BTreeSet<&str> =
                    outcomes.iter().map(|outcome| outcome.by().unwrap_or("nobody")).collect();
                let right = |outcome: &Outcome| source.is_none() || outcome.source() == source;
                wanted == answered && outcomes.iter().all(right)
            }
            Is::Refused | Is::RefusedByPacket => {
                outcomes.iter().all(|outcome| *outcome == Outcome::Refused)
            }
            Is::Dropped => outcomes.iter().all(|outcome| *outcome == Outcome::Timeout),
            Is::Untouched => unreachable!("it was replaced above"),
        };
        if is_right {
            return Ok(());
        }
        let mut seen: Vec<String> = outcomes.iter().map(without_port).collect();
        seen.sort();
        seen.dedup();
        let socket = if proto == Proto::Udp { format!(" {style:?}") } else { String::new() };
        Err(format!(
            "{}: {:?} to {} {} {proto}{socket}: {}; wanted {:?}",
            row.about,
            row.from,
            row.to.what(),
            row.to.socket(family),
            seen.join(", "),
            row.is,
        ))
    }

    /// What agents have and have said, for whoever has to find out why a cell is wrong.
    fn state(&self) -> String {
        let mut state = String::new();
        for agent in &self.scene.cluster.agents {
            let dump = agent.commands.lb(&["dump"]).and_then(|mut lb| Ok(lb.output()?));
            let dump = dump.map(|dump| String::from_utf8_lossy(&dump.stdout).into_owned());
            state += &format!("{}: {}\n{}\n", agent.node(), dump.unwrap_or_default(), agent.log());
        }
        state
    }
}

/// The cells of a row. Unconnected sockets of processes meet hooks of their own.
fn cells(row: &Row) -> impl Iterator<Item = Cell<'_>> {
    let styles = |proto| match (proto, row.from) {
        (Proto::Udp, From::Host | From::Host2) if !matches!(row.is, Is::RefusedByPacket) => {
            vec![UdpStyle::Connected, UdpStyle::Unconnected]
        }
        _ => vec![UdpStyle::Connected],
    };
    row.families.iter().flat_map(move |family| {
        row.protos.iter().flat_map(move |proto| {
            let cell = |style| Cell { row, family: *family, proto: *proto, style };
            styles(*proto).into_iter().map(cell).collect::<Vec<_>>()
        })
    })
}

/// An outcome, the same for every source port.
fn without_port(outcome: &Outcome) -> String {
    match (outcome.by(), outcome.source()) {
        (Some(by), Some(source)) => format!("{by} sees {source}"),
        _ => outcome.to_string(),
    }
}
