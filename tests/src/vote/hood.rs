//! Under the hood: the same entries by `lb` and by bpftool, the programs, the shares.

use anyhow::{Context, Result};
use lb_common::{ABI_VERSION, names};
use serde_json::Value;

use super::{
    screen::{Said, Screen, silently},
    stage,
};
use crate::lab::{Commands, binary};

/// The last step: what is in the kernel, and what it did.
pub(super) fn look(node: &str, commands: &Commands, screen: &mut Screen) -> Result<()> {
    screen.step("Under the hood");
    screen.line(&format!("The Service as it lies in the maps of {node}, by lb:"));
    let said = lb(screen, node, commands, "services describe vote")?;
    screen.check("all its parts are there", said.code == Some(0) && said.text.contains("vote"));
    screen.line("\nThe same entries, by bpftool on the same pinned maps:");
    let frontends =
        commands.pin_dir().join(format!("v{ABI_VERSION}/maps/{}", names::LB4_FRONTENDS));
    let line = format!("bpftool map dump pinned {}", frontends.display());
    let said = screen.quietly(node, commands.place(), &line)?;
    let entries: Vec<Value> = serde_json::from_str(&said.text).unwrap_or_default();
    for entry in &entries {
        screen.line(&format!("  key {} value {}", entry["key"], entry["value"]));
    }
    let ours = entries.iter().filter(|entry| entry["key"]["port"] == stage::NODE_PORT).count();
    let status = commands.json(&["status"])?;
    let served = status["node"]["nodeport_addresses"].as_array().into_iter().flatten();
    let served = served.filter(|ip| ip.as_str().is_some_and(|ip| !ip.contains(':'))).count();
    let what = format!("the node port is there for each of {served} local IPv4 addresses");
    screen.check(&what, ours == served && served > 1);
    let description = commands.json(&["services", "describe", "vote"])?;
    let ports = description["ports"].as_array().context("a description without ports")?;
    let mut compared = (0, 0);
    for port in ports.iter().take(1) {
        for (entries, label) in [
            ("frontend_entries", "frontend"),
            ("slot_entries", "slot"),
            ("backend_entries", "backend"),
        ] {
            for entry in port[entries].as_array().into_iter().flatten().take(2) {
                compared.1 += 1;
                compared.0 += u32::from(compare(screen, node, commands, label, entry)?);
            }
        }
    }
    let (same, all) = compared;
    screen.check("bpftool shows the same bytes by their names", same == all && all > 2);

    screen.line("\nWhich program on which hook rewrote the packets:");
    let said = lb(screen, node, commands, "flows --service vote --limit 6")?;
    screen.check("the flows name their programs", said.text.contains("lb_"));
    screen.line("\nWhat each backend got:");
    let said = lb(screen, node, commands, "backends --service vote")?;
    screen.check("every backend has its share", shares(commands)? && said.code == Some(0));
    Ok(())
}

/// Shows and runs `lb WORDS` on a node.
pub(super) fn lb(screen: &Screen, who: &str, commands: &Commands, words: &str) -> Result<Said> {
    // What is shown is what a user of the node types; directories and path are the lab's.
    let line = format!("lb {words}");
    super::interrupt::check()?;
    println!("\n{} {}", screen.paint("36", &format!("{who} $")), screen.paint("1", &line));
    let said = silently(commands.place(), &with_environment(commands, &line))?;
    for line in said.text.lines() {
        println!("  {line}");
    }
    Ok(said)
}

fn with_environment(commands: &Commands, line: &str) -> String {
    let path = binary().parent().map(|dir| dir.display().to_string()).unwrap_or_default();
    format!(
        "PATH={path}:$PATH LB_PIN_DIR={} LB_STATE_DIR={} {line}",
        commands.pin_dir().display(),
        commands.state_dir().display(),
    )
}

/// Looks one entry up with bpftool and prints it beside what lb said of it.
fn compare(
    screen: &Screen,
    node: &str,
    commands: &Commands,
    label: &str,
    entry: &Value,
) -> Result<bool> {
    let line = entry["entry"]["bpftool"].as_str().context("an entry without its command")?;
    let said = screen.quietly(node, commands.place(), line)?;
    let ours = match label {
        "frontend" => format!("{} → slots {}..+{}", entry["frontend"], entry["base"], entry["len"]),
        "slot" => format!("slot {} → backend {}", entry["slot"], entry["backend"]),
        _ => format!("backend {} is {}", entry["id"], entry["address"]),
    };
    let found: Option<Value> = serde_json::from_str(&said.text).ok();
    let theirs = found.as_ref().map_or(said.text.trim().to_owned(), |one| one["value"].to_string());
    screen.line(&format!("  lb:      {}\n  bpftool: {theirs}", ours.replace('"', "")));
    let Some(value) = found.map(|one| one["value"].clone()) else { return Ok(false) };
    Ok(match label {
        "frontend" => value["base"] == entry["base"] && value["len"] == entry["len"],
        "slot" => value == entry["backend"],
        _ => entry["address"]
            .as_str()
            .is_some_and(|address| address.ends_with(&format!(":{}", value["port"]))),
    })
}

/// Whether each backend that gets new connections has had some.
fn shares(commands: &Commands) -> Result<bool> {
    let rows = commands.json(&["backends", "--service", "vote"])?;
    let rows = rows.as_array().context("lb backends prints no list")?;
    let mut current = rows.iter().filter(|row| row["slots"].as_u64() > Some(0));
    Ok(current.clone().count() > 0 && current.all(|row| row["flows"].as_u64() > Some(0)))
}
