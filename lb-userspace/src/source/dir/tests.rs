//! What the directory tells, with real files.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use super::{files::Files, follow, read};
use crate::model::{Coverage, Event, Model};

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {ip}\n  ports: [{{port: 80}}]\n"
    )
}

/// A directory, and what a model makes of it.
struct Rig {
    dir: tempfile::TempDir,
    files: Files,
    model: Model,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, files: Files::new("n1"), model: Model::new() }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        let mut file = fs::File::create(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        // Old enough to be meant.
        file.set_modified(SystemTime::now() - Duration::from_secs(9)).expect("a time");
    }

    fn scan(&mut self) -> Vec<Event> {
        let scan = self.files.scan(self.dir.path(), &BTreeSet::new()).expect("readable");
        let _touched = self.model.apply(scan.events.clone());
        scan.events
    }

    fn names(&self) -> Vec<String> {
        self.model.service_names().iter().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        self.model.problems().map(|problem| problem.to_string().replace(&dir, "")).collect()
    }
}

#[test]
fn several_documents_and_lists_are_read() {
    let mut rig = Rig::new();
    let item = service("c", "10.96.0.3").replace('\n', "\n  ").trim_end().to_owned();
    rig.write(
        "all.yaml",
        &format!(
            "# a comment\n---\n{}---\n\n--- # another\n{}---\napiVersion: v1\nkind: List\nitems:\n- {item}\n",
            service("a", "10.96.0.1"),
            service("b", "10.96.0.2")
        ),
    );
    rig.write("d.json", r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"d"},"spec":{"clusterIP":"10.96.0.4"}}"#);
    rig.write(".hidden.yaml", &service("x", "10.96.0.9"));
    rig.write("e.yaml.swp", &service("x", "10.96.0.9"));
    rig.write("e.yaml~", &service("x", "10.96.0.9"));
    let events = rig.scan();
    assert_eq!(events.last(), Some(&Event::Coverage(Coverage::Full)));
    assert_eq!(rig.names(), ["default/a", "default/b", "default/c", "default/d"]);
    assert_eq!(rig.problems(), [""; 0]);
    assert_eq!(rig.scan(), [], "nothing changed");
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_objects() {
    let mut rig = Rig::new();
    rig.write("a.yaml", &service("a", "10.96.0.1"));
    let _events = rig.scan();
    rig.write("a.yaml", &format!("{}---\nkind: [\n", service("b", "10.96.0.2")));
    rig.write("c.yaml", &service("c", "10.96.0.3"));
    let _events = rig.scan();
    assert_eq!(rig.names(), ["default/a", "default/c"]);
    let problems = rig.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("file a.yaml: line "), "{problems:?}");
    assert!(problems[0].ends_with("what it said before stays"), "{problems:?}");
    assert_eq!(rig.model.coverage(), Coverage::Full, "what was known is still known");
    rig.write("a.yaml", &service("b", "10.96.0.2"));
    let _events = rig.scan();
    assert_eq!(rig.names(), ["default/b", "default/c"]);
    assert_eq!(rig.problems(), [""; 0]);
}

#[test]
fn a_file_that_was_never_good_leaves_the_picture_incomplete() {
    let mut rig = Rig::new();
    rig.write("a.yaml", "kind: [\n");
    rig.write("b.yaml", &service("b", "10.96.0.2"));
    let _events = rig.scan();
    assert_eq!(rig.names(), ["default/b"]);
    assert_eq!(rig.model.coverage(), Coverage::Partial);
    fs::remove_file(rig.dir.path().join("a.yaml")).expect("removed");
    let _events = rig.scan();
    assert_eq!(rig.model.coverage(), Coverage::Full);
    assert_eq!(rig.problems(), [""; 0]);
}

#[test]
fn an_object_that_is_not_valid_keeps_its_last_good_version() {
    let mut rig = Rig::new();
    rig.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2")),
    );
    let _events = rig.scan();
    let bad = service("a", "10.96.0.1").replace("80", "eighty");
    rig.write(
        "a.yaml",
        &format!("{bad}---\n{}---\nkind: Pod\nmetadata: {{name: p}}\n", service("c", "10.96.0.3")),
    );
    let _events = rig.scan();
    assert_eq!(rig.names(), ["default/a", "default/c"]);
    let problems = rig.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems.iter().any(|p| p.starts_with("Pod default/p: ") && p.contains("is not known"))
    );
    assert!(
        problems.iter().any(|p| p.starts_with("Service default/a: not valid: ")),
        "{problems:?}"
    );
}

