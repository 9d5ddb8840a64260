//! The description of a Service for people.

use super::{BackendEntry, Description, Port};
use crate::cli::table::{Table, bytes, percent};

/// The description for people; with `all_commands`, a bpftool command for every entry.
pub fn text(description: &Description, all_commands: bool) -> String {
    let Description { namespace, name, kind, cluster_ips, external_ips, ingress, maps, ports } =
        description;
    let list = |addresses: &[String]| match addresses {
        [] => "<none>".to_owned(),
        _ => addresses.join(","),
    };
    let families: Vec<&str> = ports.iter().map(|port| port.summary.family).collect();
    let mut families = families;
    families.sort_unstable();
    families.dedup();
    let mut text = format!(
        "Name:         {name}\nNamespace:    {namespace}\nType:         {kind}\n\
         IP Families:  {}\nIPs:          {}\nExternal IPs: {}\nIngress:      {}\n\
         Maps:         {maps}\n",
        families.join(","),
        list(cluster_ips),
        list(external_ips),
        list(ingress),
    );
    for port in ports {
        text += &port_text(port);
    }
    text += "\nThe same by bpftool:\n";
    for port in ports {
        let entries = port.entries();
        let mut shown: Vec<&str> = Vec::new();
        for entry in entries {
            if all_commands || !shown.contains(&entry.map) {
                text += &format!("  {}\n", entry.bpftool);
                shown.push(entry.map);
            }
        }
    }
    if !all_commands {
        text +=
            "  (--bpftool prints one for every entry; `bpftool map dump pinned MAP` prints all)\n";
    }
    text
}

fn port_text(port: &Port) -> String {
    let Port { summary, entry, frontend_entries, slot_entries, backend_entries, .. } = port;
    let name = if summary.port_name.is_empty() { "<unset>" } else { &summary.port_name };
    let mut text = format!(
        "\nPort:         {name}  {}/{} {}\nService id:   {} ({} key {})\n",
        summary.ports(),
        summary.protocol,
        summary.family,
        summary.id,
        entry.map,
        entry.key
    );
    text += &rules_text(port);
    if let Some(first) = frontend_entries.first() {
        let mut table =
            Table::new(["FRONTEND", "KIND", "POLICY", "SLOTS", "LOCAL SLOTS", "KEY"]).indented(2);
        for frontend in frontend_entries {
            let marker = frontend.kind == "Marker";
            let slots = match frontend.len {
                _ if marker => "refused".to_owned(),
                0 => "none: refused".to_owned(),
                len => slot_range(frontend.base, len),
            };
            let local = match frontend.local_len {
                0 if frontend.policy == "Local" && frontend.len > 0 => "none: dropped".to_owned(),
                0 => "-".to_owned(),
                len => slot_range(frontend.base + frontend.len, len),
            };
            table.row([
                frontend.frontend.clone(),
                frontend.kind.to_owned(),
                if marker { "-" } else { frontend.policy }.to_owned(),
                slots,
                local,
                frontend.entry.key.clone(),
            ]);
        }
        text += &format!("Frontends:    {}\n{table}", first.entry.map);
    } else {
        text += "Frontends:    <none>\n";
    }
    match slot_entries.first() {
        Some(first) => {
            let ids = |set: &str| {
                let of_set = slot_entries.iter().filter(|slot| slot.set == set);
                of_set.map(|slot| slot.backend.to_string()).collect::<Vec<_>>().join(" ")
            };
            let (cluster, local) = (ids("cluster"), ids("local"));
            let local = if local.is_empty() { local } else { format!(", local {local}") };
            text += &format!(
                "Slots:        {} from key {}: backends {cluster}{local}\n",
                first.entry.map, first.entry.key,
            );
        }
        None => text += "Slots:        <none>: new connections are refused\n",
    }
    let Some(first) = backend_entries.first() else {
        return text + "Backends:     <none>\n";
    };
    let mut table = Table::new([
        ">ID", "ADDRESS", "STATE", "SETS", "NODE", ">SLOTS", ">FLOWS", ">SHARE", ">PACKETS",
        ">BYTES", "KEY",
    ])
    .indented(2);
    for BackendEntry { summary, entry, counters: _ } in backend_entries {
        table.row([
            summary.id.to_string(),
            summary.address.clone(),
            summary.state.to_owned(),
            summary.sets.to_owned(),
            summary.location.to_owned(),
            summary.slots.to_string(),
            summary.flows.to_string(),
            percent(summary.flows, summary.flows_of_service),
            summary.packets.to_string(),
            bytes(summary.bytes),
            entry.key.clone(),
        ]);
    }
    text + &format!("Backends:     {}, counters {}\n{table}", first.entry.map, first.counters.map)
}

/// Who reaches which backends: policies, affinity and source ranges.
fn rules_text(port: &Port) -> String {
    let summary = &port.summary;
    let policies: Vec<String> =
        [("internal", summary.internal_policy), ("external", summary.external_policy)]
            .into_iter()
            .filter_map(|(which, policy)| Some(format!("{which} {}", policy?)))
            .collect();
    let affinity = match summary.affinity {
        0 => "none".to_owned(),
        seconds => format!("ClientIP, {seconds} s"),
    };
    let mut text = format!("Policies:     {}\nAffinity:     {affinity}\n", policies.join(", "));
    match (&summary.source_ranges, port.range_entries.first()) {
        (None, _) => {}
        (Some(ranges), Some(first)) => {
            let (map, set) = (first.entry.map, first.set);
            text += &format!("Sources:      {} ({map} set {set})\n", ranges.join(", "));
        }
        (Some(_), None) => text += "Sources:      nobody may use the load balancer's addresses\n",
    }
    text
}

fn slot_range(base: u32, len: u32) -> String {
    format!("{base}..{}", base + len)
}
