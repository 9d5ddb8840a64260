//! Who gets which endpoints, which Service gets which address, and what is told about it.

use lb_common::{Location, proto};

use super::*;

mod claims;

const NODE: &str = "n1";

/// An endpoint `10.244.0.N`, and what is said of it: conditions (`r`eady, `s`erving, `t`erminating),
/// node, and hints for nodes and zones.
type Row =
    (u8, &'static str, Option<&'static str>, &'static [&'static str], &'static [&'static str]);

fn endpoint((number, conditions, node, nodes, zones): &Row) -> Endpoint {
    let addr = IpAddr::from([10, 244, 0, *number]);
    let has = |flag| conditions.contains(flag);
    let conditions = Conditions { ready: has('r'), serving: has('s'), terminating: has('t') };
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    let hints = Hints { nodes: names(nodes), zones: names(zones) };
    Endpoint {
        node: node.map(Into::into),
        hints: (hints != Hints::default()).then(|| hints.into()),
        ..Endpoint::new(addr, conditions)
    }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn service(of: &str, created: i64, change: impl FnOnce(&mut Service)) -> Event {
    let port = ServicePort { name: "".into(), proto: proto::TCP, port: 80, node_port: None };
    let created = Some(created);
    let mut service = Service { created, ports: vec![port], ..Service::new(name(of)) };
    change(&mut service);
    Event::PutService(service.into())
}

fn slice(of: &str, service: &str, rows: &[Row]) -> Event {
    let port = SlicePort { name: "".into(), proto: proto::TCP, port: 8080 };
    Event::PutSlice(Arc::new(Slice {
        service: Some(service.into()),
        ports: vec![port],
        endpoints: rows.iter().map(endpoint).collect(),
        ..Slice::new(name(of), Family::V4)
    }))
}

fn vip(last: u8) -> Option<std::net::Ipv4Addr> {
    Some([10, 96, 0, last].into())
}

fn node(zone: Option<&str>) -> Event {
    Event::PutNode(Node {
        name: NODE.into(),
        addresses: Vec::new(),
        zone: zone.map(Into::into),
        deleting: false,
        taints: Vec::new(),
    })
}

fn model() -> Model {
    let mut model = Model::new();
    model.set_node_name(NODE);
    model
}

fn backends(model: &Model, of: &str) -> Vec<DesiredBackend> {
    let mut ports = model.desired(&name(of)).ports;
    assert_eq!(ports.len(), 1, "{ports:?}");
    ports.remove(0).backends
}

/// The last numbers of the addresses of a set.
fn members(backends: &[DesiredBackend], of: fn(&DesiredBackend) -> bool) -> Vec<u8> {
    let addrs = backends.iter().filter(|backend| of(backend)).map(|backend| backend.addr);
    addrs
        .map(|addr| match addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(_) => panic!("{addr} is of the wrong family"),
        })
        .collect()
}

/// What each row of a table means in zone `z1`: the cluster set, and the local set.
fn check(what: &str, rows: &[Row], cluster: &[u8], local: &[u8]) {
    let web = || service("web", 0, |service| service.vip4 = vip(1));
    for turn in 0..rows.len().max(1) {
        let mut rows = rows.to_vec();
        rows.rotate_left(turn);
        let (front, back) = rows.split_at(rows.len() / 2);
        let mut model = model();
        let slices = [slice("a", "web", front), slice("b", "web", back)];
        let _touched = model.apply([node(Some("z1"))].into_iter().chain(slices).chain([web()]));
        let found = backends(&model, "web");
        assert_eq!(members(&found, |backend| backend.cluster), cluster, "{what}: {rows:?}");
        assert_eq!(members(&found, |backend| backend.local), local, "{what}: {rows:?}");
    }
}

/// EP-1, EP-2, EP-3, EP-4, EP-5, EP-7.
#[test]
fn each_set_falls_back_to_endpoints_that_terminate_by_itself() {
    let (here, there) = (Some("n1"), Some("n2"));
    let none: &[&str] = &[];
    check(
        "all are ready",
        &[(1, "rs", here, none, none), (2, "rs", there, none, none)],
        &[1, 2],
        &[1],
    );
    check(
        "the one here terminates",
        &[(1, "st", here, none, none), (2, "rs", there, none, none)],
        &[2],
        &[1],
    );
    check(
        "the one there terminates",
        &[(1, "rs", here, none, none), (2, "st", there, none, none)],
        &[1],
        &[1],
    );
    check(
        "all terminate",
        &[(1, "st", here, none, none), (2, "st", there, none, none)],
        &[1, 2],
        &[1],
    );
    check("none serves", &[(1, "t", here, none, none), (2, "t", there, none, none)], &[], &[]);
    check("none is ready", &[(1, "s", here, none, none), (2, "", there, none, none)], &[], &[]);
    check("ready while it terminates", &[(1, "rst", here, none, none)], &[1], &[1]);
}

