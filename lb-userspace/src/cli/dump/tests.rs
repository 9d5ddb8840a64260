//! A dump has a section for each map, and is the same whatever order the maps are read in.

use super::*;
use crate::cli::sample;

#[test]
fn every_map_has_its_section() {
    let text = text(&dump(&sample::vote(), None));
    for map in names::MAPS {
        let implied = [names::LB_SCHEMA, names::LB_RUNTIME].contains(&map);
        assert!(implied || text.contains(map), "{map} in\n{text}");
    }
    assert!(text.starts_with("ABI 3, object 0000000000000000, generation 7, flags 1\n"), "{text}");
    assert!(text.contains("\n       0: 0 0 1 2 4\n"), "{text}");
    assert!(text.contains("10.96.0.10 (any other port)  Marker"), "{text}");
}

#[test]
fn ranges_and_clients_are_printed() {
    let clock = Some(Clock { jiffies: 2000, hz: 250 });
    let text = text(&dump(&sample::shop(), clock));
    let ranges = "LB4_RANGES, LB6_RANGES: 2\nSET  RANGE\n  5  10.0.0.0/8\n  5  192.0.2.0/24\n";
    assert!(text.contains(ranges), "{text}");
    let clients = "\
LB4_AFFINITY, LB6_AFFINITY: 2
SERVICE       ID  CLIENT        BACKEND  AGE
default/shop   1  0.0.0.0             1   4s
default/shop   1  198.51.100.9        2   4s
";
    assert!(text.contains(clients), "{text}");
    let frontend = "198.51.100.7:80/TCP  LoadBalancer  default/shop   1  Local       0    2      1       5     10800";
    assert!(text.contains(frontend), "{text}");
}

#[test]
fn equal_maps_give_equal_json() {
    let json = |snapshot| serde_json::to_string(&dump(&snapshot, None)).unwrap();
    let mut shuffled = sample::vote();
    shuffled.flows.reverse();
    shuffled.affinity.reverse();
    assert_eq!(json(sample::vote()), json(shuffled));
}
