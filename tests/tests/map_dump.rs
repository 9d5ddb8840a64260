//! `bpftool map dump` prints the maps by the names of their fields, from BTF alone.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    EbpfLoader,
    maps::{Map, MapInfo},
};
use lb_common::names;
use lb_tests::{budget, lab};
use serde_json::Value;

/// The fields that each map's dump must show: of the key, then of the value. A plain number is
/// printed as such.
const FIELDS: [(&str, &[&str], &[&str]); 22] = [
    (names::LB4_FRONTENDS, &["addr", "port", "proto", "pad"], FRONTEND),
    (names::LB6_FRONTENDS, &["addr", "port", "proto", "pad"], FRONTEND),
    (names::LB4_BACKENDS, &[], BACKEND),
    (names::LB6_BACKENDS, &[], BACKEND),
    (names::LB_SLOTS, &[], &[]),
    (names::LB_VIP_FILTER, &[], &[]),
    (names::LB4_FLOWS, FLOW_KEY, FLOW),
    (names::LB6_FLOWS, FLOW_KEY, FLOW),
    (names::LB4_SOCKS, SOCK_KEY, SOCK),
    (names::LB6_SOCKS, SOCK_KEY, SOCK),
    (names::LB4_FRAGMENTS, FRAGMENT_KEY, FRAGMENT),
    (names::LB4_AFFINITY, &["service", "client"], &["backend", "last_used"]),
    (names::LB6_AFFINITY, &["service", "client"], &["backend", "last_used"]),
    (names::LB4_RANGES, &["prefix_len", "data"], &[]),
    (names::LB6_RANGES, &["prefix_len", "data"], &[]),
    (names::LB_DEVICES, &[], &["snat4", "snat6", "role", "ethernet", "pad"]),
    (names::LB_XDP_DEVICES, &[], &["ifindex", "mac", "flags", "pad"]),
    (names::LB_SERVICES, &[], &["namespace", "name", "port_name", "proto", "family", "pad"]),
    (names::LB_REASONS, &[], &[]),
    (names::LB_BACKEND_STAT, &[], &["flows", "packets", "bytes"]),
    (names::LB_SCHEMA, &[], &["abi_version", "families", "object_hash"]),
    (names::LB_RUNTIME, &[], &["generation", "flags", "pad"]),
];
const FRONTEND: &[&str] =
    &["service", "base", "len", "local_len", "ranges", "affinity", "kind", "local", "pad"];
const BACKEND: &[&str] = &["addr", "port", "proto", "state", "service", "sets", "location", "pad"];
const FLOW_KEY: &[&str] = &["src", "dst", "sport", "dport", "proto", "hook", "pad"];
const FLOW: &[&str] = &[
    "src",
    "dst",
    "sport",
    "dport",
    "next_hop",
    "backend",
    "address_delta",
    "port_delta",
    "last_seen",
    "seen",
    "action",
    "reverse",
    "other_hook",
    "packets",
    "road_port",
    "second",
    "pad",
    "bytes",
];
const FRAGMENT_KEY: &[&str] = &["src", "dst", "id", "proto", "hook", "pad"];
const FRAGMENT: &[&str] = &["src", "dst", "next_hop", "seen_at", "address_delta", "action", "pad"];
const SOCK_KEY: &[&str] = &["cookie_low", "cookie_high", "addr", "port", "proto", "direction"];
const SOCK: &[&str] = &["addr", "port", "pad", "backend", "service", "last_seen"];

#[test]
fn every_map_is_dumped_by_the_names_of_its_fields() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    if Command::new("bpftool").arg("version").output().is_err() {
        println!("SKIPPED: no bpftool: install the Debian package of that name");
        return;
    }
    assert_eq!(FIELDS.map(|(map, ..)| map), names::MAPS);
    dump_all().unwrap();
}

fn dump_all() -> Result<()> {
    let object = budget::object();
    let bytes = std::fs::read(&object)
        .with_context(|| format!("reading {}: run `cargo xtask build`", object.display()))?;
    let mut loader = EbpfLoader::new();
    for (map, ..) in FIELDS {
        // A dump of one entry shows as much as one of a million.
        let entries = match map {
            names::LB_REASONS => lb_common::REASON_SLOTS * 7,
            _ => 1,
        };
        let _chained = loader.map_max_entries(map, entries);
    }
    let ebpf = loader.load(&bytes).context("loading the maps")?;
    for (name, key, value) in FIELDS {
        let map = ebpf.map(name).with_context(|| format!("no map {name}"))?;
        let entry = entry(map).with_context(|| format!("dumping {name}"))?;
        check(name, &entry["key"], key)?;
        // What counts per CPU has a value for each.
        let first = &entry["values"][0]["value"];
        check(name, if first.is_null() { &entry["value"] } else { first }, value)?;
    }
    Ok(())
}

/// The first entry as bpftool formats it; a hash or a trie gets one of zeros first.
#[expect(clippy::wildcard_enum_match_arm, reason = "two dozen kinds that are not used")]
fn entry(map: &Map) -> Result<Value> {
    let (info, hash): (MapInfo, bool) = match map {
        Map::HashMap(map) | Map::LruHashMap(map) => (map.info()?, true),
        Map::LpmTrie(map) => (map.info()?, true),
        Map::Array(map) | Map::PerCpuArray(map) => (map.info()?, false),
        _ => bail!("a kind of map that the load balancer does not use"),
    };
    let id = info.id().to_string();
    if hash {
        let zeros = |bytes: u32| vec!["0"; bytes as usize];
        let (key, value) = (zeros(info.key_size()), zeros(info.value_size()));
        let words = [vec!["map", "update", "id", &id, "key"], key, vec!["value"], value].concat();
        let _ = bpftool(&words)?;
    }
    let dump: Value = serde_json::from_slice(&bpftool(&["-j", "map", "dump", "id", &id])?)?;
    ensure!(!dump[0]["formatted"].is_null(), "not formatted: {dump}");
    Ok(dump[0]["formatted"].clone())
}

fn bpftool(words: &[&str]) -> Result<Vec<u8>> {
    let done = Command::new("bpftool").args(words).output().context("running bpftool")?;
    ensure!(done.status.success(), "bpftool: {}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}

/// A struct with exactly these fields; without any, a plain number.
fn check(map: &str, shown: &Value, fields: &[&str]) -> Result<()> {
    let Some(object) = shown.as_object() else {
        ensure!(fields.is_empty() && shown.is_number(), "{map}: {shown} is no struct");
        return Ok(());
    };
    let mut shown: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut wanted = fields.to_vec();
    shown.sort_unstable();
    wanted.sort_unstable();
    ensure!(shown == wanted, "{map} shows {shown:?}, not {wanted:?}");
    Ok(())
}
