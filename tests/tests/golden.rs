//! From manifests to maps: one directory a case, with the maps that it must lead to.
//!
//! `tests/cases/control_plane/CASE/*.yaml` is what a user writes; where a case has directories `1`,
//! `2`, …, they are what the source directory holds one after the other. `expected.maps` is what is
//! in the maps then, and what is reported. `UPDATE_EXPECT=1 cargo test -p lb-tests --test golden`
//! writes it anew.
//!
//! Each case is played again in other orders, object by object, and with maps that fail; all must
//! end equal, and empty once everything is deleted.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lb_common::names;
use lb_userspace::{
    maps::{Contents, Dump, Fault, FaultyMaps, Maps, MemoryMaps},
    model::{Event, Model, ObjectName},
    plan::{Limits, NodeAddresses, Planner},
    source::dir,
};

const LOCAL: [&str; 4] = ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"];
const NODE: &str = "n1";

/// An agent without a kernel.
struct Agent {
    model: Model,
    planner: Planner,
    maps: FaultyMaps<MemoryMaps>,
    now: Instant,
}

impl Agent {
    fn new() -> Self {
        let now = Instant::now();
        let maps = FaultyMaps::new(MemoryMaps::new(Limits::default()));
        let mut planner = Planner::adopt(&Contents::default(), Limits::default(), now);
        let local: BTreeSet<IpAddr> =
            LOCAL.iter().map(|addr| addr.parse().expect("an address")).collect();
        let primary: BTreeSet<IpAddr> =
            local.iter().copied().filter(|addr| !addr.is_loopback()).collect();
        let mut model = Model::new();
        model.set_node_name(NODE);
        let _none = model.set_primary(primary.clone());
        planner.set_node(NodeAddresses { local: local.clone(), node_port: local, primary });
        Self { model, planner, maps, now }
    }

    fn feed(&mut self, events: impl IntoIterator<Item = Event>) {
        let changed = self.model.apply(events);
        self.planner.mark(changed);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            self.now += Duration::from_secs(2);
            let result = self.planner.execute(&self.model, &mut self.maps, self.now);
            if result.is_ok() && self.planner.is_idle() {
                return;
            }
        }
        panic!("the planner does not come to rest");
    }

    /// No flow is left: ids that nobody uses any more are given back.
    fn release(&mut self) {
        self.now += Duration::from_secs(2);
        let gone = self.planner.gone_before(self.now);
        self.planner.release(gone, self.now);
        self.settle();
    }

    fn contents(&self) -> Contents {
        self.maps.contents().expect("memory can be read")
    }

    /// What is in the maps, and what is wrong.
    fn report(&self, dir: &Path) -> String {
        let mut text = Dump::new(&self.contents()).to_string();
        let problems = self.model.problems().cloned().chain(self.planner.problems());
        let problems: Vec<String> = problems
            .map(|problem| {
                let line = format!("  {} {problem}\n", problem.severity.name());
                line.replace(&format!("{}/", dir.display()), "")
            })
            .collect();
        if !problems.is_empty() {
            text.push_str("problems\n");
            text.extend(problems);
        }
        text
    }
}

#[test]
fn manifests_lead_to_the_expected_maps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/control_plane");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root)
        .expect("the cases are there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    let failed: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn check(case: &Path) -> Result<(), String> {
    let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let steps = steps(case);
    let mut agent = Agent::new();
    let mut report = String::new();
    let mut before = Vec::new();
    for step in &steps {
        let events = dir::read(step, NODE).expect("the step is there");
        agent.feed(change(&before, &events));
        before = events;
        if steps.len() > 1 {
            let number = step.file_name().unwrap_or_default().to_string_lossy();
            report += &format!("step {number}\n");
        }
        report += &agent.report(step);
    }
    compare(&case.join("expected.maps"), &report).map_err(|why| format!("{name}: {why}"))?;

    agent.release();
    let dir = steps.last().expect("a case has a step");
    let expected = agent.report(dir);
    let equal = |agent: &mut Agent, how: &str| {
        agent.release();
        let report = agent.report(dir);
        match report == expected {
            true => Ok(()),
            false => Err(format!("{name}: {how}, it ends differently:\n{report}\nnot\n{expected}")),
        }
    };

    let mut reversed = Agent::new();
    reversed.feed(before.iter().rev().cloned());
    equal(&mut reversed, "with objects in reversed order")?;

    for seed in 0..6 {
        let mut agent = Agent::new();
        let mut events = before.clone();
        shuffle(&mut events, seed);
        for event in events {
            agent.feed([event]);
        }
        equal(&mut agent, &format!("object by object in order {seed}"))?;
        // The same objects again are no change.
        let tried = agent.maps.tried;
        agent.feed(before.iter().cloned());
        if agent.maps.tried != tried {
            return Err(format!("{name}: unchanged objects are written again"));
        }
    }

    for map in names::MAPS {
        let mut agent = Agent::new();
        for event in &before {
            agent.maps.set_fault(Some(Fault::Once(map)));
            agent.feed([event.clone()]);
        }
        equal(&mut agent, &format!("with {map} failing"))?;
    }

    agent.feed(change(&before, &[]));
    agent.release();
    match (Contents { slots: Vec::new(), ..agent.contents() }) == Contents::default() {
        true => Ok(()),
        false => Err(format!("{name}: it does not end empty:\n{}", Dump::new(&agent.contents()))),
    }
}

fn steps(case: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(case).expect("readable").map(|entry| entry.expect("readable").path());
    let mut steps: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    if steps.is_empty() {
        steps.push(case.to_owned());
    }
    steps.sort();
    steps
}

fn compare(path: &Path, report: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, report).expect("written");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    match expected == report {
        true => Ok(()),
        false => Err(format!("{} is not what there is:\n{report}", path.display())),
    }
}

/// What leads from one listing of everything to the next.
fn change(before: &[Event], after: &[Event]) -> Vec<Event> {
    let there: BTreeSet<(bool, &ObjectName)> = after.iter().filter_map(subject).collect();
    let gone = before.iter().filter_map(subject).filter(|object| !there.contains(object));
    let deletes = gone.map(|(service, name)| match service {
        true => Event::DeleteService(name.clone()),
        false => Event::DeleteSlice(name.clone()),
    });
    deletes.chain(after.iter().cloned()).collect()
}

fn subject(event: &Event) -> Option<(bool, &ObjectName)> {
    match event {
        Event::PutService(service) => Some((true, &service.name)),
        Event::PutSlice(slice) => Some((false, &slice.name)),
        Event::DeleteService(_)
        | Event::DeleteSlice(_)
        | Event::PutNode(_)
        | Event::DeleteNode
        | Event::Problems(..)
        | Event::Coverage(_) => None,
    }
}

fn shuffle(events: &mut [Event], mut seed: u64) {
    for i in (1..events.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = usize::try_from(seed >> 33).expect("31 bits");
        events.swap(i, random % (i + 1));
    }
}
