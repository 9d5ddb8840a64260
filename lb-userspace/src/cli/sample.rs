//! Small contents of the maps that the tests of the tables share.

use lb_common::{
    Action, BackendSets, BackendState, BackendStats, Family, FrontendKind, FrontendValue, Hook,
    Location, Seen, ServiceInfo, proto,
};

use super::snapshot::{Affinity, Flow, Snapshot, Sock, Tuple};
use crate::plan::{Backend, BackendId, Frontend, Range, RangeSetId, ServiceId};

/// Services `vote` (NodePort, both families) and `dns` (ClusterIP, no backend left), with a
/// connection from outside, one that ends, and a socket.
pub(crate) fn vote() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let contents = &mut snapshot.contents;
    for (id, name, port_name, proto, family) in [
        (1, "vote", "http", proto::TCP, Family::V4),
        (2, "vote", "http", proto::TCP, Family::V6),
        (3, "dns", "", proto::UDP, Family::V4),
    ] {
        let info = ServiceInfo::new("default", name, port_name, proto, family).unwrap();
        let _none = contents.services.insert(ServiceId(id), info);
    }
    for (id, addr, port, proto, state, service) in [
        (1, "10.244.0.2", 8080, proto::TCP, BackendState::Serving, 1),
        (2, "10.244.1.2", 8080, proto::TCP, BackendState::Serving, 1),
        (3, "10.244.1.3", 8080, proto::TCP, BackendState::Gone, 1),
        (4, "fd00:244::2", 8080, proto::TCP, BackendState::Serving, 2),
        (5, "10.244.0.9", 53, proto::UDP, BackendState::Gone, 3),
    ] {
        let addr = addr.parse().unwrap();
        let service = ServiceId(service);
        let sets = match state {
            BackendState::Serving => BackendSets::CLUSTER,
            BackendState::Free | BackendState::Gone => 0,
        };
        let backend =
            Backend { addr, port, proto, state, service, sets, location: Location::Unknown };
        let _none = contents.backends.insert(BackendId(id), backend);
    }
    contents.slots = vec![0, 0, 1, 2, 4];
    for (addr, port, proto, kind, service, base, len) in [
        ("10.96.0.10", 80, proto::TCP, FrontendKind::ClusterIp, 1, 2, 2),
        ("192.0.2.1", 30000, proto::TCP, FrontendKind::NodePort, 1, 2, 2),
        ("fd00:96::10", 80, proto::TCP, FrontendKind::ClusterIp, 2, 4, 1),
        ("2001:db8::1", 30000, proto::TCP, FrontendKind::NodePort, 2, 4, 1),
        ("10.96.0.53", 53, proto::UDP, FrontendKind::ClusterIp, 3, 0, 0),
        ("10.96.0.10", 0, 0, FrontendKind::Marker, 0, 0, 0),
    ] {
        let value =
            FrontendValue { service, base, len, kind: kind as u8, ..FrontendValue::default() };
        let _none =
            contents.frontends.insert(Frontend::new(addr.parse().unwrap(), port, proto), value);
    }
    for (id, flows) in [(1, 18), (2, 10), (3, 2), (4, 10)] {
        let stats = BackendStats { flows, packets: flows * 10, bytes: flows * 1000 };
        let _none = snapshot.stats.insert(BackendId(id), stats);
    }
    snapshot.flows = flows();
    let device = lb_common::DeviceValue {
        snat4: std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        role: lb_common::DeviceRole::External as u8,
        ..Default::default()
    };
    let _none = snapshot.devices.insert(2, device);
    snapshot.xdp_devices = vec![lb_common::XdpDevice {
        ifindex: 2,
        mac: lb_common::MacAddr { octets: [2, 0, 0, 0, 0, 1] },
        flags: lb_common::XdpDevice::TRANSMITS,
        pad: 0,
    }];
    snapshot.reasons = vec![(Hook::ExternalIn, lb_common::Reason::NewFlow, 40)];
    snapshot.schema.abi_version = lb_common::ABI_VERSION;
    snapshot.runtime.generation = 7;
    snapshot.runtime.flags = lb_common::Runtime::SHORTCUT;
    snapshot.socks = vec![Sock {
        cookie: 0x1_0000_0007,
        frontend: "10.96.0.10:80".parse().unwrap(),
        backend_addr: "10.244.0.2:8080".parse().unwrap(),
        proto: proto::TCP,
        backend: BackendId(1),
        service: ServiceId(1),
        last_seen: 1000,
    }];
    snapshot
}

