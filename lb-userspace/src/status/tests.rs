//! The status as text and JSON, for nodes that are well and nodes that are not.

use super::*;

fn healthy() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 1,
        pin_dir: "/sys/fs/bpf/lb".into(),
        source: SourceStatus { synced: true, description: "x".into(), ..Default::default() },
        problems: vec![ProblemStatus {
            object: "Service shop/vote".into(),
            file: Some("vote.yaml".into()),
            severity: "warning".into(),
            reason: "clusterIP \"x\" is not an address".into(),
        }],
        last_apply: Some(ApplyStatus { at: 1, ops: 3, micros: 250, error: None }),
        ..Status::default()
    }
}

#[test]
fn the_file_is_named_after_the_pin_directory() {
    let path = path(Path::new("/run/lb"), Path::new("/sys/fs/bpf/lb/"));
    assert_eq!(path, Path::new("/run/lb/sys-fs-bpf-lb.json"));
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = path(&dir.path().join("new"), Path::new("/sys/fs/bpf/lb"));
    assert_eq!(read(&path).unwrap(), None);
    write(&path, &healthy()).unwrap();
    write(&path, &healthy()).unwrap();
    assert_eq!(read(&path).unwrap(), Some(healthy()));
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_file_that_is_no_status_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "{").unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn wrong_objects_do_not_make_the_node_unhealthy() {
    assert!(healthy().ailments().is_empty());
}

#[test]
fn what_keeps_the_node_from_working_is_an_ailment() {
    let mut status = healthy();
    status.source.synced = false;
    status.devices.push(DeviceStatus {
        name: "eth0".into(),
        needed: true,
        error: Some("attaching eth0:tc-in: out of memory".into()),
        ..DeviceStatus::default()
    });
    status.devices.push(DeviceStatus {
        name: "tunl0".into(),
        error: Some("attaching tunl0:tc-in: out of memory".into()),
        ..DeviceStatus::default()
    });
    status.last_apply = Some(ApplyStatus { error: Some("full".into()), ..Default::default() });
    let ailments = status.ailments();
    assert_eq!(ailments.len(), 3, "{ailments:?}");
    assert_eq!(ailments[2], "device eth0: attaching eth0:tc-in: out of memory");
}
