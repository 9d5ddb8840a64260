//! `lb-kind runtime`: runc, asked for nothing that this machine does not have.
//!
//! `--privileged` means every capability that the engine knows of. Where the machine's own root lacks one,
//! runc refuses the whole container, so what root lacks is taken out of the request first.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

/// Bits of the capabilities that some machines' root lacks, and their names.
const CAPABILITIES: [(u32, &str); 41] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (9, "CAP_LINUX_IMMUTABLE"),
    (10, "CAP_NET_BIND_SERVICE"),
    (11, "CAP_NET_BROADCAST"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (14, "CAP_IPC_LOCK"),
    (15, "CAP_IPC_OWNER"),
    (16, "CAP_SYS_MODULE"),
    (17, "CAP_SYS_RAWIO"),
    (18, "CAP_SYS_CHROOT"),
    (19, "CAP_SYS_PTRACE"),
    (20, "CAP_SYS_PACCT"),
    (21, "CAP_SYS_ADMIN"),
    (22, "CAP_SYS_BOOT"),
    (23, "CAP_SYS_NICE"),
    (24, "CAP_SYS_RESOURCE"),
    (25, "CAP_SYS_TIME"),
    (26, "CAP_SYS_TTY_CONFIG"),
    (27, "CAP_MKNOD"),
    (28, "CAP_LEASE"),
    (29, "CAP_AUDIT_WRITE"),
    (30, "CAP_AUDIT_CONTROL"),
    (31, "CAP_SETFCAP"),
    (32, "CAP_MAC_OVERRIDE"),
    (33, "CAP_MAC_ADMIN"),
    (34, "CAP_SYSLOG"),
    (35, "CAP_WAKE_ALARM"),
    (36, "CAP_BLOCK_SUSPEND"),
    (37, "CAP_AUDIT_READ"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
    (40, "CAP_CHECKPOINT_RESTORE"),
];

/// Becomes runc, after the container's or the process's description has been corrected.
///
/// # Errors
///
/// A description that cannot be read or written, or a runc that does not start.
pub fn run(runc: &Path, words: &[String]) -> Result<()> {
    let allowed = bounding_set()?;
    for (flag, file) in [
        ("--bundle", Some("config.json")),
        ("-b", Some("config.json")),
        ("--process", None),
        ("-p", None),
    ] {
        if let Some(value) = value_of(flag, words) {
            let path =
                file.map_or_else(|| PathBuf::from(&value), |file| Path::new(&value).join(file));
            correct(&path, allowed)?;
        }
    }
    let error = Command::new(runc).args(words).exec();
    Err(error).with_context(|| format!("starting {}", runc.display()))
}

fn value_of(flag: &str, words: &[String]) -> Option<String> {
    let joined = format!("{flag}=");
    words.iter().enumerate().find_map(|(at, word)| {
        if word == flag {
            words.get(at + 1).cloned()
        } else {
            word.strip_prefix(&joined).map(str::to_owned)
        }
    })
}

fn bounding_set() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    u64::from_str_radix(bits.unwrap_or_default().trim(), 16).context("CapBnd in /proc/self/status")
}

fn correct(path: &Path, allowed: u64) -> Result<()> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut spec: Value =
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))?;
    // A bundle has the process inside, an exec's description is the process.
    if spec.get("process").is_some() {
        restrict(&mut spec["process"], allowed);
    } else {
        restrict(&mut spec, allowed);
    }
    fs::write(path, spec.to_string()).with_context(|| format!("writing {}", path.display()))
}

fn restrict(process: &mut Value, allowed: u64) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    for names in sets.values_mut().filter_map(Value::as_array_mut) {
        names.retain(|name| {
            let known = CAPABILITIES.iter().find(|(_, known)| name == known);
            known.is_none_or(|(bit, _)| allowed >> bit & 1 == 1)
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_root_lacks_is_not_asked_for() {
        let mut process =
            json!({"capabilities": {"bounding": ["CAP_BPF", "CAP_SYS_RESOURCE", "CAP_NEWER"]}});
        restrict(&mut process, !(1 << 24));
        assert_eq!(process["capabilities"]["bounding"], json!(["CAP_BPF", "CAP_NEWER"]));
    }

    #[test]
    fn a_flag_is_found_in_both_spellings() {
        let words =
            ["create".to_owned(), "--bundle".to_owned(), "/x".to_owned(), "-p=/y".to_owned()];
        assert_eq!(value_of("--bundle", &words).as_deref(), Some("/x"));
        assert_eq!(value_of("-p", &words).as_deref(), Some("/y"));
        assert_eq!(value_of("--process", &words), None);
    }
}
