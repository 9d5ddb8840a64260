//! Properties of what policies, affinity, source ranges and addresses of load balancers lead to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{BackendState, FrontendKind, ServiceInfo};
use proptest::prelude::*;

use super::{
    super::{BackendId, Frontend, Limits, ServiceId},
    Rig, State, check_complete, check_consistent, node, resolve,
    wish::{Wish, histories, wishes},
};
use crate::{
    maps::{Contents, Dump, Fault, FaultyMaps, Maps, MemoryMaps},
    model::{DesiredService, ObjectName},
};

/// A planner that follows wishes.
type Follower<M> = Rig<M, Wish>;

impl<M: Maps> Follower<M> {
    /// Says what changed.
    fn wish(&mut self, wish: &Wish) {
        let names: BTreeSet<_> = self.desired.keys().chain(wish.keys()).cloned().collect();
        let differs = |name: &ObjectName| self.desired.get(name) != wish.get(name);
        self.planner.mark(names.into_iter().filter(differs));
        self.desired = wish.clone();
    }

    fn follow(&mut self, wish: &Wish) {
        self.wish(wish);
        self.settle();
    }
}

fn follower() -> Follower<MemoryMaps> {
    Follower::following(Wish::new(), MemoryMaps::new(Limits::default()), Limits::default())
}

fn fail(why: String) -> TestCaseError {
    TestCaseError::fail(why)
}

/// Which backends of which Service stand in which sets.
fn members(contents: &Contents) -> BTreeMap<(ServiceInfo, std::net::IpAddr), u8> {
    let serving = contents.backends.values().filter(|b| b.state == BackendState::Serving);
    serving.map(|b| ((contents.services[&ServiceId(b.service.0)], b.addr), b.sets)).collect()
}

/// What each frontend shall be.
fn expected(wish: &Wish, frontend: &Frontend) -> Option<(State, String)> {
    let node = node();
    let found = |kind: FrontendKind| {
        wish.iter().find_map(|(name, DesiredService { ports })| {
            let port = ports.first()?;
            let at = |addrs: &[std::net::IpAddr], port: u16| {
                addrs.contains(&frontend.addr) && frontend.port == port
            };
            let has = match kind {
                FrontendKind::ClusterIp => at(port.vip.as_slice(), port.port),
                FrontendKind::LoadBalancer => at(&port.load_balancer_ips, port.port),
                FrontendKind::ExternalIp => at(&port.external_ips, port.port),
                FrontendKind::NodePort => {
                    port.node_port == Some(frontend.port) && node.node_port.contains(&frontend.addr)
                }
                FrontendKind::Marker => false,
            };
            has.then_some((name, port, kind))
        })
    };
    let (name, port, kind) = [
        FrontendKind::ClusterIp,
        FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp,
        FrontendKind::NodePort,
    ]
    .into_iter()
    .find_map(found)?;
    let local = crate::model::TrafficPolicy::Local;
    let policy =
        if kind == FrontendKind::ClusterIp { port.internal_policy } else { port.external_policy };
    let any_local = port.internal_policy == local || port.external_policy == local;
    let members = |of: &dyn Fn(&crate::model::DesiredBackend) -> bool| {
        port.backends.iter().filter(|b| of(b)).map(|b| (b.addr, b.port)).collect::<Vec<_>>()
    };
    let ranges =
        port.source_ranges.as_ref().filter(|_| kind == FrontendKind::LoadBalancer).map(|nets| {
            let nets = nets.iter().filter(|net| net.addr().is_ipv4());
            let mut all: BTreeSet<_> = nets.map(|net| Some(net.trunc())).collect();
            if all.iter().flatten().any(|net| node.primary.iter().any(|addr| net.contains(addr))) {
                all.extend(port.load_balancer_ips.iter().map(|addr| Some((*addr).into())));
            }
            all
        });
    let state = State {
        kind: kind as u8,
        local_policy: policy == local,
        affinity: port.affinity.map_or(0, |seconds| seconds.get()),
        cluster: members(&|b| b.cluster),
        local: if any_local { members(&|b| b.local) } else { Vec::new() },
        ranges,
    };
    Some((state, name.to_string()))
}