/// ES-5, TP-4, SVC-8.
#[test]
fn an_endpoint_is_local_by_the_exact_name_of_its_node_only() {
    let none: &[&str] = &[];
    check(
        "names",
        &[
            (1, "rs", Some("n1"), none, none),
            (2, "rs", Some("N1"), none, none),
            (3, "rs", Some("n1.example"), none, none),
            (4, "rs", Some("n"), none, none),
            (5, "rs", None, none, none),
        ],
        &[1, 2, 3, 4, 5],
        &[1],
    );
}

/// The datapath masquerades by it, so what no slice says is not guessed.
#[test]
fn a_backend_is_where_its_slice_says() {
    let none: &[&str] = &[];
    let rows: [Row; 3] = [
        (1, "rs", Some("n1"), none, none),
        (2, "rs", Some("n2"), none, none),
        (3, "rs", None, none, none),
    ];
    let located = |node: &str, slices: &[&[Row]]| {
        let mut model = Model::new();
        model.set_node_name(node);
        let web = service("web", 0, |service| service.vip4 = vip(1));
        let slices = slices.iter().zip(["a", "b"]).map(|(rows, of)| slice(of, "web", rows));
        let _touched = model.apply(slices.chain([web]));
        backends(&model, "web").iter().map(|backend| backend.location).collect::<Vec<_>>()
    };
    let (unknown, here, elsewhere) = (Location::Unknown, Location::Here, Location::Elsewhere);
    assert_eq!(located("n1", &[&rows]), [here, elsewhere, unknown]);
    assert_eq!(located("n2", &[&rows]), [elsewhere, here, unknown]);
    assert_eq!(located("", &[&rows]), [unknown; 3], "an agent that does not know where it is");
    // Of two entries for one address, the one that says where it is counts.
    let unnamed: [Row; 2] = [(1, "rs", None, none, none), (2, "rs", None, none, none)];
    assert_eq!(located("n1", &[&rows, &unnamed]), [here, elsewhere, unknown]);
    assert_eq!(located("n1", &[&unnamed, &rows]), [here, elsewhere, unknown]);
}

/// TOP-1, TOP-2, TOP-3, TOP-4, TOP-5, TOP-6, TOP-8, TOP-11, TP-13.
#[test]
fn hints_choose_among_ready_endpoints_if_they_are_complete() {
    let (here, there) = (Some("n1"), Some("n2"));
    let none: &[&str] = &[];
    check(
        "one names this node",
        &[
            (1, "rs", here, &["n1"], none),
            (2, "rs", here, &["n2"], none),
            (3, "rs", there, &["n3", "n1"], none),
        ],
        &[1, 3],
        &[1, 2],
    );
    check(
        "one has no hint of a node",
        &[(1, "rs", here, &["n1"], none), (2, "rs", there, none, none)],
        &[1, 2],
        &[1],
    );
    check(
        "none is for this node, and zones are complete",
        &[(1, "rs", here, &["n2"], &["z2"]), (2, "rs", there, &["n2"], &["z1", "z3"])],
        &[2],
        &[1],
    );
    check(
        "nodes go before zones",
        &[(1, "rs", there, &["n1"], &["z2"]), (2, "rs", there, &["n2"], &["z1"])],
        &[1],
        &[],
    );
    check(
        "hints of nodes are incomplete, and zones are complete",
        &[(1, "rs", here, &["n1"], &["z2"]), (2, "rs", there, none, &["z1"])],
        &[2],
        &[1],
    );
    check(
        "none is for this zone",
        &[(1, "rs", here, none, &["z2"]), (2, "rs", there, none, &["z3"])],
        &[1, 2],
        &[1],
    );
    check(
        "one has no hint of a zone",
        &[(1, "rs", here, none, &["z1"]), (2, "rs", there, none, none)],
        &[1, 2],
        &[1],
    );
    check(
        "hints of endpoints that are not ready do not count",
        &[
            (1, "rs", here, none, &["z1"]),
            (2, "st", there, none, none),
            (3, "rs", there, none, &["z2"]),
        ],
        &[1],
        &[1],
    );
    check(
        "nor do they when all terminate",
        &[(1, "st", here, none, &["z1"]), (2, "st", there, none, &["z2"])],
        &[1, 2],
        &[1],
    );
    check(
        "one alone may have to serve a whole zone",
        &[
            (1, "rs", there, none, &["z1"]),
            (2, "rs", there, none, &["z2"]),
            (3, "rs", there, none, &["z2"]),
        ],
        &[1],
        &[],
    );
}

