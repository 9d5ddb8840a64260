//! Stories of external IPs, load balancers and policies.

use lb_common::{FrontendKind, Location, proto};

use super::{
    super::{Frontend, Limits, NodeAddresses, Planner, Range, RangeSetId},
    Rig, addr, node, resolve, rig,
    scenario::ops,
    wish::{Wish, name, web},
};
use crate::{
    maps::MemoryMaps,
    model::{DesiredPort, TrafficPolicy},
};

/// Service 1 with this port, changed.
fn wish(change: impl FnOnce(&mut DesiredPort)) -> Wish {
    let mut service = web(1, None, &[1, 2]);
    change(&mut service.ports[0]);
    Wish::from([(name(1), service)])
}

fn problems(planner: &Planner) -> Vec<String> {
    planner.problems().iter().map(|p| format!("{} {p}", p.severity.name())).collect()
}

/// SVC-17: who has an address beats the node port there, and the node port comes back after it.
#[test]
fn an_address_of_a_service_beats_a_node_port() {
    let node_port = Frontend::new(addr("192.0.2.1"), 30080, proto::TCP);
    let mut all = wish(|port| {
        port.port = 30080;
        port.load_balancer_ips = vec![node_port.addr];
    });
    let _none = all.insert(name(2), web(2, Some(30080), &[1]));
    for order in [[1, 2], [2, 1]] {
        let mut rig = rig();
        for number in order {
            let _ops = ops(&mut rig, &all, &[number]);
        }
        let value = rig.maps.get().frontends[&node_port];
        assert_eq!(value.kind, FrontendKind::LoadBalancer as u8);
        let hidden = "warning Service default/web-2: 192.0.2.1:30080/TCP belongs to another Service \
                      on this node: not programmed";
        assert_eq!(problems(&rig.planner), [hidden]);
        let elsewhere = Frontend::new(addr("127.0.0.1"), 30080, proto::TCP);
        assert!(rig.maps.get().frontends.contains_key(&elsewhere));

        let mut less = all.clone();
        let _service = less.remove(&name(1));
        let _ops = ops(&mut rig, &less, &[1]);
        let _ops = ops(&mut rig, &less, &[]);
        assert_eq!(rig.maps.get().frontends[&node_port].kind, FrontendKind::NodePort as u8);
        assert_eq!(problems(&rig.planner), [""; 0]);
    }
}

/// SR-1: a Service that does not fit keeps what it has, but not an address that is another's now, who is
/// closed to whom the first one served.
#[test]
fn an_address_that_changes_hands_is_not_kept_by_one_that_does_not_fit() {
    let limits = Limits { slots: 4, ..Limits::default() };
    let frontend = Frontend::new(addr("203.0.113.11"), 80, proto::TCP);
    // Whichever of them is planned first.
    for (from, to) in [(1, 2), (2, 1)] {
        let mut rig = Rig::new(MemoryMaps::new(limits), limits);
        let mut open = web(from, None, &[1, 2]);
        open.ports[0].load_balancer_ips = vec![frontend.addr];
        let before = Wish::from([(name(from), open), (name(to), web(to, None, &[]))]);
        let _ops = ops(&mut rig, &before, &[1, 2]);
        assert!(rig.maps.get().frontends.contains_key(&frontend));

        let mut closed = web(to, None, &[1, 2, 3]);
        closed.ports[0].load_balancer_ips = vec![frontend.addr];
        closed.ports[0].source_ranges = Some(Vec::new());
        let larger = web(from, None, &[3, 4, 5]);
        let after = Wish::from([(name(from), larger), (name(to), closed)]);
        let _ops = ops(&mut rig, &after, &[1, 2]);
        let told = problems(&rig.planner).concat();
        assert!(told.contains("web-1 and 1 more"), "one fits: {told}");
        let is = resolve(rig.maps.get(), &frontend).expect("nothing is missing");
        assert!(is.is_none_or(|is| is.ranges.is_some()), "it is open to everybody");
    }
}

/// LB-8, LB-9: the address of a load balancer has no marker, and needs no node port.
#[test]
fn other_ports_of_a_load_balancer_are_left_alone() {
    let vip = addr("198.51.100.7");
    let wish = wish(|port| {
        port.vip = None;
        port.load_balancer_ips = vec![vip];
    });
    let mut rig = rig();
    let _ops = ops(&mut rig, &wish, &[1]);
    let frontends: Vec<_> = rig.maps.get().frontends.keys().copied().collect();
    assert_eq!(frontends, [Frontend::new(vip, 80, proto::TCP)]);
}

