//! A node in memory, the same in both families: devices, routes, Services and clients.
//!
//! Only addresses and facts are here; what the datapath must do with them is written in the tests.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{collections::HashMap, net::IpAddr};

use lb_common::{
    BackendSets, BackendState, BackendValue, DeviceRole, DeviceValue, FlowKey, FlowValue,
    FrontendKey, FrontendKind, FrontendValue, Hook, Location, MacAddr, NextHop, Reason, Settings,
    proto,
};
use lb_ebpf::{
    Decision, Place, Route, Tables, Verdict, Work,
    host::{MemoryEnv, MemoryFrame, MemoryTables, craft::Craft},
    process,
    refuse::Answer,
};

pub(crate) const EXTERNAL: u32 = 2;
pub(crate) const POD_DEVICE: u32 = 5;
pub(crate) const OTHER_POD_DEVICE: u32 = 6;
pub(crate) const GENERATION: u16 = 7;
pub(crate) const HZ: u32 = 250;

/// Instantiates generic tests for both families.
#[macro_export]
macro_rules! both_families {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn ipv4() {
                $crate::world::check(super::$name::<lb_common::Addr4>);
            }
            #[test]
            fn ipv6() {
                $crate::world::check(super::$name::<lb_common::Addr6>);
            }
        }
    )*};
}

pub(crate) fn check<A: Answer>(test: fn(&mut World<A>)) {
    test(&mut World::new());
}

/// Addresses of a family by their roles.
pub(crate) fn addr<A: Answer>(name: &str) -> A {
    let (v4, v6) = match name {
        "node" => ("192.0.2.1", "2001:db8:1::1"),
        "node-at-pods" => ("10.1.0.1", "2001:db8:a1::1"),
        "pod" => ("10.1.0.5", "2001:db8:a1::5"),
        "other-pod" => ("10.1.0.6", "2001:db8:a1::6"),
        "remote-pod" => ("10.2.0.9", "2001:db8:a2::9"),
        "client" => ("198.51.100.7", "2001:db8:f::7"),
        "vip" => ("10.96.0.10", "fd00:10:96::a"),
        "other-vip" => ("10.96.0.11", "fd00:10:96::b"),
        "public" => ("203.0.113.10", "2001:db8:b::a"),
        "loopback" => ("127.0.0.1", "::1"),
        _ => panic!("no address is called {name}"),
    };
    let ip: IpAddr = if A::FAMILY == lb_common::Family::V4 { v4 } else { v6 }.parse().unwrap();
    A::from_ip(ip).unwrap()
}

pub(crate) const fn mac(last: u8) -> MacAddr {
    MacAddr { octets: [2, 0, 0, 0, 0, last] }
}

/// Neighbours: the router outside, the pods, and our own ends.
pub(crate) const ROUTER: MacAddr = mac(0x0a);
pub(crate) const OWN: MacAddr = mac(0x01);
pub(crate) const POD: MacAddr = mac(0x55);
pub(crate) const POD_OWN: MacAddr = mac(0x05);
pub(crate) const OTHER_POD: MacAddr = mac(0x66);
pub(crate) const OTHER_POD_OWN: MacAddr = mac(0x06);

/// A Service as its frontend tells it.
#[derive(Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub(crate) kind: FrontendKind,
    /// Where it is offered.
    pub(crate) name: &'a str,
    pub(crate) port: u16,
    pub(crate) proto: u8,
    pub(crate) cluster: &'a [&'a str],
    pub(crate) local: &'a [&'a str],
    /// Whether the policy that governs this kind is Local.
    pub(crate) is_local: bool,
    pub(crate) ranges: u32,
    pub(crate) affinity: u32,
}

impl<'a> Offer<'a> {
    pub(crate) fn of(
        kind: FrontendKind,
        name: &'a str,
        port: u16,
        proto: u8,
        cluster: &'a [&'a str],
        local: &'a [&'a str],
    ) -> Self {
        let is_local = !local.is_empty();
        Self { kind, name, port, proto, cluster, local, is_local, ranges: 0, affinity: 0 }
    }
}

pub(crate) struct World<A: Answer> {
    pub(crate) tables: MemoryTables<A>,
    pub(crate) env: MemoryEnv<A>,
    pub(crate) work: Work<A>,
    services: u32,
}

