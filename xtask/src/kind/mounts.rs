//! What a node container has mounted, and what is missing.
//!
//! Nothing is assumed: on a host with cgroup v2 the hierarchy is at `/sys/fs/cgroup`, on a hybrid one beside
//! the others, and kind mounts no bpffs.

use anyhow::{Context as _, Result};

use super::engine::{Engine, Node};

/// A file in the node that says that the bpffs there is our doing.
const OURS: &str = "/var/lib/lb-kind/bpffs-is-ours";

/// Mounts a bpffs in the node unless there is one, and tells.
pub(super) fn prepare(engine: &Engine, node: &Node) -> Result<String> {
    let cgroup = cgroup_root(engine, node)?;
    if has_bpffs(&mounts(engine, node)?) {
        return Ok(format!("cgroup v2 at {cgroup}, bpffs at /sys/fs/bpf"));
    }
    let line = format!("mount -t bpf bpf /sys/fs/bpf && mkdir -p /var/lib/lb-kind && touch {OURS}");
    let _ = engine
        .exec(node, &["sh", "-ec", &line])
        .with_context(|| format!("mounting a bpffs in {}", node.name))?;
    Ok(format!("cgroup v2 at {cgroup}, bpffs now mounted at /sys/fs/bpf"))
}

/// Unmounts the bpffs if it is ours, and tells.
pub(super) fn restore(engine: &Engine, node: &Node) -> Result<String> {
    if !engine.attempt(node, &["test", "-e", OURS])?.status.success() {
        return Ok("no mount of ours".to_owned());
    }
    let line = format!(
        "! mountpoint -q /sys/fs/bpf || umount /sys/fs/bpf; rm -f {OURS}; rmdir --ignore-fail-on-non-empty /var/lib/lb-kind"
    );
    let _ = engine.exec(node, &["sh", "-ec", &line])?;
    Ok("bpffs unmounted".to_owned())
}

/// Where the node sees its own part of the cgroup v2 hierarchy.
pub(super) fn cgroup_root(engine: &Engine, node: &Node) -> Result<String> {
    let mounts = mounts(engine, node)?;
    find_cgroup2(&mounts).map(str::to_owned).with_context(|| {
        format!(
            "{} has no cgroup v2 hierarchy: boot the host with one, beside v1 if need be",
            node.name
        )
    })
}

fn mounts(engine: &Engine, node: &Node) -> Result<String> {
    engine.exec(node, &["cat", "/proc/self/mounts"])
}

fn find_cgroup2(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then_some(path)
    })
}

fn has_bpffs(mounts: &str) -> bool {
    // The last mount at a place is the one that is seen.
    let last = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf"));
    last.is_some_and(|line| line.split(' ').nth(2) == Some("bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_hierarchy_is_found_where_it_is() {
        let v2 = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(find_cgroup2(v2), Some("/sys/fs/cgroup"));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find_cgroup2(hybrid), Some("/sys/fs/cgroup/unified"));
        assert_eq!(find_cgroup2("tmpfs /sys/fs/cgroup tmpfs ro 0 0\n"), None);
    }

    #[test]
    fn a_bpffs_counts_only_where_it_is_seen() {
        assert!(has_bpffs("bpf /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!has_bpffs("bpf /sys/fs/bpf bpf rw 0 0\nsysfs /sys/fs/bpf sysfs rw 0 0\n"));
        assert!(!has_bpffs("sysfs /sys sysfs ro 0 0\n"));
    }
}
