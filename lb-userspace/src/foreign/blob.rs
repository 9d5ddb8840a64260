//! The table format of x_tables: the array of entries that the kernel gives out and takes back whole.
//!
//! Invariant: pure, and safe on any bytes: what is not a table as the kernel makes it is an error. An
//! edited table has the entries that stay byte for byte, but for the offsets that jumps name.

use std::{collections::BTreeSet, io};

use super::{
    Family,
    chains::{self, Chain, Removal, Rule},
};

/// How many hooks of the kernel a table can hang on, in this order.
pub(super) const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// `struct xt_entry_target` without its data.
const TARGET_HEADER: usize = 32;

/// A table as the kernel describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Blob {
    /// Bit set of hooks.
    pub(super) valid_hooks: u32,
    /// Offset of each hook's first entry.
    pub(super) hook_entry: [u32; 5],
    /// Offset of each hook's last entry, its policy.
    pub(super) underflow: [u32; 5],
    /// The entries.
    pub(super) entries: Vec<u8>,
}

/// Where things lie in an entry of a family.
struct Layout {
    target_offset: usize,
    next_offset: usize,
    counters: usize,
    /// Size of the fixed part.
    size: usize,
}

const fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout { target_offset: 88, next_offset: 90, counters: 96, size: 112 },
        Family::V6 => Layout { target_offset: 140, next_offset: 142, counters: 152, size: 168 },
    }
}

/// One entry.
#[derive(Clone, Debug)]
struct Entry {
    start: usize,
    end: usize,
    /// Where the target begins.
    target: usize,
    kind: Kind,
    /// Whether a match or the target needs connections tracked.
    tracks: bool,
    /// Index of the chain that it belongs to.
    chain: usize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    /// The head of a chain of this name, or the end of the table.
    Head(String),
    /// A verdict, or a jump to an offset when not negative.
    Standard(i32),
    /// A target of an extension.
    Other,
}

/// A parsed table: its entries, and the names of its chains.
pub(super) struct Parsed {
    entries: Vec<Entry>,
    chains: Vec<(String, bool)>,
}

fn malformed(what: &str) -> io::Error {
    io::Error::other(format!("the table is not as the kernel makes it: {what}"))
}

impl Blob {
    /// Finds entries and chains.
    pub(super) fn parse(&self, family: Family) -> io::Result<Parsed> {
        let mut parsed = Parsed { entries: Vec::new(), chains: Vec::new() };
        let mut start = 0;
        while start < self.entries.len() {
            let entry = self.entry(family, start)?;
            if let Some(hook) = self.hook_at(start) {
                parsed.chains.push((HOOKS[hook].to_owned(), true));
            } else if let Kind::Head(name) = &entry.kind {
                parsed.chains.push((name.clone(), false));
            }
            let chain = parsed.chains.len().checked_sub(1).ok_or_else(|| malformed("no chain"))?;
            start = entry.end;
            parsed.entries.push(Entry { chain, ..entry });
        }
        Ok(parsed)
    }

    fn entry(&self, family: Family, start: usize) -> io::Result<Entry> {
        let Layout { target_offset, next_offset, size, .. } = layout(family);
        let target = start + usize::from(self.half(start + target_offset)?);
        let end = start + usize::from(self.half(start + next_offset)?);
        if target < start + size || target + TARGET_HEADER + 4 > end || end > self.entries.len() {
            return Err(malformed("an entry has a wrong size"));
        }
        let name = text(&self.entries[target + 2..target + 31]);
        let data = target + TARGET_HEADER;
        let kind = match name.as_str() {
            "" => Kind::Standard(i32::from_ne_bytes(self.word(data)?)),
            "ERROR" => Kind::Head(text(&self.entries[data..end])),
            _ => Kind::Other,
        };
        let tracks = chains::tracks(&name) || self.matches_track(start + size, target)?;
        Ok(Entry { start, end, target, kind, tracks, chain: 0 })
    }

    /// Looks through the matches of an entry.
    fn matches_track(&self, mut at: usize, target: usize) -> io::Result<bool> {
        while at < target {
            let length = usize::from(self.half(at)?);
            if length < TARGET_HEADER || at + length > target {
                return Err(malformed("a match has a wrong size"));
            }
            if chains::tracks(&text(&self.entries[at + 2..at + 31])) {
                return Ok(true);
            }
            at += length;
        }
        Ok(false)
    }

    fn hook_at(&self, offset: usize) -> Option<usize> {
        (0..HOOKS.len()).find(|hook| {
            self.valid_hooks & 1 << hook != 0
                && usize::try_from(self.hook_entry[*hook]).ok() == Some(offset)
        })
    }

