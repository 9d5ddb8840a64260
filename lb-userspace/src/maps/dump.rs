//! Contents as sorted, readable text: for `lb dump` and for golden tests.
//!
//! Invariant: the short text names no ids and no slot numbers, so it is the same for all contents
//! that forward the same way; every line stands for entries of the maps, none is made up.

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
};

use lb_common::{BackendState, FrontendKind, FrontendValue};

use super::Contents;
use crate::plan::{Backend, BackendId, Frontend, Range, ServiceId, ServiceName};

/// Contents as text.
#[derive(Clone, Copy, Debug)]
pub struct Dump<'a> {
    contents: &'a Contents,
    with_ids: bool,
}

impl<'a> Dump<'a> {
    /// What the contents mean: services, what clients send to, and what answers.
    pub fn new(contents: &'a Contents) -> Self {
        Self { contents, with_ids: false }
    }

    /// The same with ids and slot numbers, which differ with the order of events.
    pub fn with_ids(contents: &'a Contents) -> Self {
        Self { contents, with_ids: true }
    }
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Contents { services, backends, slots: _, ranges, filter, frontends } = self.contents;
        let mut lines: BTreeSet<(Option<Frontend>, String)> = BTreeSet::new();
        for (frontend, value) in frontends {
            let _new = lines.insert((Some(*frontend), self.frontend(frontend, value)));
        }
        section(f, "frontends", lines.into_iter().map(|(_, line)| line))?;
        let lines: BTreeSet<((std::net::IpAddr, u16, u8), String)> = backends
            .iter()
            .map(|(id, b)| ((b.addr, b.port, b.proto), self.backend_line(*id, b)))
            .collect();
        section(f, "backends", lines.into_iter().map(|(_, line)| line))?;
        let lines: BTreeSet<String> = services.keys().map(|id| self.service(id.0)).collect();
        section(f, "services", lines.into_iter())?;
        let named: BTreeSet<u32> = frontends.values().map(|value| value.ranges).collect();
        let stray = |range: &&Range| self.with_ids || !named.contains(&range.set.0);
        section(f, "source ranges", ranges.iter().filter(stray).map(Range::to_string))?;
        let bits: u32 = filter.values().map(|word| word.count_ones()).sum();
        writeln!(f, "filter\n  {bits} bits set")
    }
}

impl Dump<'_> {
    fn frontend(&self, frontend: &Frontend, value: &FrontendValue) -> String {
        let kind = FrontendKind::from_u8(value.kind).map_or("unknown", FrontendKind::name);
        if frontend.is_marker() {
            return format!("{frontend} {kind}");
        }
        let mut line = format!("{frontend} {kind} {}", self.service(value.service));
        let slots = value.base as usize..value.base as usize + value.slots() as usize;
        if self.with_ids && !slots.is_empty() {
            let _infallible = write!(line, " slots {}..{}", slots.start, slots.end);
        }
        if value.affinity != 0 {
            let _infallible = write!(line, " affinity {} s", value.affinity);
        }
        if value.ranges != 0 {
            self.sources(&mut line, value.ranges);
        }
        line.push_str(if value.is_local() { " policy Local -> " } else { " -> " });
        let Some(slots) = self.contents.slots.get(slots) else {
            line.push_str("missing slots");
            return line;
        };
        let (cluster, local) = slots.split_at_checked(value.len as usize).unwrap_or_default();
        self.set(&mut line, cluster, "refused");
        if (value.is_local() && value.len > 0) || !local.is_empty() {
            line.push_str("; on this node ");
            self.set(&mut line, local, "dropped");
        }
        line
    }

    fn sources(&self, line: &mut String, set: u32) {
        if self.with_ids {
            let _infallible = write!(line, " ranges {set}");
            return;
        }
        let of_set = self.contents.ranges.iter().filter(|range| range.set.0 == set);
        let nets: Vec<String> = of_set
            .map(|range| range.net().map_or_else(|| range.to_string(), |net| net.to_string()))
            .collect();
        let from = if nets.is_empty() { "nobody".to_owned() } else { nets.join(" ") };
        let _infallible = write!(line, " from {from}");
    }

    fn set(&self, line: &mut String, slots: &[u32], empty: &str) {
        if slots.is_empty() {
            line.push_str(empty);
        }
        for (index, slot) in slots.iter().enumerate() {
            let id = BackendId(*slot);
            let comma = if index == 0 { "" } else { ", " };
            let _infallible = match self.contents.backends.get(&id) {
                Some(backend) => write!(line, "{comma}{}", self.backend(id, backend)),
                None => write!(line, "{comma}missing backend {id}"),
            };
        }
    }

    fn backend(&self, id: BackendId, backend: &Backend) -> String {
        let mut text = std::net::SocketAddr::new(backend.addr, backend.port).to_string();
        if self.with_ids {
            let _infallible = write!(text, " (backend {id})");
        }
        if backend.state != BackendState::Serving {
            let _infallible = write!(text, " ({})", backend.state.name());
        }
        text
    }

    fn backend_line(&self, id: BackendId, backend: &Backend) -> String {
        let proto = crate::plan::ProtoName(backend.proto);
        let addr = std::net::SocketAddr::new(backend.addr, backend.port);
        let service = self.service(backend.service.0);
        let state = backend.state.name();
        let sets = crate::plan::set_names(backend.sets);
        let place = backend.location.name();
        match self.with_ids {
            true => format!("{id}: {addr}/{proto} {state} {sets} {place} {service}"),
            false => format!("{addr}/{proto} {state} {sets} {place} {service}"),
        }
    }

    fn service(&self, id: u32) -> String {
        let Some(info) = self.contents.services.get(&ServiceId(id)) else {
            return format!("missing service {id}");
        };
        match self.with_ids {
            true => format!("{} (service {id})", ServiceName(info)),
            false => ServiceName(info).to_string(),
        }
    }
}

fn section(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    lines: impl Iterator<Item = String>,
) -> fmt::Result {
    let mut empty = true;
    for line in lines {
        if std::mem::take(&mut empty) {
            writeln!(f, "{title}")?;
        }
        writeln!(f, "  {line}")?;
    }
    Ok(())
}
