//! Nobody ever meets half of a change: while policies, affinity and source ranges are changed together with
//! the endpoints, each attempt comes out as it should before the change or as it should after it.
//!
//! SYNC-2, TP-12, AFF-8, SR-3, B15, B20.
#![expect(clippy::unwrap_used, reason = "what surrounds a test may unwrap as a test does")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::{
    cluster::{Cluster, Endpoint, Policy, Service, slices},
    lab::{Addresses, FAMILIES, Family, PATIENCE, Setup, load_balancer_address, until},
    worker::{Outcome, Proto, UdpStyle, Worker},
};

/// How long attempts are made while the objects change.
const DURATION: Duration = Duration::from_secs(20);

/// How many attempts are made in a state, once it is programmed, before the next change: one of each
/// family and protocol, and the one that was under way.
const ALONE: usize = 5;

/// Patience where an answer must come: a kernel tries again after a second, and after two more.
const LONG: Duration = Duration::from_secs(4);

/// Client ports in turn: each comes again after some seconds, while its last flow is remembered.
const PORTS: u16 = 4000;

/// What an attempt may come to: who answers and which source it sees, or that nothing comes back.
#[derive(Clone, Debug, Eq, PartialEq)]
enum May {
    Answer(String, Addresses),
    Drop,
}

/// The objects of one moment, and what they allow.
struct State {
    service: Service,
    endpoints: Vec<Endpoint>,
    may: Vec<May>,
    /// Whether all attempts of one family and protocol get the same answer while it lasts.
    sticky: bool,
}

impl State {
    /// Both objects as one document, which a source takes in at once.
    fn yaml(&self) -> String {
        format!("{}{}", self.service.yaml(), slices(&self.service, &self.endpoints))
    }

    fn allows(&self, outcome: &Outcome, family: Family) -> bool {
        self.may.iter().any(|may| match may {
            May::Drop => *outcome == Outcome::Timeout,
            May::Answer(by, source) => {
                outcome.by() == Some(by) && outcome.source() == Some(source.ip(family))
            }
        })
    }
}

/// A Service that changes between two states under somebody's attempts.
struct Change<'a> {
    name: &'static str,
    by: &'a Worker,
    to: [SocketAddr; 2],
    /// The client's addresses, where it shall use each port again after [`PORTS`] attempts.
    from: Option<Addresses>,
    /// How long an answer is waited for.
    patience: Duration,
    states: [State; 2],
}

/// When a state began to be written, and when it was programmed on the node that is asked.
struct Spell {
    written: Instant,
    programmed: Instant,
    state: usize,
}

struct Attempt {
    begun: Instant,
    ended: Instant,
    family: Family,
    proto: Proto,
    outcome: Outcome,
}

