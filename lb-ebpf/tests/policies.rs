//! Which set of backends a new flow is chosen from, with which source address, and what becomes of it
//! where that set is empty: every kind of frontend, policy and client.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod world;

use lb_common::{
    FrontendKind::{self, ClusterIp, ExternalIp, LoadBalancer, NodePort},
    Hook, MacAddr, Reason,
};
use lb_ebpf::{
    Decision, Verdict,
    host::craft::{Craft, Transport},
    refuse::Answer,
    socket::{Call, Outcome, connect, sendmsg},
};
use world::{
    EXTERNAL, OWN, Offer, POD, POD_DEVICE, POD_OWN, PROTOS, ROUTER, World, addr, key, sent,
};

both_families![
    each_client_is_served_from_the_set_of_the_policy,
    a_hairpin_is_masqueraded_in_any_policy,
    an_empty_local_set_is_silent,
    nobody_anywhere_is_refused,
    a_datagram_to_a_socket_of_the_node_is_no_new_flow,
    only_a_cluster_ip_answers_strays,
    other_ports_of_an_external_address_are_left_alone,
    loopback_addresses_are_for_the_node_itself,
];

/// The way a client's packets take to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Packet(Hook, u32, &'static str),
    Socket,
}

const P: &[Way] = &[Way::Packet(Hook::PodIn, POD_DEVICE, "pod")];
const X: &[Way] = &[
    Way::Packet(Hook::ExternalIn, EXTERNAL, "client"),
    Way::Packet(Hook::Xdp, EXTERNAL, "client"),
];
const H: &[Way] = &[
    Way::Packet(Hook::ExternalOut, EXTERNAL, "node"),
    Way::Packet(Hook::LoopbackOut, 1, "node"),
    Way::Socket,
];

/// XDP judges nobody.
const LEFT: Decision = Decision::pass(Reason::LeftToTc);

const INTERNAL: &[FrontendKind] = &[ClusterIp];
const EXTERNALS: &[FrontendKind] = &[NodePort, ExternalIp, LoadBalancer];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Kept,
    /// The node's address where the packet leaves.
    Node,
}

/// Kinds, whether their policy is Local, clients, whether the local set serves them, and the source
/// address that a backend sees.
type Row = (&'static [FrontendKind], bool, &'static [Way], bool, Source);

/// M-1 to M-10, for a cluster set of one pod of another node and a local set of one of this node.
const ROWS: [Row; 12] = [
    (INTERNAL, false, P, false, Source::Kept),
    (INTERNAL, true, P, true, Source::Kept),
    (INTERNAL, false, H, false, Source::Node),
    (INTERNAL, true, H, true, Source::Node),
    (INTERNAL, false, X, false, Source::Node),
    (INTERNAL, true, X, true, Source::Kept),
    (EXTERNALS, false, X, false, Source::Node),
    (EXTERNALS, true, X, true, Source::Kept),
    (EXTERNALS, false, P, false, Source::Kept),
    (EXTERNALS, true, P, false, Source::Kept),
    (EXTERNALS, false, H, false, Source::Node),
    (EXTERNALS, true, H, false, Source::Node),
];

const fn place(kind: FrontendKind) -> &'static str {
    match kind {
        ClusterIp | FrontendKind::Marker => "vip",
        NodePort => "node",
        ExternalIp | LoadBalancer => "public",
    }
}

const fn macs(hook: Hook) -> [MacAddr; 2] {
    if matches!(hook, Hook::PodIn) { [POD, POD_OWN] } else { [ROUTER, OWN] }
}

/// Every row with each of its kinds and ways, and both protocols, over a fresh world.
fn each_row<A: Answer>(
    [cluster, local]: [&[&str]; 2],
    check: fn(&mut World<A>, &Row, FrontendKind, Way, u8),
) {
    for row in &ROWS {
        for kind in row.0 {
            for way in row.2 {
                for proto in PROTOS {
                    let mut world = World::new();
                    let offer = Offer {
                        is_local: row.1,
                        ..Offer::of(*kind, place(*kind), 80, proto, cluster, local)
                    };
                    let _ = world.offer(&offer);
                    check(&mut world, row, *kind, *way, proto);
                }
            }
        }
    }
}

fn call<A: Answer>(kind: FrontendKind, proto: u8) -> Call<A> {
    Call { cookie: 1, addr: addr(place(kind)), port: 80, proto }
}