/// Whether the maps hold what is wished, nothing more and nothing less.
fn check_wish(contents: &Contents, wish: &Wish) -> Result<(), String> {
    check_complete(contents)?;
    for (frontend, value) in contents.frontends.iter().filter(|(frontend, _)| !frontend.is_marker())
    {
        let state = resolve(contents, frontend)?;
        let info = &contents.services[&ServiceId(value.service)];
        let there = state.map(|state| (state, format!("{}/{}", info.namespace(), info.name())));
        let wanted = expected(wish, frontend);
        if there != wanted {
            return Err(format!("{frontend} is {there:?}, not {wanted:?}"));
        }
    }
    for port in wish.values().flat_map(|service| &service.ports) {
        let addrs = port.vip.iter().chain(&port.external_ips).chain(&port.load_balancer_ips);
        let frontends = addrs.map(|addr| Frontend::new(*addr, port.port, port.proto));
        let nodes = node().node_port.into_iter().filter(std::net::IpAddr::is_ipv4);
        let nodes: Vec<_> = nodes.collect();
        let node_ports = port
            .node_port
            .iter()
            .flat_map(|n| nodes.iter().map(|a| Frontend::new(*a, *n, port.proto)));
        for frontend in frontends.chain(node_ports) {
            if !contents.frontends.contains_key(&frontend) {
                return Err(format!("{frontend} is missing"));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// SYNC-2, B15, B20, SVC-17, SR-1, EIP-2, TP-1: after every prefix of a plan each frontend
    /// leads to its old or its new state (backends of both sets, policy, affinity, source ranges),
    /// never to a mix, and affinity finds a backend only in sets of which it is or was a member.
    #[test]
    fn a_frontend_changes_at_once(before in wishes(), after in wishes()) {
        let mut follower = follower();
        follower.follow(&before);
        let old = follower.contents();
        check_wish(&old, &before).map_err(fail)?;

        follower.wish(&after);
        follower.now += Duration::from_secs(2);
        let plan = follower.planner.plan(&after, follower.now);
        let mut new = MemoryMaps::holding(old.clone(), Limits::default());
        new.apply(&plan.ops).expect("it fits");
        let (were, will_be) = (members(&old), members(new.get()));
        let mut maps = MemoryMaps::holding(old.clone(), Limits::default());
        for op in &plan.ops {
            maps.apply(std::slice::from_ref(op)).expect("it fits");
            check_consistent(maps.get()).map_err(|why| fail(format!("{why} after {op}")))?;
            let all = old.frontends.keys().chain(new.get().frontends.keys());
            for frontend in all.collect::<BTreeSet<_>>() {
                let is = resolve(maps.get(), frontend).map_err(fail)?;
                let was = resolve(&old, frontend).map_err(fail)?;
                let will = resolve(new.get(), frontend).map_err(fail)?;
                prop_assert!(is == was || is == will, "{frontend} is {is:?} after {op}");
            }
            for (backend, sets) in members(maps.get()) {
                let of = |all: &BTreeMap<_, u8>| all.get(&backend).copied().unwrap_or_default();
                let allowed = of(&were) | of(&will_be);
                prop_assert!(sets & !allowed == 0, "{} in {sets}, not {allowed} after {op}", backend.1);
            }
        }
        let ops = plan.ops.len();
        follower.planner.commit(plan, ops, follower.now);
        // Nobody else changed anything.
        prop_assert_eq!(follower.planner.differences(new.get()), BTreeMap::new());
        follower.maps = new;
        // Who waited for something that is free now gets it.
        follower.settle();
        check_wish(&follower.contents(), &after).map_err(fail)?;
    }

    /// Whatever came before, the maps end as if nothing had, and each step holds what is wished.
    #[test]
    fn histories_leave_no_trace(history in histories()) {
        let mut follower = follower();
        for wish in &history {
            follower.follow(wish);
            check_wish(&follower.contents(), wish).map_err(fail)?;
            let contents = follower.contents();
            prop_assert_eq!(follower.planner.differences(&contents), BTreeMap::new());
            follower.release_all();
        }
        let mut fresh = self::follower();
        fresh.follow(history.last().expect("it has steps"));
        prop_assert_eq!(follower.dump(), fresh.dump());
    }

    /// A restarted planner writes nothing, and knows what to do next.
    #[test]
    fn a_restart_keeps_sets_and_ranges(before in wishes(), after in wishes(), coming in wishes()) {
        let mut follower = follower();
        follower.follow(&before);
        follower.follow(&after);
        let contents = follower.contents();
        let mut restarted = Follower::following(Wish::new(), FaultyMaps::new(follower.maps.clone()), Limits::default());
        restarted.planner.prune();
        restarted.follow(&after);
        prop_assert_eq!(restarted.maps.tried, 0, "{}", Dump::with_ids(&contents));
        restarted.follow(&coming);
        check_wish(&restarted.contents(), &coming).map_err(fail)?;
        restarted.follow(&Wish::new());
        restarted.release_all();
        prop_assert_eq!(Contents { slots: Vec::new(), ..restarted.contents() }, Contents::default());
    }

    /// Wherever maps fail, the next attempts lead to the same end, and nothing is left behind.
    #[test]
    fn failures_heal_with_sets_and_ranges(before in wishes(), after in wishes(), nth in 0usize..60) {
        let mut plain = follower();
        plain.follow(&after);
        let maps = FaultyMaps::new(MemoryMaps::new(Limits::default()));
        let mut faulty = Follower::following(Wish::new(), maps, Limits::default());
        faulty.maps.set_fault(Some(Fault::Nth(nth)));
        faulty.follow(&before);
        faulty.maps.set_fault(Some(Fault::Nth(nth)));
        faulty.follow(&after);
        faulty.release_all();
        prop_assert_eq!(faulty.dump(), plain.dump());
        check_wish(&faulty.contents(), &after).map_err(fail)?;
        faulty.follow(&Wish::new());
        faulty.release_all();
        prop_assert_eq!(Contents { slots: Vec::new(), ..faulty.contents() }, Contents::default());
        faulty.now += Duration::from_secs(2);
        let _plan = faulty.planner.plan(&faulty.desired, faulty.now);
        prop_assert_eq!(faulty.planner.actual.sources.ids.take(), Some(1), "every id is free again");
    }

    /// Where maps are too small, a load balancer's address is open to nobody who is not allowed:
    /// rather to none at all; and what does not fit is told.
    #[test]
    fn what_does_not_fit_is_closed(before in wishes(), after in wishes(), size in 0u32..6, slots in 2u32..20) {
        let limits = Limits { ranges: size, slots, ..Limits::default() };
        let mut follower = Follower::following(Wish::new(), MemoryMaps::new(limits), limits);
        for wish in [&before, &after] {
            follower.wish(wish);
            for _ in 0..5 {
                follower.now += Duration::from_secs(2);
                let plan = follower.planner.plan(&follower.desired, follower.now);
                follower.maps.apply(&plan.ops).expect("the planner counts");
                let ops = plan.ops.len();
                follower.planner.commit(plan, ops, follower.now);
                check_consistent(&follower.contents()).map_err(fail)?;
                let mut closed = false;
                for (frontend, value) in follower.contents().frontends {
                    if value.kind != FrontendKind::LoadBalancer as u8 {
                        continue;
                    }
                    let is = resolve(follower.maps.get(), &frontend).map_err(fail)?;
                    // Of a Service that does not fit, frontends may stay that it does not want.
                    let Some((wanted, _)) = expected(wish, &frontend) else { continue };
                    let is = is.expect("it is there").ranges;
                    closed |= is != wanted.ranges;
                    // Rather fewer than allowed than one who is not.
                    let safe = match (&is, &wanted.ranges) {
                        (Some(is), Some(wanted)) => is.is_subset(wanted),
                        (None, Some(_)) => false,
                        (_, None) => true,
                    };
                    prop_assert!(safe, "{frontend}: {is:?}");
                }
                prop_assert!(!closed || !follower.planner.problems().is_empty());
            }
            prop_assert!(follower.planner.is_idle());
        }
        follower.follow(&Wish::new());
        follower.release_all();
        prop_assert_eq!(Contents { slots: Vec::new(), ..follower.contents() }, Contents::default());
        let unused = follower.planner.gone_before(follower.now);
        prop_assert_eq!(unused, [] as [BackendId; 0]);
    }
}
