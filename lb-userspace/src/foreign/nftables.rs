//! The tables of nf_tables: those that iptables-nft keeps there, and kube-proxy's own.

use std::{collections::BTreeMap, io};

use super::{
    Backend, Family,
    chains::{self, Chain, Removal, Rule, Table},
    netlink::{Attributes, Batch, dump, put, put_text},
};

/// Name of the table of kube-proxy's nftables mode, in each family.
pub(super) const KUBE_PROXY: &str = "kube-proxy";

// Numbers of linux/netfilter/nf_tables.h.
const DEL_TABLE: u16 = 2;
const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;

/// NFPROTO_INET: tables for both families.
const BOTH: u8 = 1;
const EXPRESSION_OF_XTABLES: u16 = 1;

const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The tables of both families with their chains, without rules; none where the kernel has no nf_tables.
pub(super) fn chains() -> io::Result<Vec<Table>> {
    let mut tables = BTreeMap::<(Family, String), Vec<Chain>>::new();
    for family in super::FAMILIES {
        for bytes in list(number(family))? {
            let attributes = Attributes(&bytes);
            let (Some(table), Some(name)) =
                (attributes.text(CHAIN_TABLE), attributes.text(CHAIN_NAME))
            else {
                continue;
            };
            let base = attributes.find(CHAIN_HOOK).is_some();
            let nat = attributes.text(CHAIN_TYPE).as_deref() == Some("nat");
            let chain = Chain { name, base, nat, rules: Vec::new() };
            tables.entry((family, table)).or_default().push(chain);
        }
    }
    Ok(tables
        .into_iter()
        .map(|((family, name), chains)| Table { backend: Backend::Nft, family, name, chains })
        .collect())
}

/// The chains of a family; none where the kernel has no nf_tables.
fn list(family: u8) -> io::Result<Vec<Vec<u8>>> {
    match dump(GET_CHAIN, family, &[]) {
        // Neither built in nor a module that could be loaded.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        result => result,
    }
}

/// Whether tables for both families together translate, and whether they track connections.
pub(super) fn of_both() -> io::Result<(bool, bool)> {
    let chains = list(BOTH)?;
    let nat = |bytes: &Vec<u8>| Attributes(bytes).text(CHAIN_TYPE).as_deref() == Some("nat");
    let tracks = !chains.is_empty()
        && dump(GET_RULE, BOTH, &[])?.iter().any(|bytes| {
            Attributes(bytes).nested(RULE_EXPRESSIONS).is_some_and(|rule| tracks(rule))
        });
    Ok((chains.iter().any(nat), tracks))
}

/// Adds its rules to a table.
pub(super) fn read_rules(table: &mut Table) -> io::Result<()> {
    let mut filter = Vec::new();
    put_text(&mut filter, RULE_TABLE, &table.name);
    let mut rules = BTreeMap::<String, Vec<Rule>>::new();
    for bytes in dump(GET_RULE, number(table.family), &filter)? {
        let attributes = Attributes(&bytes);
        let handle = attributes.find(RULE_HANDLE).and_then(|bytes| bytes.first_chunk::<8>());
        let (Some(chain), Some(handle), true) = (
            attributes.text(RULE_CHAIN),
            handle,
            attributes.text(RULE_TABLE).as_ref() == Some(&table.name),
        ) else {
            continue;
        };
        let expressions = attributes.nested(RULE_EXPRESSIONS).unwrap_or(Attributes(&[]));
        rules.entry(chain).or_default().push(Rule {
            handle: u64::from_be_bytes(*handle),
            targets: targets(expressions),
            tracks: tracks(expressions),
        });
    }
    for chain in &mut table.chains {
        chain.rules = rules.remove(&chain.name).unwrap_or_default();
    }
    Ok(())
}

/// Whether a rule needs connections tracked.
fn tracks(expressions: Attributes<'_>) -> bool {
    elements(expressions).any(|expression| {
        let name = expression.text(EXPRESSION_NAME);
        // A match or target of x_tables, by its own name.
        let inner = expression.nested(EXPRESSION_DATA).and_then(|d| d.text(EXPRESSION_OF_XTABLES));
        match name.as_deref() {
            Some("match" | "target") => inner.is_some_and(|name| chains::tracks(&name)),
            Some(name) => chains::tracks(name),
            None => false,
        }
    })
}

fn elements(expressions: Attributes<'_>) -> impl Iterator<Item = Attributes<'_>> {
    expressions.filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, element)| Attributes(element))
}

/// The chains that a rule jumps or goes to.
fn targets(expressions: Attributes<'_>) -> Vec<String> {
    let verdict = |expression: Attributes<'_>| {
        if expression.text(EXPRESSION_NAME)? != "immediate" {
            return None;
        }
        let data = expression.nested(EXPRESSION_DATA)?.nested(IMMEDIATE_DATA)?;
        data.nested(DATA_VERDICT)?.text(VERDICT_CHAIN)
    };
    elements(expressions).filter_map(verdict).collect()
}

/// Removes what `removal` says from a table, all at once.
pub(super) fn remove(table: &Table, removal: &Removal) -> io::Result<()> {
    let family = number(table.family);
    let mut batch = Batch::new();
    for (chain, handle) in &removal.rules {
        let mut body = rule_of(table, chain);
        put(&mut body, RULE_HANDLE, &handle.to_be_bytes());
        batch.add(DEL_RULE, family, &body);
    }
    // All rules first: the chains refer to each other.
    for chain in &removal.chains {
        batch.add(DEL_RULE, family, &rule_of(table, chain));
    }
    for chain in &removal.chains {
        let mut body = Vec::new();
        put_text(&mut body, CHAIN_TABLE, &table.name);
        put_text(&mut body, CHAIN_NAME, chain);
        batch.add(DEL_CHAIN, family, &body);
    }
    batch.commit()
}

fn rule_of(table: &Table, chain: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, RULE_TABLE, &table.name);
    put_text(&mut body, RULE_CHAIN, chain);
    body
}

/// Removes kube-proxy's own table of a family.
pub(super) fn remove_table(family: Family) -> io::Result<()> {
    let mut body = Vec::new();
    put_text(&mut body, TABLE_NAME, KUBE_PROXY);
    let mut batch = Batch::new();
    batch.add(DEL_TABLE, number(family), &body);
    batch.commit()
}
