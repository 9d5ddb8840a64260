//! The loaded programs and the library on the host agree on every packet.
//!
//! `LB_TEST_NIGHTLY=1` runs more than a million packets; `LB_TEST_SEED` repeats a run.

use std::{
    collections::BTreeMap,
    env,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{Hook, Reason};
use lb_tests::{
    lab,
    packet::{Generator, Twin, inside},
};

/// One for each core of a small machine.
const THREADS: u64 = 2;
/// Flows are compared and forgotten after so many packets.
const EPOCH: u64 = 5_000;

#[test]
fn kernel_and_host_agree_on_random_packets() {
    if let Some(reason) = lab::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    let nightly = env::var_os("LB_TEST_NIGHTLY").is_some();
    let packets: u64 = if nightly { 1_000_000 } else { 60_000 };
    let seed = env::var("LB_TEST_SEED").map_or_else(
        |_| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            now.as_secs() ^ u64::from(now.subsec_nanos()) << 32
        },
        |seed| seed.parse().expect("LB_TEST_SEED is a number"),
    );
    println!("LB_TEST_SEED={seed}");
    let started = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| std::thread::spawn(move || run(seed.wrapping_add(thread), packets / THREADS)))
        .collect();
    let mut fates: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for thread in threads {
        match thread.join().expect("a thread that panics said why") {
            Ok(counts) => {
                for ((hook, reason), count) in counts {
                    *fates.entry((hook.name(), reason.name())).or_default() += count;
                }
            }
            Err(error) => panic!("with LB_TEST_SEED={seed}: {error:#}"),
        }
    }
    println!("{packets} packets in {:.1} s", started.elapsed().as_secs_f32());
    for ((hook, reason), count) in &fates {
        println!("{hook:<13} {reason:<20} {count:>8}");
    }
    // What random packets must have met, or the generator tests less than it says.
    for reason in [
        Reason::NotService,
        Reason::NotIp,
        Reason::OtherProtocol,
        Reason::Truncated,
        Reason::Fragment,
        Reason::Ipv4Options,
        Reason::Ipv6Extension,
        Reason::Icmp,
        Reason::Malformed,
        Reason::OtherHost,
        Reason::LeftToTc,
        Reason::NoFlow,
        Reason::NewFlow,
        Reason::Forward,
        Reason::Reply,
        Reason::NoBackend,
        Reason::UnknownPort,
        Reason::StrayPacket,
        Reason::FlowTableFull,
        Reason::Error,
        Reason::BadSource,
        Reason::StrayReset,
        Reason::Inconsistent,
        Reason::NoLocalBackend,
        Reason::SourceRange,
        Reason::UnknownProtocol,
        Reason::RefuseFailed,
    ] {
        assert!(
            fates.keys().any(|(_, name)| *name == reason.name()),
            "no {} at all",
            reason.name()
        );
    }
    // The shortcut at XDP, the second legs of the road, and errors on both sides of it.
    for (hook, reason) in [
        (Hook::Xdp, Reason::Forward),
        (Hook::Xdp, Reason::Reply),
        (Hook::ExternalOut, Reason::Forward),
        (Hook::ExternalIn, Reason::Error),
        (Hook::ExternalOut, Reason::Error),
        (Hook::LoopbackOut, Reason::Error),
        (Hook::PodOut, Reason::Error),
    ] {
        let met = fates.contains_key(&(hook.name(), reason.name()));
        assert!(met, "no {} at {} at all", reason.name(), hook.name());
    }
}

fn run(seed: u64, packets: u64) -> Result<BTreeMap<(Hook, Reason), u64>> {
    inside(|ground| {
        let mut twin = Twin::new(&ground)?;
        let mut generator = Generator::new(seed, ground);
        for number in 0..packets {
            let case = generator.next(&twin.scene);
            if let Err(difference) = twin.run(&case)? {
                bail!("packet {number} of seed {seed}: {difference}");
            }
            if generator.below(300) == 0 {
                let backend = generator.below(100);
                twin.toggle_backend(backend)?;
            }
            if generator.below(2000) == 0 {
                twin.next_generation()?;
            }
            if generator.below(1000) == 0 {
                let [redirects, rules] = [generator.below(4) != 0, generator.below(3) == 0];
                twin.set_ways(redirects, rules)?;
            }
            if number % EPOCH == EPOCH - 1 || number + 1 == packets {
                twin.compare().with_context(|| format!("after packet {number} of seed {seed}"))?;
                twin.clear_flows()?;
            }
        }
        ensure!(
            !twin.scene.v4.tables.affinity.borrow().is_empty()
                && !twin.scene.v6.tables.affinity.borrow().is_empty(),
            "no client was remembered"
        );
        Ok(twin.reasons().map(|(hook, reason, count)| ((hook, reason), count)).collect())
    })
}