#[test]
fn of_one_object_in_two_files_the_first_counts() {
    let mut rig = Rig::new();
    rig.write("2.yaml", &service("a", "10.96.0.2"));
    let _events = rig.scan();
    rig.write("1.yaml", &service("a", "10.96.0.1"));
    let _events = rig.scan();
    let vip = |rig: &Rig| {
        let names = rig.model.service_names();
        let service = names.first().and_then(|name| rig.model.service(name));
        service.and_then(|service| service.vip4).map(|vip| vip.to_string())
    };
    assert_eq!(vip(&rig).as_deref(), Some("10.96.0.1"));
    assert_eq!(rig.problems().len(), 1, "{:?}", rig.problems());
    fs::remove_file(rig.dir.path().join("1.yaml")).expect("removed");
    let _events = rig.scan();
    assert_eq!(vip(&rig).as_deref(), Some("10.96.0.2"));
    assert_eq!(rig.problems(), [""; 0]);
}

#[test]
fn an_empty_file_is_not_believed_at_once() {
    let mut rig = Rig::new();
    rig.write("a.yaml", &service("a", "10.96.0.1"));
    let _events = rig.scan();
    fs::write(rig.dir.path().join("a.yaml"), "").expect("written");
    let scan = rig.files.scan(rig.dir.path(), &BTreeSet::new()).expect("readable");
    assert!(scan.unsettled && scan.events.is_empty());
    rig.write("a.yaml", "");
    let _events = rig.scan();
    assert_eq!(rig.names(), [""; 0]);
}

/// TOP-9.
#[test]
fn of_nodes_only_the_own_one_is_told() {
    let mut rig = Rig::new();
    let node = |name: &str, zone: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: \
             {{topology.kubernetes.io/zone: {zone}}}\n"
        )
    };
    let zone =
        |rig: &Rig| rig.model.node().and_then(|node| node.zone.as_deref().map(str::to_owned));
    rig.write("nodes.yaml", &(node("n1", "z1") + &node("n2", "z2")));
    let events = rig.scan();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::PutNode(_))).count(), 1);
    assert_eq!(zone(&rig).as_deref(), Some("z1"));
    assert_eq!(rig.problems(), [""; 0]);
    rig.write("nodes.yaml", &(node("n1", "z3") + &node("n2", "z1")));
    let _events = rig.scan();
    assert_eq!(zone(&rig).as_deref(), Some("z3"));
    fs::remove_file(rig.dir.path().join("nodes.yaml")).expect("removed");
    let events = rig.scan();
    assert!(events.contains(&Event::DeleteNode), "{events:?}");
    assert_eq!(rig.model.node(), None);
}

#[test]
fn a_missing_directory_is_an_error_that_says_what_to_do() {
    let error = read(Path::new("/nonexistent/services"), "n1").expect_err("there is none");
    assert_eq!(
        error.to_string(),
        "source directory /nonexistent/services: it does not exist; create it, or name another one with --source"
    );
}

#[test]
fn changes_are_followed_and_a_lost_directory_changes_nothing() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("services");
    fs::create_dir(&dir).expect("created");
    fs::write(dir.join("a.yaml"), service("a", "10.96.0.1")).expect("written");
    let mut events = follow(&dir, "n1").expect("it is there");
    let mut model = Model::new();
    let mut wait_for = |what: &str, done: &dyn Fn(&Model) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&model) {
            assert!(Instant::now() < deadline, "{what} does not happen");
            match events.try_recv() {
                Ok(batch) => {
                    let _touched = model.apply(batch);
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    };
    wait_for("the first listing", &|model| model.coverage() == Coverage::Full);
    fs::write(dir.join("b.yaml"), service("b", "10.96.0.2")).expect("written");
    wait_for("a new file", &|model| model.service_names().len() == 2);
    fs::rename(&dir, parent.path().join("elsewhere")).expect("renamed");
    wait_for("a problem", &|model| model.problems().next().is_some());
    wait_for("what was there", &|model| model.service_names().len() == 2);
    fs::create_dir(&dir).expect("created");
    fs::write(dir.join("b.yaml"), service("b", "10.96.0.2")).expect("written");
    wait_for("the new directory", &|model| {
        model.service_names().len() == 1 && model.problems().next().is_none()
    });
}
