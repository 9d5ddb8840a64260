//! `lb flows`: the connections that are being translated, and by which program.
//!
//! Both directions of a pair stand together. Sockets that a cgroup hook connected have one line:
//! the kernel sends their packets to the backend by itself.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use lb_common::{Action, Hook, Seen, names, proto};
use serde::Serialize;

use super::{
    args::FamilyArg,
    service_ref::ServiceRef,
    snapshot::{Flow, Snapshot, Sock, Tuple},
    table::{Table, bytes, span},
};
use crate::plan::{BackendId, ProtoName, ServiceId};

/// What tells the age of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clock {
    /// The kernel's jiffies now, low half.
    pub jiffies: u32,
    /// Jiffies per second.
    pub hz: u32,
}

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only of this Service.
    pub service: Option<ServiceRef>,
    /// Only of this family.
    pub family: Option<FamilyArg>,
    /// At most this many connections; 0 for all.
    pub limit: usize,
    /// Whether XDP programs stand before the tc programs of external devices.
    pub xdp: bool,
    /// The kernel's clock, where it can be read.
    pub clock: Option<Clock>,
}

/// One direction of one connection.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct FlowRow {
    /// `forward`, `reply` or `socket`; with `-leg-2` where the source is replaced as packets leave, which the
    /// entry before does only for those that take the shortcut.
    pub direction: &'static str,
    /// Protocol by name.
    pub protocol: String,
    /// Source as it arrives; of sockets, the cookie.
    pub source: String,
    /// Destination as it arrives.
    pub destination: String,
    /// Source as it leaves.
    pub new_source: Option<String>,
    /// Destination as it leaves.
    pub new_destination: String,
    /// The Service port.
    pub service: String,
    /// Backend id.
    pub backend: u32,
    /// The hook at which the entry applies.
    pub hook: &'static str,
    /// The program on that hook which rewrites.
    pub program: &'static str,
    /// Where packets go: `stack`, `masquerade`, `to-host` or `redirect`.
    pub action: &'static str,
    /// What both directions have shown so far.
    pub state: &'static str,
    /// Seconds since the last packet.
    pub age: Option<u64>,
    /// Packets so far.
    pub packets: Option<u64>,
    /// Bytes of those packets.
    pub bytes: Option<u64>,
}

/// What is shown of all there is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Flows {
    /// Connections that match.
    pub matching: usize,
    /// Connections that are shown.
    pub shown: usize,
    /// Their directions.
    pub rows: Vec<FlowRow>,
}

/// The connections that `query` asks for, busiest first.
pub fn select(snapshot: &Snapshot, query: &Query) -> Flows {
    let ids: Option<HashSet<ServiceId>> =
        query.service.as_ref().map(|service| service.ids(snapshot).into_iter().collect());
    let wanted = |service: ServiceId, v4: bool| {
        ids.as_ref().is_none_or(|ids| ids.contains(&service))
            && query.family.is_none_or(|family| (family == FamilyArg::V4) == v4)
    };
    let by_key: HashMap<At, &Flow> =
        snapshot.flows.iter().map(|flow| ((flow.key, flow.hook), flow)).collect();
    // The second leg of a direction translates back what the other direction's entry is for.
    let second_legs: HashMap<At, &Flow> = snapshot
        .flows
        .iter()
        .filter(|flow| flow.second)
        .map(|flow| (other_key(flow), flow))
        .collect();
    let mut heads: Vec<(&Flow, Option<&Flow>)> = snapshot
        .flows
        .iter()
        .filter(|flow| wanted(flow.service, flow.key.src.is_ipv4()))
        .filter_map(|flow| {
            let other = by_key.get(&other_key(flow)).copied();
            // A pair stands under its forward entry; an entry alone stands for itself.
            let leads = other.is_none() || !flow.reverse && !flow.second;
            leads.then_some((flow, other))
        })
        .collect();
    heads.sort_by_key(|(flow, other)| {
        let packets = u64::from(flow.packets) + other.map_or(0, |other| u64::from(other.packets));
        (Reverse(packets), flow.key)
    });
    let mut socks: Vec<&Sock> = snapshot
        .socks
        .iter()
        .filter(|sock| wanted(sock.service, sock.frontend.is_ipv4()))
        .collect();
    socks.sort_by_key(|sock| (sock.frontend, sock.cookie));

    let matching = heads.len() + socks.len();
    let limit = if query.limit == 0 { usize::MAX } else { query.limit };
    let mut rows = Vec::new();
    for (flow, other) in heads.iter().take(limit) {
        let state = state(flow, *other);
        for entry in [Some(*flow), *other].into_iter().flatten() {
            rows.push(row(snapshot, query, entry, state));
            let leg = second_legs.get(&other_key(entry)).filter(|_| entry.road_port != 0);
            rows.extend(leg.map(|leg| row(snapshot, query, leg, state)));
        }
    }
    let left = limit.saturating_sub(heads.len());
    rows.extend(socks.iter().take(left).map(|sock| sock_row(snapshot, query, sock)));
    Flows { matching, shown: matching.min(limit), rows }
}

