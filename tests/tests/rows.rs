//! The table in `docs/kubernetes.md` is complete, and every test that it names is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The rows that the table must have: name and number.
const ROWS: [(&str, u32); 6] =
    [("SVC", 18), ("ES", 18), ("SYNC", 17), ("NODE", 6), ("OPS", 7), ("API", 8)];

/// How a reason begins that stands in place of a test.
const REASONS: [&str; 3] = ["different: ", "later: ", "not ours: "];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of the document: id, and what shows it.
fn rows() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs/kubernetes.md")).expect("the document");
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [id, _, shown] = cells[..] else { return None };
        let (name, number) = id.split_once('-')?;
        let known = ROWS.iter().any(|(row, _)| *row == name) && number.parse::<u32>().is_ok();
        known.then(|| (id.to_owned(), shown.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// The names in back quotes.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Every function that is a test, and every case.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in ["tests/tests", "lb-userspace/src", "lb-userspace/tests", "lb-ebpf/src", "xtask/src"]
    {
        collect(&root().join(dir), &mut found);
    }
    for case in fs::read_dir(root().join("tests/cases/control_plane")).expect("cases") {
        let name = case.expect("readable").file_name();
        found.extend(name.into_string());
    }
    found
}

fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(tests_in(&fs::read_to_string(&path).expect("text")));
        }
    }
}

/// The functions that follow an attribute `#[test]` or `#[tokio::test]`.
fn tests_in(text: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|rest| rest.split_once('(')) {
            if is_test {
                tests.push(name.to_owned());
            }
            is_test = false;
        }
    }
    tests
}

#[test]
fn every_row_is_there_once() {
    let rows = rows();
    for (name, count) in ROWS {
        for number in 1..=count {
            let id = format!("{name}-{number}");
            assert_eq!(rows.iter().filter(|(row, _)| *row == id).count(), 1, "{id}");
        }
    }
    let expected: u32 = ROWS.iter().map(|(_, count)| count).sum();
    assert_eq!(u32::try_from(rows.len()), Ok(expected), "rows that are not known");
}

#[test]
fn every_row_names_a_test_that_exists_or_says_why_there_is_none() {
    let tests = tests();
    assert!(tests.len() > 200, "only {} tests were found", tests.len());
    let mut wrong = Vec::new();
    for (id, shown) in rows() {
        let reason = REASONS.iter().any(|reason| shown.starts_with(reason));
        if names(&shown).next().is_none() && !reason {
            wrong.push(format!("{id}: neither a test nor a reason: {shown}"));
        }
        let missing = names(&shown).filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("{id}: there is no test {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_function_that_is_no_test_does_not_count() {
    let text = "#[test]\nfn one() {}\nfn two() {}\n/// x\n#[tokio::test]\nasync fn three() {}\n";
    assert_eq!(tests_in(text), ["one", "three"]);
}