/// TOP-4, TOP-9, SVC-12.
#[test]
fn another_zone_concerns_services_with_hints_of_zones_only() {
    let mut model = model();
    let here = Some("n1");
    let _touched = model.apply([
        service("web", 0, |service| service.vip4 = vip(1)),
        slice("a", "web", &[(1, "rs", here, &[], &["z1"]), (2, "rs", here, &[], &["z2"])]),
        service("plain", 0, |service| service.vip4 = vip(2)),
        slice("b", "plain", &[(3, "rs", here, &["n1"], &[]), (4, "rs", here, &["n2"], &[])]),
    ]);
    let cluster = |model: &Model| members(&backends(model, "web"), |backend| backend.cluster);
    assert_eq!(cluster(&model), [1, 2], "the node is not known, so it has no zone");
    for (zone, touched, members) in [
        (Some("z1"), true, &[1][..]),
        (Some("z1"), false, &[1]),
        (Some("z2"), true, &[2]),
        (Some("z3"), true, &[1, 2]),
        (None, true, &[1, 2]),
    ] {
        let expected: BTreeSet<ObjectName> = touched.then(|| name("web")).into_iter().collect();
        assert_eq!(model.apply([node(zone)]), expected, "{zone:?}");
        assert_eq!(cluster(&model), members, "{zone:?}");
    }
    let _touched = model.apply([node(Some("z1"))]);
    assert_eq!(model.apply([Event::DeleteNode]), [name("web")].into());
    assert_eq!(cluster(&model), [1, 2]);
}

/// ES-3.
#[test]
fn of_alike_entries_for_one_address_the_nearest_counts() {
    let none: &[&str] = &[];
    let rows: &[Row] = &[
        (1, "rs", Some("n2"), &["n1"], none),
        (1, "rs", Some("n1"), none, none),
        (1, "rst", Some("n1"), &["n1"], none),
    ];
    check("nearest", rows, &[1], &[1]);
}

/// HC-1, HC-5, EP-8, TP-14.
#[test]
fn what_is_here_is_counted_by_address_and_what_is_missing_by_port() {
    let mut model = model();
    let policies = |internal, external, check| {
        service("web", 0, move |service| {
            service.vip4 = vip(1);
            service.ports[0].node_port = Some(30080);
            service.internal_policy = internal;
            service.external_policy = external;
            service.health_check_node_port = check;
        })
    };
    use TrafficPolicy::{Cluster, Local};
    let none: &[&str] = &[];
    let here = |conditions| (1, conditions, Some("n1"), none, none);
    let there = |conditions| (2, conditions, Some("n2"), none, none);
    let counts = |model: &Model| {
        let checks: Vec<_> =
            model.health_checks().map(|check| (check.port, check.v4, check.v6)).collect();
        let NoLocalEndpoints { internal, external } = model.no_local_endpoints(Family::V4);
        assert_eq!(model.no_local_endpoints(Family::V6), NoLocalEndpoints::default());
        (checks, internal, external)
    };
    let _touched = model.apply([policies(Local, Local, Some(32000))]);
    assert_eq!(counts(&model), (vec![(32000, Some(0), None)], 0, 0), "nothing at all");
    let _touched = model.apply([slice("a", "web", &[here("rs"), there("rs")])]);
    assert_eq!(counts(&model), (vec![(32000, Some(1), None)], 0, 0));
    let _touched = model.apply([slice("a", "web", &[here("st"), there("rs")])]);
    assert_eq!(counts(&model), (vec![(32000, Some(0), None)], 0, 0), "it still serves");
    let _touched = model.apply([slice("a", "web", &[there("rs")])]);
    assert_eq!(counts(&model), (vec![(32000, Some(0), None)], 1, 1));
    let _touched = model.apply([policies(Cluster, Local, None)]);
    assert_eq!(counts(&model), (vec![], 0, 1));
    let _touched = model.apply([policies(Local, Cluster, None)]);
    assert_eq!(counts(&model), (vec![], 1, 0));
    let _touched = model.apply([Event::DeleteService(name("web"))]);
    assert_eq!(counts(&model), (vec![], 0, 0));
    // The same address by two ports is one; what another slice has is added.
    let two = Slice {
        service: Some("web".into()),
        ports: [8080, 9090]
            .map(|port| SlicePort { name: port.to_string().into(), proto: proto::TCP, port })
            .into(),
        endpoints: vec![endpoint(&here("rs")), endpoint(&(3, "rs", Some("n1"), none, none))],
        ..Slice::new(name("b"), Family::V4)
    };
    let _touched = model.apply([
        policies(Cluster, Local, Some(32000)),
        Event::PutSlice(two.into()),
        slice("a", "web", &[here("rs"), there("rs")]),
    ]);
    assert_eq!(counts(&model).0, [(32000, Some(2), None)]);
}