/// What finds an entry: addresses and ports, and the hook.
type At = (Tuple, Option<Hook>);

/// The key of the other entry of a flow's pair.
fn other_key(flow: &Flow) -> At {
    (flow.translated.reversed(), flow.other_hook)
}

fn row(snapshot: &Snapshot, query: &Query, flow: &Flow, state: &'static str) -> FlowRow {
    let BackendId(backend) = flow.backend;
    FlowRow {
        direction: match (flow.reverse, flow.second) {
            (false, false) => "forward",
            (false, true) => "forward-leg-2",
            (true, false) => "reply",
            (true, true) => "reply-leg-2",
        },
        protocol: ProtoName(flow.key.proto).to_string(),
        source: flow.key.src.to_string(),
        destination: flow.key.dst.to_string(),
        new_source: Some(flow.translated.src.to_string()),
        new_destination: flow.translated.dst.to_string(),
        service: snapshot.service_name(flow.service),
        backend,
        hook: flow.hook.map_or("unknown", Hook::name),
        program: flow.hook.map_or("unknown", |hook| program(hook, flow.action, query.xdp)),
        action: flow.action.map_or("unknown", Action::name),
        state,
        age: age(query.clock, flow.last_seen),
        packets: Some(u64::from(flow.packets)),
        bytes: Some(flow.bytes),
    }
}

fn sock_row(snapshot: &Snapshot, query: &Query, sock: &Sock) -> FlowRow {
    let v4 = sock.frontend.is_ipv4();
    let program = match (sock.proto, v4) {
        (proto::TCP, true) => "lb_connect4",
        (proto::TCP, false) => "lb_connect6",
        (_, true) => "lb_connect4/lb_sendmsg4",
        (_, false) => "lb_connect6/lb_sendmsg6",
    };
    let BackendId(backend) = sock.backend;
    FlowRow {
        direction: "socket",
        protocol: ProtoName(sock.proto).to_string(),
        source: format!("socket {:x}", sock.cookie),
        destination: sock.frontend.to_string(),
        new_source: None,
        new_destination: sock.backend_addr.to_string(),
        service: snapshot.service_name(sock.service),
        backend,
        hook: Hook::Socket.name(),
        program,
        action: Action::Stack.name(),
        state: "connected",
        age: age(query.clock, sock.last_seen),
        packets: None,
        bytes: None,
    }
}

/// The program that rewrites at `hook`: where XDP stands before tc, it takes what leaves at once.
fn program(hook: Hook, action: Option<Action>, xdp: bool) -> &'static str {
    match hook {
        Hook::PodIn => names::LB_POD_IN,
        Hook::PodOut => names::LB_POD_OUT,
        Hook::ExternalIn if xdp && action == Some(Action::Masquerade) => names::LB_XDP_IN,
        Hook::ExternalIn => names::LB_EXT_IN,
        Hook::ExternalOut => names::LB_EXT_OUT,
        Hook::LoopbackOut => names::LB_LO_OUT,
        Hook::Xdp => names::LB_XDP_IN,
        Hook::Socket => "cgroup",
    }
}

/// What a connection is at, from what both directions have shown.
fn state(flow: &Flow, other: Option<&Flow>) -> &'static str {
    let theirs = other.map_or(0, |other| other.seen);
    if flow.key.proto == proto::UDP {
        return if flow.seen & theirs & Seen::PACKET != 0 { "replied" } else { "unreplied" };
    }
    let both = flow.seen & theirs;
    let any = flow.seen | theirs;
    if any & Seen::RST != 0 {
        // An association ends by SHUTDOWN COMPLETE, which nobody answers, or by ABORT.
        let shut = flow.key.proto == proto::SCTP && any & Seen::FIN != 0;
        if shut { "closed" } else { "reset" }
    } else if both & Seen::FIN != 0 {
        "closed"
    } else if any & Seen::FIN != 0 {
        "closing"
    } else if both & Seen::ACK != 0 {
        "established"
    } else {
        "half-open"
    }
}