/// SR-1, SR-6: ranges stand in a set of their own, which only the load balancer's frontend names;
/// one that lets the node in lets in the load balancer's address; other ranges are another set.
#[test]
fn source_ranges_are_a_set_that_never_changes() {
    let ranges = |nets: &[&str]| {
        let nets = nets.iter().map(|net| net.parse().expect("a network")).collect();
        wish(|port| {
            port.external_ips = vec![addr("203.0.113.7")];
            port.load_balancer_ips = vec![addr("198.51.100.7")];
            port.source_ranges = Some(nets);
        })
    };
    let mut rig = rig();
    let first = ops(&mut rig, &ranges(&["10.0.0.0/8"]), &[1]);
    let puts: Vec<_> = first.iter().filter(|op| op.starts_with("put range")).collect();
    assert_eq!(puts, ["put range 10.0.0.0/8 of set 1"]);
    let named = |op: &&String| op.contains("source ranges");
    let named: Vec<_> = first.iter().filter(named).collect();
    let slots = "slots 0..2, source ranges of set 1";
    let frontend = format!("put frontend 198.51.100.7:80/TCP LoadBalancer service 1, {slots}");
    assert_eq!(named, [&frontend]);

    let changed = ops(&mut rig, &ranges(&["192.0.2.0/24"]), &[1]);
    assert_eq!(
        changed,
        [
            "put range 192.0.2.0/24 of set 2",
            "put range 198.51.100.7/32 of set 2",
            &frontend.replace("set 1", "set 2"),
            "delete range 10.0.0.0/8 of set 1",
        ]
    );
    // The node is somebody else now.
    rig.planner.set_node(NodeAddresses { primary: [addr("192.0.3.1")].into(), ..node() });
    let moved = ops(&mut rig, &ranges(&["192.0.2.0/24"]), &[]);
    assert_eq!(
        moved,
        [
            "put range 192.0.2.0/24 of set 1",
            &frontend,
            "delete range 192.0.2.0/24 of set 2",
            "delete range 198.51.100.7/32 of set 2",
        ]
    );
    // None that can be used: nobody. No list: everybody.
    let nobody = ops(&mut rig, &ranges(&[]), &[1]);
    assert_eq!(nobody[0], frontend.replace("set 1", "set 2"));
    let all =
        ops(&mut rig, &wish(|port| port.load_balancer_ips = vec![addr("198.51.100.7")]), &[1]);
    assert_eq!(all[0], frontend.replace(", source ranges of set 1", ""));
    assert!(rig.maps.get().ranges.is_empty());
}

/// TP-1, TP-12: a flip of a policy writes the local set beside the cluster set, then each frontend
/// once; the policy of one kind does not touch the others.
#[test]
fn a_flip_of_a_policy_is_one_update_a_frontend() {
    let flip = |external_policy| {
        wish(|port| {
            port.external_ips = vec![addr("203.0.113.7")];
            port.external_policy = external_policy;
            port.backends[1].local = true;
            port.backends[1].location = Location::Here;
        })
    };
    let mut rig = rig();
    let _ops = ops(&mut rig, &flip(TrafficPolicy::Cluster), &[1]);
    let flipped = ops(&mut rig, &flip(TrafficPolicy::Local), &[1]);
    assert_eq!(
        flipped,
        [
            "write slots 2..5 = 1 2 2",
            "put frontend 10.96.0.1:80/TCP ClusterIP service 1, slots 2..4, local slots 4..5",
            "put frontend 203.0.113.7:80/TCP ExternalIP service 1, slots 2..4, local slots 4..5, \
             policy Local",
        ]
    );
    let back = ops(&mut rig, &flip(TrafficPolicy::Cluster), &[1]);
    assert_eq!(back.len(), 3, "{back:?}");
    assert!(back[2].ends_with("ExternalIP service 1, slots 0..2"), "{back:?}");
}

/// B15, B20, AFF-5: a backend enters a set before the frontends lead to it there, and leaves one
/// after they did.
#[test]
fn a_backend_that_changes_its_sets_is_written_before_and_after() {
    let sets = |cluster, local| {
        wish(|port| {
            port.internal_policy = TrafficPolicy::Local;
            port.backends[1].cluster = cluster;
            port.backends[1].local = local;
        })
    };
    let mut rig = rig();
    let _ops = ops(&mut rig, &sets(true, false), &[1]);
    let changed = ops(&mut rig, &sets(false, true), &[1]);
    let backend = "put backend 2 10.244.1.2:8080/TCP serving (service 1; ";
    assert_eq!(
        changed,
        [
            &format!("{backend}cluster,local)"),
            // The same backends, otherwise divided.
            "put frontend 10.96.0.1:80/TCP ClusterIP service 1, slots 0..1, local slots 1..2, \
             policy Local",
            &format!("{backend}local)"),
        ]
    );
    let vip = Frontend::new(addr("10.96.0.1"), 80, proto::TCP);
    let state = resolve(rig.maps.get(), &vip).expect("it is consistent").expect("it is there");
    assert_eq!((state.cluster.len(), state.local.len()), (1, 1));
}

/// SYNC-6: ranges that others took out, and such that others entered, are seen and put right;
/// also one that would let somebody into every set.
#[test]
fn what_others_did_to_ranges_is_seen_and_undone() {
    let restricted = wish(|port| {
        port.load_balancer_ips = vec![addr("198.51.100.7")];
        port.source_ranges = Some(vec!["10.0.0.0/8".parse().expect("a network")]);
    });
    let mut rig = rig();
    let _ops = ops(&mut rig, &restricted, &[1]);
    let good = rig.contents();
    assert!(rig.planner.differences(&good).is_empty());

    let mut touched = good.clone();
    let _own = touched.ranges.pop_first();
    let all = Range { set: RangeSetId(0), addr: addr("0.0.0.0"), bits: 0 };
    let _new = touched.ranges.insert(all);
    let _new = touched.ranges.insert(Range { bits: 20, set: RangeSetId(9), ..all });
    assert_eq!(rig.planner.differences(&touched), [("source ranges", 3)].into());

    let mut after = Rig::new(MemoryMaps::holding(touched, Limits::default()), Limits::default());
    after.planner.prune();
    let _ops = ops(&mut after, &restricted, &[1]);
    let _ops = ops(&mut after, &restricted, &[]);
    assert_eq!(after.dump(), rig.dump());
    assert_eq!(after.contents().ranges.len(), 1);
}