impl<A: Answer> World<A> {
    pub(crate) fn new() -> Self {
        let mut env = MemoryEnv {
            generation: GENERATION,
            settings: Settings {
                hz: HZ,
                udp_unreplied: 30,
                udp_replied: 120,
                snat_first: 16384,
                snat_count: 16384,
                ..Settings::default()
            },
            ..MemoryEnv::default()
        };
        env.now.set(1_000_000);
        let node = snat::<A>("node");
        let at_pods = snat::<A>("node-at-pods");
        for (ifindex, device, role) in [
            (1, DeviceValue::default(), DeviceRole::Loopback),
            (EXTERNAL, node, DeviceRole::External),
            (POD_DEVICE, at_pods, DeviceRole::Workload),
            (OTHER_POD_DEVICE, at_pods, DeviceRole::Workload),
        ] {
            let ethernet = u8::from(role != DeviceRole::Loopback);
            let device = DeviceValue { role: role as u8, ethernet, ..device };
            let _ = env.devices.insert(ifindex, device);
        }
        for (name, route) in [
            ("node", Route::Local),
            ("loopback", Route::Local),
            ("pod", via(POD_DEVICE, POD, POD_OWN)),
            ("other-pod", via(OTHER_POD_DEVICE, OTHER_POD, OTHER_POD_OWN)),
            ("remote-pod", via(EXTERNAL, ROUTER, OWN)),
            ("client", via(EXTERNAL, ROUTER, OWN)),
        ] {
            let _ = env.routes.insert(addr(name), route);
        }
        let mut tables = MemoryTables::new(100_000);
        // Slot and backend 0 stay empty, as in the kernel.
        tables.slots.push(0);
        Self { tables, env, work: Work::default(), services: 0 }
    }

    /// A frontend with these backends, one after the other from a fresh id; returns the first id.
    pub(crate) fn serve(
        &mut self,
        kind: FrontendKind,
        name: &str,
        port: u16,
        proto: u8,
        backends: &[&str],
    ) -> u32 {
        self.offer(&Offer::of(kind, name, port, proto, backends, &[]))
    }

    /// A Service with one frontend; returns the id of the first backend. Who is named in both sets is
    /// one backend.
    pub(crate) fn offer(&mut self, offer: &Offer<'_>) -> u32 {
        self.services += 1;
        let base = u32::try_from(self.tables.slots.len()).unwrap();
        let first = u32::try_from(self.tables.backends.len()).unwrap() + 1;
        let mut next = first;
        let mut ids: HashMap<&str, u32> = HashMap::new();
        let sets = [(offer.cluster, BackendSets::CLUSTER), (offer.local, BackendSets::LOCAL)];
        for (names, bit) in sets {
            for name in names {
                let id = *ids.entry(name).or_insert(next);
                next = next.max(id + 1);
                self.tables.slots.push(id);
                let backend = self.tables.backends.entry(id).or_insert(BackendValue {
                    addr: addr(name),
                    port: 8080,
                    proto: offer.proto,
                    state: BackendState::Serving as u8,
                    service: self.services,
                    location: location(name) as u8,
                    ..BackendValue::default()
                });
                backend.sets |= bit;
            }
        }
        let value = FrontendValue {
            service: self.services,
            base,
            len: u32::try_from(offer.cluster.len()).unwrap(),
            local_len: u32::try_from(offer.local.len()).unwrap(),
            ranges: offer.ranges,
            affinity: offer.affinity,
            kind: offer.kind as u8,
            local: u8::from(offer.is_local),
            pad: 0,
        };
        self.put_frontend(offer.name, offer.port, offer.proto, value);
        first
    }

    /// A frontend, with its marker where its kind has one.
    pub(crate) fn put_frontend(&mut self, name: &str, port: u16, proto: u8, value: FrontendValue) {
        self.tables.add_frontend(FrontendKey::new(addr(name), port, proto), value);
        if value.kind == FrontendKind::ClusterIp as u8 {
            let marker = FrontendValue { kind: FrontendKind::Marker as u8, ..Default::default() };
            self.tables.add_frontend(FrontendKey::marker(addr(name)), marker);
        }
    }

    /// Runs a frame through a hook.
    pub(crate) fn run(&mut self, hook: Hook, ifindex: u32, bytes: &[u8]) -> (Decision, Vec<u8>) {
        run_with(&self.tables, &self.env, &mut self.work, Place::new(hook, ifindex), bytes)
    }

    /// Runs a frame that will be cut into segments of so many bytes.
    pub(crate) fn run_segments(
        &mut self,
        (hook, ifindex): (Hook, u32),
        bytes: &[u8],
        segment_size: u32,
    ) -> Decision {
        let mut frame = MemoryFrame { bytes: bytes.to_vec(), segment_size };
        let place = Place::new(hook, ifindex);
        process(&mut frame, &self.tables, &self.env, place, &mut self.work)
    }

    /// The flow of packets with these addresses and ports, wherever they are seen, with its whole key.
    pub(crate) fn entry(&self, tuple: &FlowKey<A>) -> Option<(FlowKey<A>, FlowValue<A>)> {
        let flows = self.tables.flows.borrow();
        let mut found =
            flows.iter().map(|(key, value)| (*key, value.get())).filter(|(key, value)| {
                FlowKey { hook: tuple.hook, ..*key } == *tuple && value.second == 0
            });
        let one = found.next();
        assert!(found.next().is_none(), "{tuple:?} at several hooks");
        one
    }

    /// The flow of packets with these addresses and ports, wherever they are seen.
    pub(crate) fn flow(&self, tuple: &FlowKey<A>) -> Option<FlowValue<A>> {
        self.entry(tuple).map(|(_, value)| value)
    }