/// M-1, M-2, M-3, M-4, M-5, M-6, M-7, M-8, M-9, M-10, NE-8, EIP-2.
fn each_client_is_served_from_the_set_of_the_policy<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&["remote-pod"], &["other-pod"]], |world, row, kind, way, proto| {
        let to = if row.3 { "other-pod" } else { "remote-pod" };
        let Way::Packet(hook, device, from) = way else {
            let made = connect(&world.tables, &world.env, &call(kind, proto));
            assert_eq!(made, Outcome::Rewritten(addr(to), 8080, Reason::SocketConnect), "{row:?}");
            return;
        };
        let tuple = key::<A>(from, 4000, place(kind), 80, proto);
        let frame = sent(&tuple, macs(hook)).frame();
        let (decision, bytes) = world.run(hook, device, &frame);
        if hook == Hook::Xdp {
            // XDP starts nothing.
            assert_eq!((decision, bytes), (LEFT, frame), "{row:?}");
            assert!(world.tables.flows.borrow().is_empty(), "{row:?}");
            return;
        }
        let flow = world.flow(&tuple).unwrap_or_else(|| panic!("{row:?}: {decision:?}"));
        assert_eq!(flow.dst, addr(to), "{row:?} {kind:?}");
        let node = if to == "other-pod" { "node-at-pods" } else { "node" };
        let seen = if row.4 == Source::Kept { from } else { node };
        assert_eq!(flow.src, addr(seen), "{row:?} {kind:?}");
        // A kept source goes by the stack, else past it.
        let verdict = match row.4 {
            Source::Kept => Verdict::Stack,
            Source::Node => Verdict::Redirect,
        };
        assert_eq!(decision.verdict, verdict, "{row:?} {kind:?}");
        world.assert_pairs();
    });
}

/// CIP-4.
fn a_hairpin_is_masqueraded_in_any_policy<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&["pod"], &["pod"]], |world, row, kind, way, proto| {
        if let Way::Packet(hook @ Hook::PodIn, device, from) = way {
            let tuple = key::<A>(from, 4000, place(kind), 80, proto);
            let craft = sent(&tuple, macs(hook));
            let (decision, bytes) = world.run(hook, device, &craft.frame());
            assert_eq!(decision, world::stack(Reason::NewFlow), "{row:?}");
            // It is masqueraded where it leaves for the pod.
            assert_eq!(world.flow(&tuple).unwrap().src, addr("node-at-pods"), "{row:?}");
            let between = craft.translated::<A>(&key("pod", 4000, "pod", 8080, proto));
            assert_eq!(bytes, between.frame(), "{row:?}");
            world.assert_pairs();
        }
    });
}

/// NE-6, NE-7, M-2, M-3, M-4, M-8.
fn an_empty_local_set_is_silent<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&["remote-pod"], &[]], |world, row, kind, way, proto| {
        let Way::Packet(hook, device, from) = way else {
            for made in [
                connect(&world.tables, &world.env, &call(kind, proto)),
                sendmsg(&world.tables, &world.env, &call(kind, proto)),
            ] {
                let left = made == Outcome::Untouched(Reason::LeftToDevice);
                assert_eq!(left, row.3, "{row:?} {made:?}");
            }
            return;
        };
        let tuple = key::<A>(from, 4000, place(kind), 80, proto);
        let frame = sent(&tuple, macs(hook)).frame();
        let (decision, bytes) = world.run(hook, device, &frame);
        if hook == Hook::Xdp {
            assert_eq!((decision, bytes), (LEFT, frame), "{row:?} {kind:?}");
        } else if row.3 {
            assert_eq!(decision, Decision::drop(Reason::NoLocalBackend), "{row:?} {kind:?}");
            assert_eq!(bytes, frame);
            assert!(world.tables.flows.borrow().is_empty(), "{row:?}");
        } else {
            assert_eq!(world.flow(&tuple).unwrap().dst, addr("remote-pod"), "{row:?} {kind:?}");
        }
    });
}

/// NE-1, NE-2, NE-3, NE-4, NP-14.
fn nobody_anywhere_is_refused<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&[], &[]], |world, row, kind, way, proto| {
        let Way::Packet(hook, device, from) = way else {
            let made = connect(&world.tables, &world.env, &call(kind, proto));
            assert_eq!(made, Outcome::Refused(Reason::NoBackend), "{row:?}");
            return;
        };
        let tuple = key::<A>(from, 4000, place(kind), 80, proto);
        let (decision, _) = world.run(hook, device, &sent(&tuple, macs(hook)).frame());
        let answered = Decision::new(Verdict::Answer, Reason::NoBackend);
        let wanted = if hook == Hook::Xdp { LEFT } else { answered };
        assert_eq!(decision, wanted, "{row:?} {kind:?}");
        assert!(world.tables.flows.borrow().is_empty());
    });
}