    fn half(&self, at: usize) -> io::Result<u16> {
        let bytes = self.entries.get(at..).and_then(|bytes| bytes.first_chunk::<2>());
        bytes.map(|bytes| u16::from_ne_bytes(*bytes)).ok_or_else(|| malformed("it ends too early"))
    }

    fn word(&self, at: usize) -> io::Result<[u8; 4]> {
        let bytes = self.entries.get(at..).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.copied().ok_or_else(|| malformed("it ends too early"))
    }
}

/// A table without what was removed.
pub(super) struct Edited {
    /// The table.
    pub(super) blob: Blob,
    /// How many entries it has.
    pub(super) count: usize,
    /// The counters that each of them had: packets and octets.
    pub(super) counters: Vec<[u8; 16]>,
}

impl Parsed {
    /// How many entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The chains with their rules; a rule's handle is its place among all entries.
    pub(super) fn chains(&self) -> Vec<Chain> {
        let mut chains: Vec<Chain> = self
            .chains
            .iter()
            .map(|(name, base)| Chain {
                name: name.clone(),
                base: *base,
                nat: false,
                rules: Vec::new(),
            })
            .collect();
        for (place, entry) in self.entries.iter().enumerate() {
            if matches!(entry.kind, Kind::Head(_)) {
                continue;
            }
            let targets = self.jump(entry).map(|chain| self.chains[chain].0.clone());
            let handle = u64::try_from(place).unwrap_or(u64::MAX);
            let (targets, tracks) = (targets.into_iter().collect(), entry.tracks);
            chains[entry.chain].rules.push(Rule { handle, targets, tracks });
        }
        // The head that ends the table is no chain.
        let _end = chains.pop_if(|last| !last.base && last.name == "ERROR");
        chains
    }

    /// The chain that an entry jumps to. A rule without target "jumps" to the entry after it.
    fn jump(&self, entry: &Entry) -> Option<usize> {
        let Kind::Standard(verdict) = entry.kind else { return None };
        let offset = usize::try_from(verdict).ok().filter(|offset| *offset != entry.end)?;
        let place = self.entries.binary_search_by_key(&offset, |entry| entry.start).ok()?;
        Some(self.entries[place].chain)
    }

    /// The table without what `removal` names.
    pub(super) fn edit(
        &self,
        family: Family,
        from: &Blob,
        removal: &Removal,
    ) -> io::Result<Edited> {
        let rules: BTreeSet<u64> = removal.rules.iter().map(|(_, handle)| *handle).collect();
        let gone = |(place, entry): (usize, &Entry)| {
            removal.chains.contains(&self.chains[entry.chain].0)
                || u64::try_from(place).is_ok_and(|place| rules.contains(&place))
        };
        let gone: Vec<bool> = self.entries.iter().enumerate().map(gone).collect();
        // Where each entry comes to lie; for one that goes, where the next one that stays does.
        let mut offsets = Vec::with_capacity(self.entries.len());
        let mut length = 0;
        for (entry, gone) in self.entries.iter().zip(&gone) {
            offsets.push(length);
            length += if *gone { 0 } else { entry.end - entry.start };
        }
        let moved = |offset: usize| {
            let place = self.entries.binary_search_by_key(&offset, |entry| entry.start);
            let place = place.map_err(|_between| malformed("an offset is between entries"))?;
            u32::try_from(offsets[place]).map_err(|_large| malformed("it is too large"))
        };
        let mut edited = Edited {
            blob: Blob { valid_hooks: from.valid_hooks, ..Blob::default() },
            count: 0,
            counters: Vec::new(),
        };
        let Layout { counters, .. } = layout(family);
        for (entry, _) in self.entries.iter().zip(&gone).filter(|(_, gone)| !**gone) {
            let bytes = &from.entries[entry.start..entry.end];
            let at = edited.blob.entries.len();
            edited.blob.entries.extend(bytes);
            edited.count += 1;
            edited.counters.push(*bytes[counters..].first_chunk().expect("an entry has counters"));
            if let Kind::Standard(verdict) = entry.kind
                && let Ok(offset) = usize::try_from(verdict)
            {
                if let Some(chain) = self.jump(entry)
                    && removal.chains.contains(&self.chains[chain].0)
                {
                    return Err(malformed("a rule that stays leads to a chain that goes"));
                }
                let data = at + entry.target - entry.start + TARGET_HEADER;
                edited.blob.entries[data..data + 4].copy_from_slice(&moved(offset)?.to_ne_bytes());
            }
        }
        for hook in (0..HOOKS.len()).filter(|hook| from.valid_hooks & 1 << hook != 0) {
            let old = |offset: u32| usize::try_from(offset).unwrap_or(usize::MAX);
            edited.blob.hook_entry[hook] = moved(old(from.hook_entry[hook]))?;
            edited.blob.underflow[hook] = moved(old(from.underflow[hook]))?;
        }
        Ok(edited)
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::FAMILIES, *};

