//! The kernel's maps behave as the trait says, and as fast as they must.

use std::{net::Ipv4Addr, time::Instant};

use lb_common::{
    Addr4, AffinityKey, AffinityValue, BackendState, DeviceValue, Family, FlowKey, FlowValue,
    FrontendKind, FrontendValue, Hook, Location, Reason, ServiceInfo, names, proto,
};
use lb_userspace::{
    datapath::Datapath,
    maps::{Contents, Maps as _, bpf::Access, reader::Reader, table::Table},
    plan::{Backend, BackendId, Frontend, Op, Range, RangeSetId, ServiceId},
};

use crate::node::on_node;

fn backend(n: u32, state: BackendState) -> Backend {
    let octets = n.to_be_bytes();
    let addr = if n.is_multiple_of(2) {
        Ipv4Addr::new(10, octets[1], octets[2], octets[3]).into()
    } else {
        std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, octets[2].into(), octets[3].into()).into()
    };
    let service = ServiceId(n / 5 + 1);
    Backend {
        addr,
        port: 8080,
        proto: proto::TCP,
        state,
        service,
        sets: 0,
        location: Location::Unknown,
    }
}

fn frontend(n: u32) -> Frontend {
    Frontend::new(Ipv4Addr::from(0x0a60_0000 + n).into(), 80, proto::TCP)
}

fn target(n: u32, len: u32) -> FrontendValue {
    let kind = FrontendKind::ClusterIp as u8;
    FrontendValue { service: n + 1, base: n * 5, len, kind, ..FrontendValue::default() }
}

fn info(n: u32) -> ServiceInfo {
    ServiceInfo::new("default", &format!("s{n}"), "", proto::TCP, Family::V4).expect("short names")
}

#[test]
fn what_is_applied_is_read_back() {
    on_node("apply", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let mut maps = datapath.maps().unwrap();
        assert_eq!(maps.contents().unwrap(), Contents::default());
        let v6 = Frontend::new("fd10::1".parse().unwrap(), 53, proto::UDP);
        let mut expected = Contents::default();
        let mut ops = vec![Op::PutService(ServiceId(1), Box::new(info(1)))];
        let _new = expected.services.insert(ServiceId(1), info(1));
        for n in 1..=5 {
            let backend = backend(n, BackendState::Serving);
            ops.push(Op::PutBackend(BackendId(n), backend));
            let _new = expected.backends.insert(BackendId(n), backend);
        }
        let ids: Vec<_> = (1..=5).map(BackendId).collect();
        ops.push(Op::WriteSlots { base: 5, backends: ids });
        expected.slots = [vec![0; 5], (1..=5).collect()].concat();
        let range = |set, net: &str| Range::new(RangeSetId(set), net.parse().unwrap());
        let of_set = [range(7, "10.0.0.0/8"), range(7, "192.0.2.0/24"), range(7, "0.0.0.0/0")];
        let others = [range(8, "10.0.0.0/8"), range(9, "2001:db8::/32"), range(9, "::1/128")];
        let foreign = Range { bits: 20, ..range(3, "10.0.0.0/8") };
        for range in of_set.into_iter().chain(others).chain([foreign]) {
            ops.push(Op::PutRange(range));
            let _new = expected.ranges.insert(range);
        }
        ops.push(Op::SetFilter { word: 3, value: 9 });
        let _new = expected.filter.insert(3, 9);
        for key in [frontend(1), Frontend::marker(frontend(1).addr), v6] {
            ops.push(Op::PutFrontend(key, target(1, 5)));
            let _new = expected.frontends.insert(key, target(1, 5));
        }
        maps.apply(&ops).unwrap();
        assert_eq!(maps.contents().unwrap(), expected);
        maps.apply(&ops).unwrap();
        assert_eq!(maps.contents().unwrap(), expected, "ops may be repeated");

        let undo = [
            Op::DeleteFrontend(frontend(77)),
            Op::DeleteFrontend(frontend(1)),
            Op::DeleteFrontend(frontend(78)),
            Op::DeleteFrontend(Frontend::marker(frontend(1).addr)),
            Op::DeleteFrontend(v6),
            Op::DeleteRange(range(7, "172.16.0.0/12")),
            Op::DeleteRange(of_set[0]),
            Op::DeleteRange(of_set[0]),
            Op::DeleteRange(foreign),
            Op::SetFilter { word: 3, value: 0 },
            Op::PutBackend(BackendId(2), backend(2, BackendState::Gone)),
            Op::PutBackend(BackendId(4), backend(4, BackendState::Free)),
            Op::DeleteService(ServiceId(1)),
            Op::DeleteService(ServiceId(1)),
        ];
        maps.apply(&undo).unwrap();
        let after = maps.contents().unwrap();
        assert!(after.frontends.is_empty() && after.filter.is_empty() && after.services.is_empty());
        assert_eq!(after.backends[&BackendId(2)].state, BackendState::Gone);
        assert!(!after.backends.contains_key(&BackendId(4)));
        let left: Vec<_> = after.ranges.iter().copied().collect();
        assert_eq!(left, [of_set[2], of_set[1], others[0], others[2], others[1]]);
        let read = Reader::open(&node.pin_dir()).unwrap().contents().unwrap();
        assert_eq!(read, after);
    });
}