/// NP-12.
fn a_datagram_to_a_socket_of_the_node_is_no_new_flow<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&["remote-pod"], &["other-pod"]], |world, row, kind, way, proto| {
        let Way::Packet(hook, device, from) = way else { return };
        let tuple = key::<A>(from, 4000, place(kind), 80, proto);
        world.env.awaited.push(world::seen_at(hook, tuple));
        let (decision, _) = world.run(hook, device, &sent(&tuple, macs(hook)).frame());
        // A cluster IP is no address of the node's sockets; and only from outside can one be answered.
        let passes =
            proto == lb_common::proto::UDP && kind != ClusterIp && hook == Hook::ExternalIn;
        let passed = decision == Decision::pass(Reason::HostSocket);
        assert_eq!(passed, passes, "{row:?} {kind:?} {decision:?}");
    });
}

/// Other addresses may be those of connections that are nobody's of ours.
fn only_a_cluster_ip_answers_strays<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&["remote-pod"], &["other-pod"]], |world, row, kind, way, proto| {
        if proto != lb_common::proto::TCP {
            return;
        }
        let Way::Packet(hook, device, from) = way else { return };
        let tuple = key::<A>(from, 4000, place(kind), 80, proto);
        let craft = sent(&tuple, macs(hook)).flags(0x10);
        let (decision, _) = world.run(hook, device, &craft.frame());
        let wanted = if hook == Hook::Xdp {
            LEFT
        } else if from == "node" && kind == ClusterIp {
            Decision::new(Verdict::Answer, Reason::StrayPacket)
        } else {
            Decision::pass(Reason::NoFlow)
        };
        assert_eq!(decision, wanted, "{row:?} {kind:?}");
    });
}

/// LB-8, and a ping of the same address: others may be behind it.
fn other_ports_of_an_external_address_are_left_alone<A: Answer>(_: &mut World<A>) {
    each_row::<A>([&["remote-pod"], &["other-pod"]], |world, row, kind, way, proto| {
        if kind == ClusterIp {
            return;
        }
        let Way::Packet(hook, device, from) = way else {
            let made = connect(&world.tables, &world.env, &Call { port: 81, ..call(kind, proto) });
            assert_eq!(made, Outcome::Untouched(Reason::NotService), "{row:?}");
            return;
        };
        let other_port = sent::<A>(&key(from, 4000, place(kind), 81, proto), macs(hook));
        let kinds = [8, 128].map(|kind| Transport::Icmp(kind, 0));
        let pings = kinds.map(|transport| Craft { transport, ..other_port.clone() });
        let gre = sent::<A>(&key(from, 4000, place(kind), 80, 47), macs(hook));
        for craft in pings.into_iter().chain([other_port, gre]) {
            let (decision, bytes) = world.run(hook, device, &craft.frame());
            assert_eq!(decision.verdict, Verdict::Pass, "{row:?} {kind:?} {craft:?}");
            assert_eq!(bytes, craft.frame());
        }
    });
}

/// NP-5: a packet to a loopback address that comes from elsewhere, forged at the same link say, is the
/// stack's to discard; the node's own are served.
fn loopback_addresses_are_for_the_node_itself<A: Answer>(world: &mut World<A>) {
    for proto in PROTOS {
        let _ = world.serve(NodePort, "loopback", 30000, proto, &["pod", "remote-pod"]);
        for (sport, (hook, ifindex, from, macs)) in (1000..).zip([
            (Hook::ExternalIn, EXTERNAL, "client", [ROUTER, OWN]),
            (Hook::Xdp, EXTERNAL, "client", [ROUTER, OWN]),
            (Hook::ExternalIn, EXTERNAL, "loopback", [ROUTER, OWN]),
            (Hook::PodIn, POD_DEVICE, "pod", [POD, POD_OWN]),
        ]) {
            let tuple = key::<A>(from, sport, "loopback", 30000, proto);
            let frame = sent::<A>(&tuple, macs).frame();
            let (decision, after) = world.run(hook, ifindex, &frame);
            let passed = if hook == Hook::Xdp { LEFT } else { Decision::pass(Reason::NotService) };
            assert_eq!(decision, passed, "{hook:?} from {from}");
            assert_eq!(after, frame);
            assert!(world.flow(&tuple).is_none());
        }
        let tuple = key::<A>("loopback", 2000, "loopback", 30000, proto);
        let (decision, _) =
            world.run(Hook::LoopbackOut, 1, &sent::<A>(&tuple, [MacAddr::default(); 2]).frame());
        assert_eq!(decision.reason, Reason::NewFlow, "{decision:?}");
    }
}