impl Change<'_> {
    fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }

    /// Changes to and fro until the time is up.
    fn alternate(&self, cluster: &Cluster, end: Instant, made: &AtomicUsize) -> Vec<Spell> {
        let mut spells = Vec::new();
        for turn in 0.. {
            let index = turn % 2;
            let state = &self.states[index];
            let written = Instant::now();
            cluster.directory.write(&self.file(), &state.yaml()).unwrap();
            cluster.settle_on(0, &state.service, &state.endpoints).unwrap();
            spells.push(Spell { written, programmed: Instant::now(), state: index });
            if Instant::now() > end {
                break;
            }
            // The state is to be met by attempts that see nothing else.
            let enough = made.load(Ordering::Relaxed) + ALONE;
            until("attempts that see one state", PATIENCE, || {
                Ok((made.load(Ordering::Relaxed) >= enough).then_some(()))
            })
            .unwrap();
        }
        spells
    }

    fn attempts(&self, stop: &AtomicBool, made: &AtomicUsize, lost: &AtomicU32) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let mut ports = (0..PORTS).cycle();
        while !stop.load(Ordering::Relaxed) {
            let port = 10_000 + ports.next().unwrap_or(0);
            for (family, to) in FAMILIES.into_iter().zip(self.to) {
                let from = self.from.map(|addresses| addresses.at(family, port));
                for proto in [Proto::Tcp, Proto::Udp] {
                    let begun = Instant::now();
                    let ask = || {
                        let style = UdpStyle::Connected;
                        self.by.probe_with(proto, style, to, from, self.patience).unwrap()
                    };
                    let mut outcome = ask();
                    if proto == Proto::Udp && self.answers() && is_lost(&outcome) {
                        // The flow ends with its backend, and the answer that is on its way with it.
                        println!("{}: the answer to a datagram was lost", self.name);
                        let _ = lost.fetch_add(1, Ordering::Relaxed);
                        outcome = ask();
                    }
                    let ended = Instant::now();
                    attempts.push(Attempt { begun, ended, family, proto, outcome });
                    made.store(attempts.len(), Ordering::Relaxed);
                }
            }
        }
        attempts
    }

    /// Whether every attempt is to be answered.
    fn answers(&self) -> bool {
        !self.states.iter().any(|state| state.may.contains(&May::Drop))
    }

    /// Attempts that came out as no state allows that was there meanwhile.
    fn judge(&self, spells: &[Spell], attempts: &[Attempt]) -> Vec<String> {
        let mut wrong = Vec::new();
        for attempt in attempts {
            let there = |at: usize| {
                let gone = spells.get(at + 1).map(|next| next.programmed);
                // The first state was there before the attempts began.
                (at == 0 || spells[at].written <= attempt.ended)
                    && gone.is_none_or(|gone| attempt.begun <= gone)
            };
            let states: BTreeSet<usize> =
                (0..spells.len()).filter(|at| there(*at)).map(|at| spells[at].state).collect();
            let allowed = states
                .iter()
                .any(|state| self.states[*state].allows(&attempt.outcome, attempt.family));
            if !allowed {
                let since = |at: Instant| attempt.begun.saturating_duration_since(at).as_millis();
                let last = spells.iter().rev().find(|spell| spell.written <= attempt.begun);
                let age = last.map(|spell| (since(spell.written), since(spell.programmed)));
                wrong.push(format!(
                    "{}, {} {}: {} in states {states:?}, begun {age:?} ms after the last change was \
                     written and seen",
                    self.name, attempt.family, attempt.proto, attempt.outcome
                ));
            }
        }
        wrong.extend(self.wavering(spells, attempts));
        wrong
    }

    /// Attempts within one sticky spell that were not all answered by the same backend.
    fn wavering(&self, spells: &[Spell], attempts: &[Attempt]) -> Vec<String> {
        let mut wrong = Vec::new();
        for pair in spells.windows(2).filter(|pair| self.states[pair[0].state].sticky) {
            let [spell, next] = pair else { continue };
            for family in FAMILIES {
                for proto in [Proto::Tcp, Proto::Udp] {
                    let by: BTreeSet<_> = attempts
                        .iter()
                        .filter(|a| a.family == family && a.proto == proto)
                        .filter(|a| a.begun > spell.programmed && a.ended < next.written)
                        .filter_map(|a| a.outcome.by())
                        .collect();
                    if by.len() > 1 {
                        wrong.push(format!(
                            "{}, {family} {proto}: one client got {by:?}",
                            self.name
                        ));
                    }
                }
            }
        }
        wrong
    }
}

/// Whether an answer was lost with a backend, which a socket that was connected to that is told.
fn is_lost(outcome: &Outcome) -> bool {
    let aborted = std::io::Error::from_raw_os_error(libc::ECONNABORTED).to_string();
    *outcome == Outcome::Timeout || matches!(outcome, Outcome::Failed(why) if *why == aborted)
}

fn service(name: &str, number: u8) -> Service {
    let node_port = Some(30000 + u16::from(number));
    Service::new(name, number)
        .load_balancer(load_balancer_address(number))
        .port("tcp", Proto::Tcp, 80, 8080, node_port)
        .port("udp", Proto::Udp, 80, 8080, node_port)
}