    fn entry(family: Family, name: &str, data: &[u8], packets: u8) -> Vec<u8> {
        let Layout { target_offset, next_offset, counters, size } = layout(family);
        let mut bytes = vec![0; size + TARGET_HEADER + data.len().next_multiple_of(8)];
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[target_offset..][..2].copy_from_slice(&u16::try_from(size).unwrap().to_ne_bytes());
        bytes[next_offset..][..2].copy_from_slice(&length.to_ne_bytes());
        bytes[counters] = packets;
        bytes[size + 2..][..name.len()].copy_from_slice(name.as_bytes());
        bytes[size + TARGET_HEADER..][..data.len()].copy_from_slice(data);
        bytes
    }

    /// FORWARD jumps to KUBE-FORWARD, then to MINE, then falls through a rule without target.
    fn table(family: Family) -> Blob {
        let standard = |verdict: i32| entry(family, "", &verdict.to_ne_bytes(), 9);
        let head = |name: &str| {
            let mut data = [0; 30];
            data[..name.len()].copy_from_slice(name.as_bytes());
            entry(family, "ERROR", &data, 0)
        };
        let (short, long) = (standard(0).len(), head("x").len());
        let to =
            |shorts: usize, longs: usize| i32::try_from(shorts * short + longs * long).unwrap();
        let entries = [
            standard(to(4, 1)),
            standard(to(5, 2)),
            standard(to(3, 0)),
            standard(-2),
            head("KUBE-FORWARD"),
            standard(-5),
            head("MINE"),
            standard(-5),
            head("ERROR"),
        ]
        .concat();
        Blob {
            valid_hooks: 4,
            hook_entry: [0; 5],
            underflow: [0, 0, u32::try_from(3 * short).unwrap(), 0, 0],
            entries,
        }
    }

    #[test]
    fn chains_and_jumps_are_found() {
        for family in FAMILIES {
            let parsed = table(family).parse(family).unwrap();
            let shown: Vec<_> = parsed
                .chains()
                .into_iter()
                .map(|chain| {
                    let targets = chain.rules.into_iter().map(|rule| rule.targets.concat());
                    (chain.name, targets.collect::<Vec<_>>().join(","))
                })
                .collect();
            let wanted = [("FORWARD", "KUBE-FORWARD,MINE,,"), ("KUBE-FORWARD", ""), ("MINE", "")];
            assert_eq!(shown, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())));
        }
    }

    #[test]
    fn what_stays_points_where_it_did() {
        for family in FAMILIES {
            let blob = table(family);
            let parsed = blob.parse(family).unwrap();
            let removal = Removal {
                chains: ["KUBE-FORWARD".to_owned()].into(),
                rules: vec![("FORWARD".to_owned(), 0)],
                kept: Vec::new(),
            };
            let Edited { blob, count, counters } = parsed.edit(family, &blob, &removal).unwrap();
            let parsed = blob.parse(family).unwrap();
            let targets = |n: usize| parsed.chains()[n].rules[0].targets.clone();
            assert_eq!((count, counters.len(), parsed.len()), (6, 6, 6));
            assert_eq!(counters[0][0], 9);
            assert_eq!(targets(0), ["MINE"]);
            assert_eq!(parsed.chains().len(), 2);
            // Its policy is the third entry now.
            assert_eq!(parsed.entries[2].start, usize::try_from(blob.underflow[2]).unwrap());
        }
    }

    #[test]
    fn a_rule_that_stays_never_leads_nowhere() {
        let blob = table(Family::V4);
        let removal = Removal { chains: ["MINE".to_owned()].into(), ..Removal::default() };
        let parsed = blob.parse(Family::V4).unwrap();
        assert!(parsed.edit(Family::V4, &blob, &removal).is_err());
    }

    #[test]
    fn bytes_that_are_no_table_are_an_error() {
        let whole = table(Family::V4);
        for length in 1..whole.entries.len() {
            let blob = Blob { entries: whole.entries[..length].to_vec(), ..whole.clone() };
            if let Ok(parsed) = blob.parse(Family::V4) {
                assert!(parsed.len() < 9);
            }
        }
    }
}
