//! Single stories, each about one promise of the planner.

use std::time::Duration;

use lb_common::proto;

use super::{
    super::{Frontend, Limits, NodeAddresses, Op},
    Rig, addr, check_consistent, node, rig,
    wish::{Wish, name, web},
};
use crate::maps::{Contents, Fault, FaultyMaps, MemoryMaps};

/// Marks `names`, executes, and returns the ops, printed.
pub(super) fn ops(rig: &mut Rig<MemoryMaps>, wish: &Wish, names: &[u8]) -> Vec<String> {
    rig.now += Duration::from_secs(2);
    rig.planner.mark(names.iter().map(|number| name(*number)));
    let plan = rig.planner.plan(wish, rig.now);
    let text = plan.ops.iter().map(Op::to_string).collect();
    let applied = plan.ops.len();
    crate::maps::Maps::apply(&mut rig.maps, &plan.ops).expect("it fits");
    rig.planner.commit(plan, applied, rig.now);
    text
}

#[test]
fn a_change_writes_its_own_service_only_and_in_order() {
    let mut rig = rig();
    let mut wish: Wish = (1..=50).map(|i| (name(i), web(i, None, &[1, 2]))).collect();
    let all: Vec<u8> = (1..=50).collect();
    let _first = ops(&mut rig, &wish, &all);
    let _before = wish.insert(name(7), web(7, None, &[2, 3]));
    let changed = ops(&mut rig, &wish, &[7]);
    let service = changed[2].split("service ").nth(1).and_then(|rest| rest.split(',').next());
    let service = service.expect("it names its service");
    let stays = changed[1].split(' ').nth(4).expect("a backend");
    assert_eq!(
        changed,
        [
            format!("put backend 101 10.244.7.3:8080/TCP serving (service {service}; cluster)"),
            format!("write slots 100..102 = {stays} 101"),
            format!("put frontend 10.96.0.7:80/TCP ClusterIP service {service}, slots 100..102"),
            changed[3].clone(),
        ]
    );
    assert!(changed[3].ends_with(&format!("10.244.7.1:8080/TCP gone (service {service})")));
    assert_eq!(ops(&mut rig, &wish, &all), [""; 0]);
}

/// SYNC-14, D13: however many endpoints a Service has, one more or less is as many writes.
#[test]
fn a_large_service_is_changed_like_a_small_one() {
    let kinds = |count: u16| {
        let mut service = web(1, None, &[1]);
        let backend = service.ports[0].backends[0];
        let at = |n: u16| {
            let [c, d] = n.to_be_bytes();
            crate::model::DesiredBackend { addr: [10, 244, c, d].into(), ..backend }
        };
        service.ports[0].backends = (1..=count).map(at).collect();
        let mut rig = rig();
        let mut wish = Wish::from([(name(1), service)]);
        let _first = ops(&mut rig, &wish, &[1]);
        let backends = &mut wish.get_mut(&name(1)).expect("it is there").ports[0].backends;
        let _first = backends.remove(0);
        backends.push(at(count + 1));
        let changed = ops(&mut rig, &wish, &[1]);
        let kind = |op: &String| op.split(' ').take(2).collect::<Vec<_>>().join(" ");
        changed.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(10), ["put backend", "write slots", "put frontend", "put backend"]);
    assert_eq!(kinds(5000), kinds(10));
}

#[test]
fn a_backend_that_comes_back_keeps_its_id() {
    let mut rig = rig();
    let mut wish = Wish::from([(name(1), web(1, None, &[1, 2]))]);
    let _first = ops(&mut rig, &wish, &[1]);
    let _before = wish.insert(name(1), web(1, None, &[1]));
    let _ops = ops(&mut rig, &wish, &[1]);
    let looked = rig.now + Duration::from_secs(1);
    let gone = rig.planner.gone_before(looked);
    assert_eq!(gone.len(), 1);
    let _before = wish.insert(name(1), web(1, None, &[1, 2]));
    let back = ops(&mut rig, &wish, &[1]);
    assert_eq!(
        back[0],
        format!("put backend {} 10.244.1.2:8080/TCP serving (service 1; cluster)", gone[0])
    );
    // A look that found no flow of it came too late: it serves again.
    rig.planner.release(gone, looked);
    assert_eq!(ops(&mut rig, &wish, &[]), [""; 0]);
}

#[test]
fn slots_that_a_service_takes_to_another_address_stay_its_own() {
    let mut rig = rig();
    let mut wish = Wish::from([(name(1), web(1, None, &[1])), (name(2), web(2, None, &[1]))]);
    let _first = ops(&mut rig, &wish, &[1, 2]);
    // The first takes the only frontend of the second, which goes elsewhere with what it has.
    let vip = |wish: &mut Wish, number, vip| {
        wish.get_mut(&name(number)).expect("it is there").ports[0].vip = Some(addr(vip));
    };
    vip(&mut wish, 1, "10.96.0.2");
    vip(&mut wish, 2, "10.96.0.9");
    let moved = ops(&mut rig, &wish, &[1, 2]);
    assert!(!moved.iter().any(|op| op.starts_with("write slots")), "{moved:?}");
    for number in 3..6 {
        let _none = wish.insert(name(number), web(number, None, &[1]));
        let _ops = ops(&mut rig, &wish, &[number]);
        check_consistent(&rig.contents()).expect("each has its own slots");
    }
}

