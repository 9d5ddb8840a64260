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
use crate::plan::{Backend, BackendId, Frontend, ServiceId, ServiceName};

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
        let Contents { services, backends, slots: _, filter, frontends } = self.contents;
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
        let (base, len) = (value.base as usize, value.len as usize);
        if self.with_ids && len > 0 {
            let _infallible = write!(line, " slots {base}..{}", base + len);
        }
        if len == 0 {
            line.push_str(" -> refused");
        }
        let slots = self.contents.slots.get(base..).unwrap_or_default();
        let Some(slots) = slots.get(..len) else {
            line.push_str(" -> missing slots");
            return line;
        };
        for (index, slot) in slots.iter().enumerate() {
            let id = BackendId(*slot);
            let comma = if index == 0 { " -> " } else { ", " };
            let _infallible = match self.contents.backends.get(&id) {
                Some(backend) => write!(line, "{comma}{}", self.backend(id, backend)),
                None => write!(line, "{comma}missing backend {id}"),
            };
        }
        line
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
        match self.with_ids {
            true => format!("{id}: {addr}/{proto} {state} {service}"),
            false => format!("{addr}/{proto} {state} {service}"),
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
