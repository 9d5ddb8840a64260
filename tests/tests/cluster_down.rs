//! `down` leaves nothing of a cluster behind: after a good life, and after `up` was killed half-way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    kubernetes::{Cluster, Options, down, missing, unique_name},
    lab::until,
};

/// How long a cluster may take to get where a test wants it.
const PATIENCE: Duration = Duration::from_secs(240);

/// One cluster at a time: small machines are slow enough with one.
static TURN: Mutex<()> = Mutex::new(());

fn options(name: &str) -> Options {
    Options { name: name.to_owned(), ..Options::default() }
}

/// Everything on the machine that belongs to the cluster of this name, in words.
fn belongings(name: &str) -> Result<Vec<String>> {
    let own = format!("lbk-{name}");
    let mut found = Vec::new();
    for pid in processes()? {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if cgroups.lines().any(|line| line.split('/').any(|part| part == own)) && !ended(pid) {
            found.push(format!("process {pid}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let directory = format!("lb-cluster/{name}");
    for line in mounts.lines().filter(|line| line.contains(&own) || line.contains(&directory)) {
        found.push(format!("mount {line}"));
    }
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let netns = entry.file_name().to_string_lossy().into_owned();
        if netns.starts_with(&format!("{own}-")) {
            found.push(format!("network namespace {netns}"));
        }
    }
    let roots = mounts.lines().filter(|line| line.contains(" - cgroup"));
    for root in roots.filter_map(|line| line.split(' ').nth(4)) {
        let cgroup = Path::new(root).join(&own);
        if cgroup.exists() {
            found.push(format!("cgroup {}", cgroup.display()));
        }
    }
    for above in ["/run/lb-cluster", "/var/lib/lb-cluster"] {
        let dir = Path::new(above).join(name);
        if dir.exists() {
            found.push(format!("directory {}", dir.display()));
        }
    }
    Ok(found)
}

fn processes() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context("listing /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Whether a process has ended and only waits for its parent, init mostly, to notice.
fn ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z") || rest.starts_with(" X"))
}

/// The devices of the machine's own network namespace.
fn links() -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// What of eBPF the cluster's processes have open: kind and id, as the kernel knows them.
fn bpf_objects(name: &str) -> Result<Vec<(&'static str, u32)>> {
    let own = format!("lbk-{name}");
    let mut found = Vec::new();
    for pid in processes()? {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if !cgroups.contains(&own) {
            continue;
        }
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            for kind in ["map_id", "link_id"] {
                let id = text.lines().find_map(|line| line.strip_prefix(&format!("{kind}:")));
                found.extend(id.and_then(|id| id.trim().parse().ok()).map(|id| (kind, id)));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Whether the kernel still has an object.
fn lives((kind, id): (&str, u32)) -> bool {
    /// The first fields of `union bpf_attr` for the commands that open an object by its id.
    #[repr(C)]
    struct ById {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
    const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
    let command = if kind == "map_id" { BPF_MAP_GET_FD_BY_ID } else { BPF_LINK_GET_FD_BY_ID };
    let attr = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the structure has the layout that the commands read, of the size that is passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ById>()) };
    if let Ok(fd @ 0..) = i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nothing else owns.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
        return true;
    }
    false
}

fn nothing_is_left(name: &str) -> Result<()> {
    let left = belongings(name)?;
    ensure!(left.is_empty(), "left behind: {}", left.join("\n"));
    Ok(())
}

/// Processes, mounts, namespaces, cgroups, links and pins are counted before and after.
#[test]
fn down_removes_everything() {
    let name = unique_name();
    if let Some(reason) = missing(&options(&name)) {
        println!("SKIPPED: {reason}");
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = links().expect("listing devices");
    let done = live(&name);
    let removed = down(&name);
    done.expect("a cluster with everything in it");
    assert!(removed.expect("removing the cluster"), "there was no cluster");
    nothing_is_left(&name).expect("counting");
    assert_eq!(links().expect("listing devices"), before, "devices of the machine");
    assert!(!down(&name).expect("removing it again"), "there still was a cluster");
}

fn live(name: &str) -> Result<()> {
    let cluster = Cluster::up(options(name))?;
    let kinds = ["process", "network namespace", "cgroup", "directory"];
    let owned = belongings(name)?;
    for kind in kinds {
        ensure!(owned.iter().any(|one| one.starts_with(kind)), "no {kind} was found: {owned:?}");
    }
    let objects = bpf_objects(name)?;
    ensure!(objects.iter().any(|one| one.0 == "map_id"), "the agents have no maps: {objects:?}");
    ensure!(objects.iter().all(|one| lives(*one)), "the agents' maps cannot be opened");
    // Its places keep the nodes' mount namespaces open, with the bpffs in them.
    drop(cluster);
    ensure!(down(name)?, "there is no cluster");
    nothing_is_left(name)?;
    // The kernel frees them a little later than their last user goes.
    until("maps and links to be freed", PATIENCE, || {
        Ok((!objects.iter().any(|one| lives(*one))).then_some(()))
    })?;
    Cluster::up(options(name)).context("once more, under the same name").map(drop)
}

/// `up` is killed at the moment when `reached` says so for the first time.
fn killed_up(reached: impl Fn(&Path, &Path) -> bool) {
    let name = unique_name();
    if let Some(reason) = missing(&options(&name)) {
        println!("SKIPPED: {reason}");
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let state = Path::new("/run/lb-cluster").join(&name);
    let cgroup = cgroup2().expect("finding the cgroup v2 hierarchy").join(format!("lbk-{name}"));
    let mut up = Command::new(env!("CARGO_BIN_EXE_lb-cluster"))
        .args(["up", "--name", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting lb-cluster");
    let moment = until("up to get so far", PATIENCE, || {
        let ended = up.try_wait()?;
        ensure!(ended.is_none(), "up had ended before it got so far: {ended:?}");
        Ok(reached(&state, &cgroup).then_some(()))
    });
    drop(up.kill());
    drop(up.wait());
    let removed = down(&name);
    moment.expect("up at work");
    assert!(removed.expect("removing what up left"), "up had left nothing");
    nothing_is_left(&name).expect("counting");
}

fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    Ok(line.and_then(|line| line.split(' ').nth(1)).context("no cgroup v2 hierarchy")?.into())
}

#[test]
fn up_killed_while_it_makes_namespaces_leaves_nothing_that_down_does_not_find() {
    killed_up(|state, _| {
        fs::read_to_string(state.join("record")).is_ok_and(|record| record.contains("netns"))
    });
}

#[test]
fn up_killed_while_it_starts_the_runtimes_leaves_nothing_that_down_does_not_find() {
    killed_up(|state, _| state.join("logs/node1-containerd.log").exists());
}

#[test]
fn up_killed_while_pods_start_leaves_nothing_that_down_does_not_find() {
    killed_up(|_, cgroup| {
        ["node1", "node2"].iter().any(|node| {
            let pods = fs::read_dir(cgroup.join(node).join("kubepods/besteffort"));
            pods.into_iter()
                .flatten()
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("pod"))
        })
    });
}