/// Seconds since an entry was used.
pub(super) fn age(clock: Option<Clock>, last_seen: u32) -> Option<u64> {
    let Clock { jiffies, hz } = clock?;
    let passed = jiffies.wrapping_sub(last_seen);
    // An entry may be touched after the clock was read.
    let passed = if passed > u32::MAX / 2 { 0 } else { passed };
    Some(u64::from(passed.checked_div(hz)?))
}

/// The rows as a table, with a line about those that are not shown.
pub fn table(flows: &Flows) -> String {
    if flows.rows.is_empty() {
        return "no flows\n".to_owned();
    }
    let mut table = Table::new([
        "PROTO", "PACKET", "BECOMES", "SERVICE", ">BACKEND", "PROGRAM", "HOOK", "ACTION", "STATE",
        ">AGE", ">PACKETS", ">BYTES",
    ]);
    for row in &flows.rows {
        let becomes = match &row.new_source {
            Some(source) => format!("{source} → {}", row.new_destination),
            None => format!("→ {}", row.new_destination),
        };
        let mark =
            if row.direction == "forward" || row.direction == "socket" { "" } else { "└ " };
        table.row([
            row.protocol.clone(),
            format!("{mark}{} → {}", row.source, row.destination),
            becomes,
            row.service.clone(),
            row.backend.to_string(),
            row.program.to_owned(),
            row.hook.to_owned(),
            row.action.to_owned(),
            row.state.to_owned(),
            row.age.map_or("-".to_owned(), span),
            row.packets.map_or("-".to_owned(), |packets| packets.to_string()),
            row.bytes.map_or("-".to_owned(), bytes),
        ]);
    }
    let mut text = table.to_string();
    if flows.shown < flows.matching {
        text +=
            &format!("\n{} of {} connections; --limit 0 shows all\n", flows.shown, flows.matching);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    fn query() -> Query {
        Query { clock: Some(Clock { jiffies: 2000, hz: 250 }), ..Query::default() }
    }

    #[test]
    fn both_directions_stand_together_busiest_first() {
        let query = Query { xdp: true, ..query() };
        let flows = select(&sample::vote(), &query);
        let short: Vec<String> = flows
            .rows
            .iter()
            .map(|row| {
                format!("{} {} {} {}", row.direction, row.destination, row.program, row.state)
            })
            .collect();
        assert_eq!(
            short,
            [
                "forward 192.0.2.1:30000 lb_ext_in closing",
                "reply 198.51.100.7:40001 lb_ext_out closing",
                "forward 192.0.2.1:30000 lb_xdp_in established",
                "reply 192.0.2.1:16384 lb_xdp_in established",
                "socket 10.96.0.10:80 lb_connect4 connected",
            ]
        );
        assert_eq!(flows.rows[0].age, Some(4));
    }

    #[test]
    fn the_table_says_what_a_packet_becomes() {
        let text = table(&select(&sample::vote(), &Query { limit: 1, ..query() }));
        let expected = "\
PROTO  PACKET                                  BECOMES                               SERVICE            BACKEND  PROGRAM     HOOK          ACTION  STATE    AGE  PACKETS    BYTES
TCP    198.51.100.7:40001 → 192.0.2.1:30000    198.51.100.7:40001 → 10.244.0.2:8080  default/vote:http        1  lb_ext_in   external-in   stack   closing   4s        9  2.0 KiB
TCP    └ 10.244.0.2:8080 → 198.51.100.7:40001  192.0.2.1:30000 → 198.51.100.7:40001  default/vote:http        1  lb_ext_out  external-out  stack   closing   4s        5    512 B

1 of 3 connections; --limit 0 shows all
";
        assert_eq!(text, expected);
    }

    #[test]
    fn filters_leave_the_rest_out() {
        let v6 = Query { family: Some(FamilyArg::V6), ..query() };
        assert_eq!(select(&sample::vote(), &v6).rows, []);
        let dns = ServiceRef { namespace: "default".into(), name: "dns".into() };
        let query = Query { service: Some(dns), ..query() };
        assert_eq!(table(&select(&sample::vote(), &query)), "no flows\n");
    }

    #[test]
    fn an_entry_without_its_other_half_is_shown_alone() {
        let mut snapshot = sample::vote();
        snapshot.flows.retain(|flow| flow.reverse);
        snapshot.socks.clear();
        let flows = select(&snapshot, &query());
        assert_eq!(flows.rows.len(), 2);
        assert_eq!(flows.rows[0].direction, "reply");
        assert_eq!(flows.rows[0].state, "half-open");
    }
}