/// Service `shop` (LoadBalancer, one backend of two on this node, external policy Local, source
/// ranges, affinity, an external IP).
pub(crate) fn shop() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let contents = &mut snapshot.contents;
    let info = ServiceInfo::new("default", "shop", "", proto::TCP, Family::V4).unwrap();
    let _none = contents.services.insert(ServiceId(1), info);
    let sets = BackendSets::CLUSTER;
    for (id, host, sets, location) in
        [(1, 2, sets, Location::Elsewhere), (2, 3, sets | BackendSets::LOCAL, Location::Here)]
    {
        let (addr, state, service) =
            ([10, 244, 0, host].into(), BackendState::Serving, ServiceId(1));
        let backend =
            Backend { addr, port: 8080, proto: proto::TCP, state, service, sets, location };
        let _none = contents.backends.insert(BackendId(id), backend);
    }
    contents.slots = vec![1, 2, 2];
    for (addr, port, kind) in [
        ("10.96.0.20", 80, FrontendKind::ClusterIp),
        ("192.0.2.1", 30001, FrontendKind::NodePort),
        ("198.51.100.7", 80, FrontendKind::LoadBalancer),
        ("203.0.113.7", 80, FrontendKind::ExternalIp),
    ] {
        let value = FrontendValue {
            service: 1,
            base: 0,
            len: 2,
            local_len: 1,
            ranges: if kind == FrontendKind::LoadBalancer { 5 } else { 0 },
            affinity: 10800,
            kind: kind as u8,
            local: u8::from(kind != FrontendKind::ClusterIp),
            pad: 0,
        };
        let frontend = Frontend::new(addr.parse().unwrap(), port, proto::TCP);
        let _none = contents.frontends.insert(frontend, value);
    }
    for net in ["10.0.0.0/8", "192.0.2.0/24"] {
        let _new = contents.ranges.insert(Range::new(RangeSetId(5), net.parse().unwrap()));
    }
    let client = |client: [u8; 4], backend| Affinity {
        service: ServiceId(1),
        client: client.into(),
        backend: BackendId(backend),
        last_used: 1000,
    };
    snapshot.affinity = vec![client([198, 51, 100, 9], 2), client([0; 4], 1)];
    snapshot
}

fn flows() -> Vec<Flow> {
    let tuple = |src: &str, dst: &str| Tuple {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        proto: proto::TCP,
    };
    let forward = |key: Tuple, translated: Tuple, backend, seen| Flow {
        key,
        translated,
        backend: BackendId(backend),
        service: ServiceId(1),
        last_seen: 1000,
        seen,
        hook: Some(Hook::ExternalIn),
        other_hook: Some(Hook::ExternalIn),
        road_port: 0,
        second: false,
        action: Some(Action::Masquerade),
        reverse: false,
        packets: 7,
        bytes: 2048,
    };
    let reply = |forward: &Flow, seen| Flow {
        key: forward.translated.reversed(),
        translated: forward.key.reversed(),
        reverse: true,
        packets: 5,
        bytes: 512,
        seen,
        ..*forward
    };
    let open = forward(
        tuple("198.51.100.7:40000", "192.0.2.1:30000"),
        tuple("192.0.2.1:16384", "10.244.1.2:8080"),
        2,
        Seen::PACKET | Seen::ACK,
    );
    let local = Flow {
        other_hook: Some(Hook::ExternalOut),
        action: Some(Action::Stack),
        packets: 9,
        ..forward(
            tuple("198.51.100.7:40001", "192.0.2.1:30000"),
            tuple("198.51.100.7:40001", "10.244.0.2:8080"),
            1,
            Seen::PACKET | Seen::ACK | Seen::FIN,
        )
    };
    let local_reply = Flow {
        hook: Some(Hook::ExternalOut),
        other_hook: Some(Hook::ExternalIn),
        action: Some(Action::Stack),
        ..reply(&local, Seen::PACKET | Seen::ACK)
    };
    vec![reply(&open, Seen::PACKET | Seen::ACK), local_reply, open, local]
}