fn changes(cluster: &Cluster) -> [Change<'_>; 3] {
    let [one, two] = &cluster.lab.nodes[..] else { panic!("two nodes") };
    let outside = &cluster.lab.client;
    let (here, there, also_there) = (&one.pods[1], &two.pods[0], &two.pods[1]);
    let answer = |by: &str, source| May::Answer(by.to_owned(), source);
    let at = |addresses: Addresses, port| FAMILIES.map(|family| addresses.at(family, port));
    // Had the new policy met the old endpoints, there would be no local one: a drop. Had the new endpoints
    // met the old policy, the one over there would still answer.
    let policy = Change {
        name: "policy",
        by: &outside.worker,
        to: at(one.addresses, 30001),
        from: Some(outside.addresses),
        patience: LONG,
        states: [
            State {
                service: service("policy", 1),
                endpoints: vec![Endpoint::pod(there)],
                may: vec![answer(there.name(), one.addresses)],
                sticky: false,
            },
            State {
                service: service("policy", 1).policies(Policy::Local, Policy::Local),
                endpoints: vec![Endpoint::pod(here), Endpoint::pod(also_there)],
                may: vec![answer(here.name(), outside.addresses)],
                sticky: false,
            },
        ],
    };
    // The new endpoints are for nobody; who got one of them had met them with the old ranges.
    let asking = &one.pods[0];
    let own = [format!("{}/32", asking.addresses.v4), format!("{}/128", asking.addresses.v6)];
    let ranges = Change {
        name: "ranges",
        by: &asking.worker,
        to: at(load_balancer_address(2), 80),
        from: None,
        // Half of the attempts are to be dropped.
        patience: Duration::from_millis(300),
        states: [
            State {
                service: service("ranges", 2).from_ranges(own),
                endpoints: vec![Endpoint::pod(here)],
                may: vec![answer(here.name(), asking.addresses)],
                sticky: false,
            },
            State {
                service: service("ranges", 2).from_ranges(["198.51.100.0/24", "2001:db8:51::/48"]),
                endpoints: vec![Endpoint::pod(there)],
                may: vec![May::Drop],
                sticky: false,
            },
        ],
    };
    let node = one.addresses;
    let affinity = Change {
        name: "affinity",
        by: &one.host,
        to: at(service("affinity", 3).addresses, 80),
        from: None,
        patience: LONG,
        states: [
            State {
                service: service("affinity", 3),
                endpoints: vec![Endpoint::pod(here)],
                may: vec![answer(here.name(), node)],
                sticky: false,
            },
            State {
                service: service("affinity", 3).affinity(100),
                endpoints: vec![Endpoint::pod(there), Endpoint::pod(also_there)],
                may: vec![answer(there.name(), node), answer(also_there.name(), node)],
                sticky: true,
            },
        ],
    };
    [policy, ranges, affinity]
}

#[test]
fn a_change_shows_whole_or_not_at_all() {
    let Some(cluster) = Cluster::start_or_skip(Setup::default(), &["--xdp=off"]) else { return };
    cluster.lab.serve(8080).unwrap();
    cluster.lab.route_services_by(0).unwrap();
    let changes = changes(&cluster);
    for change in &changes {
        cluster.directory.write(&change.file(), &change.states[0].yaml()).unwrap();
        cluster.settle(&change.states[0].service, &change.states[0].endpoints).unwrap();
    }
    let end = Instant::now() + DURATION;
    let stop = AtomicBool::new(false);
    let lost = AtomicU32::new(0);
    let made = [const { AtomicUsize::new(0) }; 3];
    let (cluster, stop, lost) = (&cluster, &stop, &lost);
    let mut wrong = Vec::new();
    thread::scope(|threads| {
        let running: Vec<_> = changes
            .iter()
            .zip(&made)
            .map(|(change, made)| {
                let alternating = threads.spawn(move || change.alternate(cluster, end, made));
                let trying = threads.spawn(move || change.attempts(stop, made, lost));
                (change, alternating, trying)
            })
            .collect();
        let mut done = Vec::new();
        for (change, alternating, trying) in running {
            done.push((change, alternating.join(), trying));
        }
        stop.store(true, Ordering::Relaxed);
        for (change, spells, trying) in done {
            let (spells, attempts) = (spells.unwrap(), trying.join().unwrap());
            println!("{}: {} attempts, {} changes", change.name, attempts.len(), spells.len());
            assert!(spells.len() > 6, "{}: too few changes to show anything", change.name);
            for state in 0..2 {
                let met = attempts.iter().filter(|attempt| {
                    change.states[state].allows(&attempt.outcome, attempt.family)
                });
                assert!(met.count() > 10, "{}: state {state} was hardly met", change.name);
            }
            wrong.extend(change.judge(&spells, &attempts));
        }
    });
    // One in flight for each third change would be no accident any more.
    assert!(lost.load(Ordering::Relaxed) <= 10, "{lost:?} answers to datagrams were lost");
    if !wrong.is_empty() {
        let node = &cluster.agents[0].commands;
        let counted = node.lb(&["dump"]).and_then(|mut lb| Ok(lb.output()?)).unwrap();
        let counted = String::from_utf8_lossy(&counted.stdout);
        let count = wrong.len();
        panic!("{count} attempts met half a change:\n{}\n{counted}", wrong.join("\n"));
    }
}