#[test]
fn node_addresses_come_and_go() {
    let mut rig = rig();
    let wish = Wish::from([(name(1), web(1, Some(30080), &[1])), (name(2), web(2, None, &[1]))]);
    let _first = ops(&mut rig, &wish, &[1, 2]);
    let mut more = node();
    let _new = more.local.insert(addr("192.0.2.9"));
    let _new = more.node_port.insert(addr("192.0.2.9"));
    rig.planner.set_node(more);
    let added = ops(&mut rig, &wish, &[]);
    assert_eq!(added.len(), 2, "{added:?}");
    assert!(added[0].starts_with("set filter word "));
    assert!(added[1].starts_with("put frontend 192.0.2.9:30080/TCP NodePort service 1"));
    rig.planner.set_node(NodeAddresses { node_port: [].into(), ..node() });
    let removed = ops(&mut rig, &wish, &[]);
    let deletes = removed.iter().filter(|op| op.starts_with("delete frontend ")).count();
    assert_eq!(deletes, 3, "{removed:?}");
}

#[test]
fn a_vip_that_is_an_address_of_the_node_leaves_its_other_ports_alone() {
    let mut rig = rig();
    let mut service = web(1, None, &[1]);
    service.ports[0].vip = Some(addr("192.0.2.1"));
    let wish = Wish::from([(name(1), service)]);
    let _first = ops(&mut rig, &wish, &[1]);
    let marker = Frontend::marker(addr("192.0.2.1"));
    assert!(!rig.maps.get().frontends.contains_key(&marker));
    rig.planner.set_node(NodeAddresses::default());
    let _ops = ops(&mut rig, &wish, &[]);
    assert!(rig.maps.get().frontends.contains_key(&marker));
}

#[test]
fn what_does_not_fit_is_reported_with_map_and_flag_and_fits_later() {
    let limits = Limits { backends: 4, ..Limits::default() };
    let mut rig = Rig::new(MemoryMaps::new(limits), limits);
    let mut wish = Wish::from([(name(1), web(1, None, &[1, 2])), (name(2), web(2, None, &[1, 2]))]);
    let _first = ops(&mut rig, &wish, &[1, 2]);
    let problems: Vec<String> = rig.planner.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "map LB4_BACKENDS: full (4 entries): Service default/web-2 not programmed as a whole; start the agent with a larger --max-backends"
        ]
    );
    assert_eq!(rig.maps.get().backends.len(), 3, "what fits is there");
    let _before = wish.remove(&name(1));
    let _ops = ops(&mut rig, &wish, &[1]);
    rig.now += Duration::from_secs(2);
    rig.planner.release(rig.planner.gone_before(rig.now), rig.now);
    let _ops = ops(&mut rig, &wish, &[]);
    let wake = rig.planner.wake().expect("freed ids rest");
    assert!(wake > rig.now);
    let _ops = ops(&mut rig, &wish, &[]);
    assert_eq!(rig.planner.problems(), []);
    assert_eq!(rig.maps.get().backends.len(), 2);
}

#[test]
fn one_service_that_cannot_be_written_does_not_hold_up_the_others() {
    let wish: Wish = (1..=3).map(|i| (name(i), web(i, None, &[1]))).collect();
    let mut rig = Rig::new(FaultyMaps::new(MemoryMaps::new(Limits::default())), Limits::default());
    rig.planner.mark(wish.keys().cloned());
    let mut twin = self::rig();
    twin.planner.mark(wish.keys().cloned());
    let plan = twin.planner.plan(&wish, twin.now);
    let services = plan.ops.iter().enumerate();
    let mut services = services.filter(|(_, op)| matches!(op, Op::PutService(..)));
    let (third, _) = services.next_back().expect("there are three");
    rig.maps.set_fault(Some(Fault::Nth(third)));
    let error = rig.planner.execute(&wish, &mut rig.maps, rig.now).expect_err("it fails");
    assert_eq!((error.applied, error.map), (third, lb_common::names::LB_SERVICES));
    let vips = rig.contents().frontends.keys().filter(|frontend| !frontend.is_marker()).count();
    assert_eq!(vips, 3, "the attempt one by one got through");
}

#[test]
fn a_new_service_does_not_get_the_id_that_a_stray_frontend_names() {
    let wish = Wish::from([(name(1), web(1, None, &[]))]);
    let vip = Frontend::new(addr("10.96.0.1"), 80, proto::TCP);
    let mut fresh = rig();
    let _first = ops(&mut fresh, &wish, &[1]);
    let value = fresh.contents().frontends[&vip];
    // Damage took the service away and left a frontend that looks just like the one to be written.
    let mut damaged = Contents::default();
    let _before = damaged.frontends.insert(vip, value);
    let mut rig = Rig::new(MemoryMaps::holding(damaged, Limits::default()), Limits::default());
    let _first = ops(&mut rig, &wish, &[1]);
    rig.planner.prune();
    let _strays = ops(&mut rig, &wish, &[]);
    assert_eq!(rig.dump(), fresh.dump());
}
