//! Reads the tables of rows in `docs`: one row an id, with what proves it.

use std::collections::BTreeSet;

use super::contract::{Group, ids};

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) proof: Proof,
    /// The tests that it names.
    pub(crate) tests: Vec<String>,
}

/// What stands in the last column besides tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Tests,
    Different,
    Elsewhere,
    Missing(String),
}

/// Reads the rows of these groups, and says what is wrong with them: ids that are not known, that are
/// there twice or not at all, rows without proof, links that lead nowhere.
pub(crate) fn read(
    text: &str,
    groups: &[Group],
    anchors: &BTreeSet<String>,
) -> (Vec<Row>, Vec<String>) {
    let known: BTreeSet<String> = ids(groups).collect();
    let (mut rows, mut wrong) = (Vec::<Row>::new(), Vec::new());
    for line in text.lines() {
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").map(str::trim).collect();
        let id = cells[0];
        if !is_id(id) {
            continue;
        }
        if !known.contains(id) {
            wrong.push(format!("{id}: there is no such row in the contract"));
            continue;
        }
        if rows.iter().any(|row| row.id == id) {
            wrong.push(format!("{id}: is there twice"));
            continue;
        }
        let [_, behaviour, proof] = cells[..] else {
            wrong.push(format!("{id}: has {} cells in place of 3", cells.len()));
            continue;
        };
        if behaviour.is_empty() {
            wrong.push(format!("{id}: says nothing"));
        }
        match row(id, proof, anchors) {
            Ok(row) => rows.push(row),
            Err(why) => wrong.push(format!("{id}: {why}")),
        }
    }
    let there: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let told = |id: &str| wrong.iter().any(|why| why.starts_with(&format!("{id}:")));
    let absent: Vec<String> = known
        .iter()
        .filter(|id| !there.contains(id.as_str()) && !told(id))
        .map(|id| format!("{id}: is not there"))
        .collect();
    wrong.extend(absent);
    (rows, wrong)
}

/// Letters, perhaps a hyphen, a number: `SVC-1`, `D1`.
fn is_id(cell: &str) -> bool {
    let letters = cell.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let number = letters.strip_prefix('-').unwrap_or(letters);
    letters.len() < cell.len() && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

fn row(id: &str, proof: &str, anchors: &BTreeSet<String>) -> Result<Row, String> {
    let tests: Vec<String> = quoted(proof).map(str::to_owned).collect();
    let because = |word: &str| {
        let reason = proof.strip_prefix(word)?.trim();
        Some(if reason.is_empty() { Err(format!("{word} says no reason")) } else { Ok(reason) })
    };
    let proof = if let Some(reason) = because("missing:") {
        Proof::Missing(reason?.to_owned())
    } else if let Some(reason) = because("guaranteed elsewhere:") {
        let _reason = reason?;
        Proof::Elsewhere
    } else if let Some(link) = because("different:") {
        linked(link?, anchors)?;
        Proof::Different
    } else if tests.is_empty() {
        return Err(format!("neither a test nor a reason: {proof}"));
    } else {
        Proof::Tests
    };
    // What is quoted in a reason is no test.
    let is_shown = matches!(proof, Proof::Tests | Proof::Different);
    Ok(Row { id: id.to_owned(), proof, tests: if is_shown { tests } else { Vec::new() } })
}

/// What stands between back quotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn linked(text: &str, anchors: &BTreeSet<String>) -> Result<(), String> {
    let link = text.split_once("](differences.md#").and_then(|(_, rest)| rest.split_once(')'));
    let (anchor, _) = link.ok_or("does not link to differences.md")?;
    if anchors.contains(anchor) { Ok(()) } else { Err(format!("differences.md has no #{anchor}")) }
}

/// What the headings of a document can be linked by.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let anchor = |heading: &str| {
        heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: [Group; 2] =
        [Group { prefix: "SVC-", count: 2 }, Group { prefix: "D", count: 1 }];

    fn check(text: &str) -> (Vec<Row>, Vec<String>) {
        read(text, &GROUPS, &anchors("# A `b`: c\n"))
    }

    #[test]
    fn rows_are_read_with_what_proves_them() {
        let text = "| ID | behaviour | proof |
| --- | --- | --- |
| SVC-1 | x | `a`, `b::c` |
| SVC-2 | x | different: [b](differences.md#a-b-c), `d` |
| D1 | x | missing: `e` is not built |";
        let (rows, wrong) = check(text);
        assert_eq!(wrong, [""; 0]);
        let row = |id: &str, proof, tests: &[&str]| Row {
            id: id.to_owned(),
            proof,
            tests: tests.iter().map(|test| (*test).to_owned()).collect(),
        };
        let expected = [
            row("SVC-1", Proof::Tests, &["a", "b::c"]),
            row("SVC-2", Proof::Different, &["d"]),
            row("D1", Proof::Missing("`e` is not built".to_owned()), &[]),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn whatever_is_wrong_with_a_row_is_told() {
        for (line, why) in [
            ("| SVC-3 | x | `a` |", "SVC-3: there is no such row in the contract"),
            ("| SVC-1 | x | `a` |\n| SVC-1 | x | `a` |", "SVC-1: is there twice"),
            ("| SVC-1 | x | soon |", "SVC-1: neither a test nor a reason: soon"),
            ("| SVC-1 | x | missing: |", "SVC-1: missing: says no reason"),
            ("| SVC-1 | x | different: by nature |", "SVC-1: does not link to differences.md"),
            ("| SVC-1 | x | different: [b](differences.md#b) |", "SVC-1: differences.md has no #b"),
            ("| SVC-1 | x |", "SVC-1: has 2 cells in place of 3"),
            ("", "SVC-1: is not there"),
        ] {
            let (_, wrong) = check(line);
            assert!(wrong.iter().any(|told| told == why), "{line}: {wrong:?}");
        }
    }
}
