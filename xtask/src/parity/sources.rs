//! What can be said of the rows without running a test: that they are complete, and that each test
//! that they name is in the sources. So a name that is wrong is found at once, and not after a whole
//! run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Rows;
use crate::workspace;

/// Where tests are.
const DIRS: [&str; 6] =
    ["tests/tests", "tests/src", "lb-userspace/src", "lb-userspace/tests", "lb-ebpf", "xtask/src"];

/// The names of all tests, without what stands before them.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in DIRS {
        collect(&workspace::root().join(dir), &mut found);
    }
    let cases = workspace::root().join("tests/cases/control_plane");
    for case in fs::read_dir(cases).expect("cases") {
        found.extend(case.expect("readable").file_name().into_string());
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

/// The functions that follow an attribute `#[test]` or `#[tokio::test]`, those that `both_families!`
/// makes tests of, and the cases of the real cluster.
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
        let case = line.strip_prefix("Case::new(\"").and_then(|rest| rest.split_once('"'));
        tests.extend(case.map(|(name, _)| name.to_owned()));
    }
    let macros = text.split("both_families![").skip(1).filter_map(|rest| rest.split_once(']'));
    let names = macros.flat_map(|(names, _)| names.split(','));
    tests.extend(names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
    tests
}

#[test]
fn the_rows_are_complete_and_name_tests_that_exist() {
    let rows = Rows::read(workspace::root()).expect("documents");
    let mut wrong = rows.wrong;
    let tests = tests();
    assert!(tests.len() > 300, "only {} tests were found", tests.len());
    for row in rows.contract.iter().chain(&rows.besides).chain(&rows.operation) {
        let name = |test: &str| test.rsplit("::").next().unwrap_or_default().to_owned();
        let unknown = row.tests.iter().filter(|test| !tests.contains(&name(test)));
        wrong.extend(unknown.map(|test| format!("{}: there is no test {test}", row.id)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_function_that_is_no_test_does_not_count() {
    let text = "#[test]\nfn one() {}\nfn two() {}\n/// x\n#[tokio::test]\nasync fn three() {}\n\
                both_families![\n    four,\n    five,\n];\n    Case::new(\"six\", a::b),\n";
    assert_eq!(tests_in(text), ["one", "three", "six", "four", "five"]);
}
