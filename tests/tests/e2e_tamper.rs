//! What others do to a running agent's datapath is undone.

use std::{fs, time::Duration};

use lb_tests::{
    cluster::{Cluster, Endpoint, Service},
    lab::{FAMILIES, Setup, until},
    worker::{Outcome, Proto},
};
use lb_userspace::{
    datapath::{links, paths::PinPaths},
    maps::{Dump, Maps as _, bpf::Access, kernel::KernelMaps},
    plan::{Op, Range},
};

/// The agent looks after its pins each 10 s and after its maps each half minute.
const LONG: Duration = Duration::from_secs(150);

/// SYNC-6: entries that somebody deleted or entered, and pins that somebody removed, are there again, and
/// nothing is repaired that nobody damaged.
#[test]
fn a_running_agent_undoes_what_others_do_to_its_datapath() {
    let Some(cluster) = Cluster::start_or_skip(Setup { pods: vec![1], ..Setup::default() }, &[])
    else {
        return;
    };
    cluster.lab.serve(8080).unwrap();
    let web = Service::new("web", 20).port("tcp", Proto::Tcp, 80, 8080, Some(30080));
    let web = web.exposed(20).from_ranges(["10.0.0.0/8", "2001:db8:1::/48"]);
    let endpoints: Vec<_> = cluster.lab.pods().map(Endpoint::pod).collect();
    cluster.put(&web, &endpoints).unwrap();
    let agent = &cluster.agents[0];
    let counter = |name: &str| -> anyhow::Result<u64> {
        let status = agent.status()?;
        Ok(status["counters"][name].as_u64().unwrap_or(0))
    };
    until("a comparison of the maps", LONG, || Ok((counter("compared")? > 0).then_some(())))
        .unwrap();
    assert_eq!(counter("healed").unwrap(), 0, "nobody did anything");

    let paths = PinPaths::new(agent.commands.pin_dir());
    let mut maps = KernelMaps::open(&paths.maps(), Access::ReadWrite).unwrap();
    let good = maps.contents().unwrap();
    let frontends = good.frontends.keys().copied().map(Op::DeleteFrontend);
    // One that lets everybody into the set, and all those that belong to it.
    let set = good.ranges.first().expect("the Service is restricted").set;
    let open = Op::PutRange(Range::new(set, "0.0.0.0/0".parse().unwrap()));
    let ranges = good.ranges.iter().copied().map(Op::DeleteRange);
    let ops: Vec<Op> = frontends.chain(ranges).chain([open]).collect();
    maps.apply(&ops).unwrap();
    let shown = Dump::new(&good).to_string();
    until("the entries", LONG, || {
        Ok((Dump::new(&maps.contents()?).to_string() == shown).then_some(()))
    })
    .unwrap();
    let healed = counter("healed").unwrap();

    let pins = |dir: &std::path::Path| links::pins_in(dir).unwrap();
    let before = (pins(&paths.maps()), pins(&paths.links()));
    for dir in [paths.maps(), paths.links()] {
        for pin in pins(&dir) {
            fs::remove_file(dir.join(pin)).unwrap();
        }
    }
    until("the pins", LONG, || {
        Ok((pins(&paths.maps()) == before.0 && pins(&paths.links()) == before.1).then_some(()))
    })
    .unwrap();
    until("the note of it", LONG, || Ok((counter("healed")? > healed).then_some(()))).unwrap();
    for family in FAMILIES {
        let at = cluster.lab.nodes[0].addresses.at(family, 30080);
        let answered = || {
            Ok(matches!(cluster.lab.client.worker.probe(Proto::Tcp, at)?, Outcome::Answered(_))
                .then_some(()))
        };
        until("an answer", LONG, answered).unwrap();
    }
}