    /// Both entries of every pair name each other, and their second legs are there if they say so; nothing
    /// else is in the map.
    pub(crate) fn assert_pairs(&self) {
        let flows = self.tables.flows.borrow();
        let mut legs = 0;
        for (key, value) in flows.iter() {
            let value = value.get();
            let other = value.other_key(key.proto);
            let back = flows.get(&other).expect("the other entry of the pair").get();
            assert_eq!(back.reverse, 1 - value.reverse, "{key:?}");
            if value.second != 0 {
                continue;
            }
            assert_eq!(back.other_key(key.proto), *key);
            assert_eq!(back.road_port, value.road_port, "{key:?}");
            if value.reverse == 0
                && let Some(keys) = value.second_legs(key)
            {
                legs += 2;
                // On to where the pair leads, and back to where it comes from.
                for (leg, leads) in keys.iter().zip([&other, key]) {
                    let leg = flows.get(leg).expect("a second leg").get();
                    assert_eq!((leg.second, leg.other_key(key.proto)), (1, *leads), "{key:?}");
                    assert_eq!((leg.seen, leg.packets, leg.bytes), (0, 0, 0), "{key:?}");
                }
            }
        }
        let second = flows.values().filter(|flow| flow.get().second != 0).count();
        assert_eq!(second, legs, "second legs of nobody");
    }

    pub(crate) fn set_state(&mut self, backend: u32, state: BackendState) {
        self.tables.backends.get_mut(&backend).unwrap().state = state as u8;
    }
}

/// Runs a frame over any tables.
pub(crate) fn run_with<A: Answer, T: Tables<A>>(
    tables: &T,
    env: &MemoryEnv<A>,
    work: &mut Work<A>,
    place: Place,
    bytes: &[u8],
) -> (Decision, Vec<u8>) {
    let mut frame = MemoryFrame { bytes: bytes.to_vec(), segment_size: 0 };
    let decision = process(&mut frame, tables, env, place, work);
    (decision, frame.bytes)
}

/// Where the slice says that a backend of this name is.
pub(crate) fn location(name: &str) -> Location {
    if name == "remote-pod" { Location::Elsewhere } else { Location::Here }
}

pub(crate) const MTU: u16 = 1500;

pub(crate) const fn via(ifindex: u32, dmac: MacAddr, smac: MacAddr) -> Route {
    Route::Via(NextHop { ifindex, generation: GENERATION, mtu: MTU, dmac, smac })
}

fn snat<A: Answer>(name: &str) -> DeviceValue {
    let ip = addr::<A>(name).ip();
    DeviceValue {
        snat4: lb_common::Address::from_ip(ip).unwrap_or_default(),
        snat6: lb_common::Address::from_ip(ip).unwrap_or_default(),
        ..DeviceValue::default()
    }
}

pub(crate) fn key<A: Answer>(
    src: &str,
    sport: u16,
    dst: &str,
    dport: u16,
    proto: u8,
) -> FlowKey<A> {
    FlowKey { src: addr(src), dst: addr(dst), sport, dport, proto, ..FlowKey::default() }
}

/// The same packets, seen at this hook.
pub(crate) fn seen_at<A: Answer>(hook: Hook, tuple: FlowKey<A>) -> FlowKey<A> {
    FlowKey { hook: hook as u8, ..tuple }
}

/// A frame as its sender makes it, from `from` to `to`.
pub(crate) fn sent<A: Answer>(tuple: &FlowKey<A>, [from, to]: [MacAddr; 2]) -> Craft {
    Craft { eth: [to.octets, from.octets], ..Craft::of(tuple) }
}

/// The same frame a router later.
pub(crate) fn hop(craft: &Craft, [from, to]: [MacAddr; 2]) -> Craft {
    Craft { eth: [to.octets, from.octets], hop_limit: craft.hop_limit - 1, ..craft.clone() }
}

/// The same packet the other way.
pub(crate) fn turned(craft: &Craft) -> Craft {
    Craft {
        eth: [craft.eth[1], craft.eth[0]],
        src: craft.dst,
        dst: craft.src,
        sport: craft.dport,
        dport: craft.sport,
        ..craft.clone()
    }
}

/// Sends one packet; asserts the decision and the frame as a description of it.
pub(crate) fn expect<A: Answer>(
    world: &mut World<A>,
    (hook, ifindex): (Hook, u32),
    sent: &Craft,
    decision: Decision,
    becomes: &Craft,
) {
    let (got, bytes) = world.run(hook, ifindex, &sent.frame());
    assert_eq!((got.verdict, got.reason), (decision.verdict, decision.reason), "{sent:?}");
    // The device means something only where the packet is sent to one.
    if !matches!(got.verdict, Verdict::Pass | Verdict::Stack | Verdict::Drop) {
        assert_eq!(got.ifindex, decision.ifindex, "{sent:?}");
    }
    assert_eq!(bytes, becomes.frame(), "{sent:?}");
}

pub(crate) fn stack(reason: Reason) -> Decision {
    Decision::new(Verdict::Stack, reason)
}

pub(crate) fn redirect(ifindex: u32, reason: Reason) -> Decision {
    Decision { ifindex, verdict: Verdict::Redirect, reason }
}

pub(crate) fn to_host(ifindex: u32, reason: Reason) -> Decision {
    Decision { ifindex, verdict: Verdict::ToHost, reason }
}

pub(crate) const PROTOS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];
