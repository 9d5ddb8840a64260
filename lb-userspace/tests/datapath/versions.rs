//! Maps that an earlier agent left: of another size, another shape, another version.

use std::{fs, os::fd::AsFd as _};

use lb_common::{ABI_VERSION, Schema, names};
use lb_userspace::{
    datapath::{Datapath, DatapathError, load::LoadError, paths::PinPaths},
    maps::{
        bpf::{self, Access},
        table::Table,
    },
};

use crate::{attach_all, ids, node::on_node, three_devices};

#[test]
fn maps_of_another_size_are_kept_and_that_is_said() {
    on_node("size", |node| {
        drop(Datapath::open(&node.options()).unwrap());
        let before = ids(node).1;
        let mut options = node.options();
        options.capacity.flows *= 2;
        let datapath = Datapath::open(&options).unwrap();
        assert_eq!(ids(node).1, before);
        let said = datapath.warnings().iter().filter(|w| w.contains("lb cleanup")).count();
        assert_eq!(
            said,
            6,
            "flows, sockets and affinity, both families: {:?}",
            datapath.warnings()
        );
    });
}

#[test]
fn a_map_of_another_shape_is_refused_and_not_touched() {
    on_node("shape", |node| {
        drop(Datapath::open(&node.options()).unwrap());
        let maps = PinPaths::new(node.pin_dir()).maps();
        // A map of another kind under the name of ours.
        fs::remove_file(maps.join(names::LB_DEVICES)).unwrap();
        let other = bpf::obj_get(&maps.join(names::LB_SLOTS), Access::ReadWrite).unwrap();
        bpf::obj_pin(other.as_fd(), &maps.join(names::LB_DEVICES)).unwrap();
        let before = ids(node);
        let error = Datapath::open(&node.options()).expect_err("the shape differs");
        assert!(matches!(error, DatapathError::Load(LoadError::Shape { .. })), "{error:?}");
        assert!(error.to_string().contains("lb cleanup"), "{error}");
        assert_eq!(ids(node), before);
    });
}

#[test]
fn something_else_under_the_name_of_a_map_is_refused() {
    on_node("no map", |node| {
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &three_devices());
        drop(datapath);
        let paths = PinPaths::new(node.pin_dir());
        let link = bpf::obj_get(&paths.links().join("lo:tc-out"), Access::ReadWrite).unwrap();
        fs::remove_file(paths.maps().join(names::LB_SLOTS)).unwrap();
        bpf::obj_pin(link.as_fd(), &paths.maps().join(names::LB_SLOTS)).unwrap();
        let error = Datapath::open(&node.options()).expect_err("a link is no map");
        assert!(error.to_string().contains("is not a BPF map"), "{error}");
    });
}

#[test]
fn maps_that_name_another_version_are_refused() {
    on_node("schema", |node| {
        drop(Datapath::open(&node.options()).unwrap());
        let maps = PinPaths::new(node.pin_dir()).maps();
        let schema: Table<u32, Schema> =
            Table::open(&maps, names::LB_SCHEMA, Access::ReadWrite).unwrap();
        schema.put(&0, &Schema { abi_version: 77, families: 3, object_hash: 0 }).unwrap();
        let error = Datapath::open(&node.options()).expect_err("the version differs");
        assert!(error.to_string().contains("77"), "{error}");
    });
}

#[test]
fn another_abi_version_serves_until_it_is_taken_over_and_removed() {
    on_node("version", |node| {
        let devices = three_devices();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        attach_all(&mut datapath, &devices);
        drop(datapath);
        let (links_before, maps_before) = ids(node);
        // What an agent of another version would have left.
        let old = node.pin_dir().join(format!("v{}", ABI_VERSION + 1));
        fs::rename(PinPaths::new(node.pin_dir()).version(), &old).unwrap();

        let mut datapath = Datapath::open(&node.options()).unwrap();
        assert!(old.join("links/lo:tc-out").exists(), "the old programs run on");
        assert_eq!(ids(node).0.len(), 0);
        attach_all(&mut datapath, &devices);
        let (links_after, maps_after) = ids(node);
        assert_eq!(links_after, links_before, "the links were taken over");
        assert!(maps_after.iter().all(|(name, id)| maps_before[name] != *id), "the maps are new");
        assert!(!old.exists());
    });
}