#[test]
fn a_full_map_stops_the_plan_exactly_there_and_names_the_flag() {
    on_node("full", |node| {
        let mut options = node.options();
        options.capacity.frontends = 64;
        let datapath = Datapath::open(&options).unwrap();
        let mut maps = datapath.maps().unwrap();
        let mut ops = vec![Op::SetFilter { word: 0, value: 1 }];
        ops.extend((0..100).map(|n| Op::PutFrontend(frontend(n), target(n, 1))));
        ops.push(Op::SetFilter { word: 1, value: 1 });
        let error = maps.apply(&ops).expect_err("100 frontends do not fit");
        let contents = maps.contents().unwrap();
        assert_eq!(error.applied, 1 + contents.frontends.len());
        assert!(contents.frontends.len() >= 64);
        assert_eq!(error.map, names::LB4_FRONTENDS);
        let text = error.source.to_string();
        assert!(text.contains("--max-frontends") && text.contains("64"), "{text}");
        assert!(!contents.filter.contains_key(&1), "nothing after it took effect");

        let range = |n: u32| {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + n), 32).unwrap();
            Op::PutRange(Range::new(RangeSetId(1), net.into()))
        };
        let error = maps.apply(&(0..100).map(range).collect::<Vec<_>>());
        let error = error.expect_err("100 ranges do not fit");
        assert_eq!(error.applied, maps.contents().unwrap().ranges.len());
        assert_eq!((error.applied, error.map), (64, names::LB4_RANGES));
        assert!(error.source.to_string().contains("--max-frontends"), "{}", error.source);

        let past_the_end = [Op::WriteSlots { base: 4094, backends: vec![BackendId(1); 5] }];
        let error = maps.apply(&past_the_end).expect_err("the array is shorter");
        assert_eq!((error.applied, error.map), (0, names::LB_SLOTS));
    });
}

#[test]
fn ten_thousand_services_are_written_and_read_fast() {
    on_node("fast", |node| {
        let mut options = node.options();
        options.capacity.frontends = 1 << 16;
        options.capacity.services = 1 << 15;
        options.capacity.backends = 1 << 16;
        let datapath = Datapath::open(&options).unwrap();
        let mut maps = datapath.maps().unwrap();
        let (services, each) = (10_000, 5);
        let mut ops: Vec<_> =
            (0..services).map(|n| Op::PutService(ServiceId(n + 1), Box::new(info(n)))).collect();
        let serving = |n| Backend { ..backend(n * 2, BackendState::Serving) };
        ops.extend((1..=services * each).map(|n| Op::PutBackend(BackendId(n), serving(n))));
        ops.extend((0..services).map(|n| Op::WriteSlots {
            base: n * each,
            backends: (1..=each).map(|i| BackendId(n * each + i)).collect(),
        }));
        ops.extend((0..services).map(|n| Op::PutFrontend(frontend(n), target(n, each))));
        let start = Instant::now();
        maps.apply(&ops).unwrap();
        let written = start.elapsed();
        let start = Instant::now();
        let contents = maps.contents().unwrap();
        let read = start.elapsed();
        assert_eq!(contents.backends.len(), 50_000);
        assert_eq!(contents.frontends.len(), 10_000);
        println!("{} ops written in {written:?}, read in {read:?}", ops.len());
    });
}

#[test]
fn the_reader_sums_over_cpus_and_knows_what_maps_cost() {
    on_node("reader", |node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let maps = datapath.paths().maps();
        let reader = Reader::open(&node.pin_dir()).unwrap();
        assert_eq!(reader.schema().unwrap().abi_version, lb_common::ABI_VERSION);
        assert_eq!(reader.runtime().unwrap().generation, 1);
        assert!(reader.reasons().unwrap().is_empty());
        assert!(reader.backend_stats().unwrap().is_empty());

        let reasons: Table<u32, u64> =
            Table::open(&maps, names::LB_REASONS, Access::ReadWrite).unwrap();
        let cpus = reasons.map().values_per_key::<u64>();
        let index = Hook::ExternalIn as u32 * lb_common::REASON_SLOTS + Reason::NewFlow as u32;
        reasons.map().update(&index, &vec![3_u64; cpus]).unwrap();
        let counts = reader.reasons().unwrap();
        assert_eq!(counts, [(Hook::ExternalIn, Reason::NewFlow, 3 * cpus as u64)]);

        let flows: Table<FlowKey<Addr4>, FlowValue<Addr4>> =
            Table::open(&maps, names::LB4_FLOWS, Access::ReadWrite).unwrap();
        let key = FlowKey { sport: 1, dport: 2, proto: proto::UDP, ..FlowKey::default() };
        flows.put(&key, &FlowValue { backend: 7, ..FlowValue::default() }).unwrap();
        let mut seen = Vec::new();
        reader.flows::<Addr4>(|key, value| seen.push((*key, value.backend))).unwrap();
        assert_eq!(seen, [(key, 7)]);

        let affinity: Table<AffinityKey<Addr4>, AffinityValue> =
            Table::open(&maps, names::LB4_AFFINITY, Access::ReadWrite).unwrap();
        let key = AffinityKey { service: 3, client: Addr4 { octets: [192, 0, 2, 7] } };
        affinity.put(&key, &AffinityValue { backend: 7, last_used: 5 }).unwrap();
        let mut seen = Vec::new();
        reader.affinity::<Addr4>(|key, value| seen.push((*key, value.backend))).unwrap();
        assert_eq!(seen, [(key, 7)]);

        let devices: Table<u32, DeviceValue> =
            Table::open(&maps, names::LB_DEVICES, Access::ReadWrite).unwrap();
        devices.put(&9, &DeviceValue { role: 2, ..DeviceValue::default() }).unwrap();
        assert_eq!(reader.devices().unwrap()[&9].role, 2);

        let costs = reader.costs().unwrap();
        assert_eq!(costs.len(), names::MAPS.len());
        let flows = costs.iter().find(|cost| cost.name == names::LB4_FLOWS).unwrap();
        assert!(flows.max_entries == 4096 && flows.bytes > 4096 * 80, "{flows:?}");
    });
}
