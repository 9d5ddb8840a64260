//! The same packet through the loaded program and through the library on the host.
//!
//! Kernel and host hold the same maps and run in lockstep; after each packet verdict, bytes and
//! counter must agree. Where the program draws random numbers the host follows: it asks the
//! kernel's flow entry what was drawn. Everything else is compared as it is.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
};

use anyhow::{Result, ensure};
use lb_common::{BackendState, FlowValue, Hook, MacAddr, Reason};
use lb_ebpf::{
    Decision, Place, Verdict, Work,
    header::{ETH_P_IP, ETH_P_IPV6},
    host::MemoryFrame,
    limit, process,
    refuse::Answer,
};

use super::{
    follow::Follower,
    generate::Case,
    ground::Ground,
    kernel::{Kernel, Side},
    scene::{Scene, World},
};

/// Kernel and host, side by side.
pub struct Twin {
    /// The loaded programs.
    pub kernel: Kernel,
    /// What the host has.
    pub scene: Scene,
    ground: Ground,
    counted: BTreeMap<(Hook, Reason), u64>,
    packets: u32,
    out: Vec<u8>,
}

/// After so many packets the kernel may refuse as many as ever again: less than a CPU may refuse.
const REFILLED: u32 = limit::REFUSALS / 2;

/// What both decided and the bytes afterwards, or where they disagree.
pub type Agreed = Result<(Decision, Vec<u8>), Box<Difference>>;

/// Where kernel and host disagreed.
#[derive(Debug)]
pub struct Difference {
    /// The packet.
    pub case: Case,
    /// What disagreed: the kernel's, the host's.
    pub found: String,
    /// What the host decided.
    pub host: Decision,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, found, host } = self;
        write!(f, "{:?} on device {}: {found}\nhost: {host:?}\n", case.hook, case.ifindex)?;
        write!(f, "frame: {}", hex(&case.frame))
    }
}

impl Twin {
    /// Loads the programs and fills both sides alike.
    ///
    /// # Errors
    /// When the programs cannot be loaded.
    pub fn new(ground: &Ground) -> Result<Self> {
        let scene = Scene::new(ground);
        let mut kernel = Kernel::load()?;
        kernel.fill(&scene)?;
        let (ground, counted) = (*ground, BTreeMap::new());
        Ok(Self { kernel, scene, ground, counted, packets: 0, out: Vec::new() })
    }

    /// Runs a packet through both; returns what the host decided and its bytes afterwards.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn run(&mut self, case: &Case) -> Result<Agreed> {
        let Case { hook, ifindex, frame } = case;
        self.packets += 1;
        if self.packets.is_multiple_of(REFILLED) {
            self.kernel.allow_refusals()?;
        }
        let code = self.kernel.run(*hook, *ifindex, frame, &mut self.out)?;
        let mut place = Place::new(*hook, *ifindex);
        let addressed = Addressed::of(frame, self.ground.mac_of(*ifindex));
        place.bridged = *hook == Hook::ExternalOut && addressed == Addressed::Another;
        let mut host = MemoryFrame { bytes: frame.clone(), segment_size: 0 };
        let ethertype = frame.get(12..14).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let decision = match ethertype {
            _ if addressed.passes(*hook, ethertype) => Decision::pass(Reason::OtherHost),
            Some(ETH_P_IP) => follow(&self.scene.v4, &self.kernel.v4, &mut host, place),
            Some(ETH_P_IPV6) => follow(&self.scene.v6, &self.kernel.v6, &mut host, place),
            Some(_) => Decision::pass(Reason::NotIp),
            None => Decision::pass(Reason::Truncated),
        };
        let count = self.counted.entry((*hook, decision.reason)).or_default();
        *count += 1;
        let counted = self.kernel.counted(*hook, decision.reason)?;
        let wanted = code_of(*hook, *ifindex, decision);
        let found = if code != wanted {
            let all = self.kernel.all_counted()?;
            format!("return code {code}, not {wanted}; counted so far {all:?}")
        } else if counted != *count {
            let all = self.kernel.all_counted()?;
            format!("counted {counted} times, not {count}, as {:?}: {all:?}", decision.reason)
        } else if self.out != host.bytes {
            format!("the bytes differ\nkernel {}\nhost   {}", hex(&self.out), hex(&host.bytes))
        } else {
            return Ok(Ok((decision, host.bytes)));
        };
        let case = case.clone();
        Ok(Err(Box::new(Difference { case, found, host: decision })))
    }

    /// Compares all flows, counters of reasons and of backends.
    ///
    /// # Errors
    /// When they differ, or cannot be read.
    pub fn compare(&self) -> Result<()> {
        same_flows(&self.scene.v4, &self.kernel.v4)?;
        same_flows(&self.scene.v6, &self.kernel.v6)?;
        for (word, count) in self.kernel.all_counted()? {
            let ours = self.counted.iter().find(|((h, r), _)| (h.name(), r.name()) == word);
            ensure!(ours.map(|(_, n)| *n) == Some(count), "{word:?} counted {count}: {ours:?}");
        }
        let stats = [&self.scene.v4.tables.stats, &self.scene.v6.tables.stats];
        for (id, host) in stats.iter().flat_map(|all| all.borrow().clone()) {
            let kernel = self.kernel.stats(id)?;
            ensure!(kernel == host, "backend {id}: {kernel:?} in the kernel, {host:?} on the host");
        }
        Ok(())
    }

    /// Forgets all flows on both sides.
    ///
    /// # Errors
    /// When the kernel's maps refuse.
    pub fn clear_flows(&mut self) -> Result<()> {
        self.scene.v4.tables.flows.borrow_mut().clear();
        self.scene.v6.tables.flows.borrow_mut().clear();
        self.kernel.v4.clear_flows()?;
        self.kernel.v6.clear_flows()
    }

    /// Lets a backend leave the serving set, or come back; one of those in use, by number.
    ///
    /// # Errors
    /// When the kernel's map refuses.
    pub fn toggle_backend(&mut self, number: usize) -> Result<()> {
        toggle(&mut self.scene.v4, &mut self.kernel.v4, number)?;
        toggle(&mut self.scene.v6, &mut self.kernel.v6, number)
    }

    /// Makes all cached next hops stale.
    ///
    /// # Errors
    /// When the kernel's map refuses.
    pub fn next_generation(&mut self) -> Result<()> {
        self.change(|_, _| {})
    }

    /// Begins a generation in which packets may be redirected past the stack, or not, and rules look at
    /// source addresses, or not.
    ///
    /// # Errors
    /// When the kernel's map refuses.
    pub fn set_ways(&mut self, redirects: bool, source_rules: bool) -> Result<()> {
        self.change(|stack_only, rules| (*stack_only, *rules) = (!redirects, source_rules))
    }

    fn change(&mut self, change: impl Fn(&mut bool, &mut bool)) -> Result<()> {
        let (v4, v6) = (&mut self.scene.v4.env, &mut self.scene.v6.env);
        (v4.generation, v6.generation) = (v4.generation + 1, v6.generation + 1);
        change(&mut v4.stack_only, &mut v4.source_rules);
        change(&mut v6.stack_only, &mut v6.source_rules);
        self.kernel.set_runtime(self.scene.runtime())
    }

    /// How often each fate was met.
    pub fn reasons(&self) -> impl Iterator<Item = (Hook, Reason, u64)> {
        self.counted.iter().map(|((hook, reason), count)| (*hook, *reason, *count))
    }
}

/// To whom a frame is addressed, as the kernel tells (`pkt_type`): a test run derives it from the frame and
/// its device.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Addressed {
    /// To the device.
    Here,
    /// To a group.
    Many,
    /// To another machine.
    Another,
}

impl Addressed {
    fn of(frame: &[u8], device: MacAddr) -> Self {
        match frame.get(..6) {
            Some(to) if *to == device.octets => Self::Here,
            Some(to) if to[0] & 1 != 0 => Self::Many,
            Some(_) | None => Self::Another,
        }
    }

    /// Whether the shell of a hook passes the frame without a look into it.
    fn passes(self, hook: Hook, ethertype: Option<u16>) -> bool {
        match hook {
            Hook::ExternalIn => self != Self::Here,
            Hook::PodIn => self == Self::Many,
            Hook::Xdp => self != Self::Here && matches!(ethertype, Some(ETH_P_IP | ETH_P_IPV6)),
            Hook::PodOut | Hook::ExternalOut | Hook::LoopbackOut | Hook::Socket => false,
        }
    }
}

/// The return code that the shell makes of a decision.
fn code_of(hook: Hook, ifindex: u32, decision: Decision) -> i32 {
    const TC: [i32; 3] = [-1, 7, 2];
    const XDP: [i32; 5] = [2, 4, 1, 3, 0];
    let [pass, redirect, drop, turn, _] =
        if hook == Hook::Xdp { XDP } else { [TC[0], TC[1], TC[2], TC[1], 0] };
    match decision.verdict {
        Verdict::Pass | Verdict::Stack => pass,
        Verdict::Redirect if decision.ifindex == ifindex => turn,
        Verdict::Redirect | Verdict::RedirectNeighbour | Verdict::ToHost | Verdict::Answer => {
            redirect
        }
        Verdict::Drop => drop,
    }
}

fn toggle<A: Answer>(world: &mut World<A>, side: &mut Side<A>, number: usize) -> Result<()> {
    let mut ids: Vec<u32> = world.tables.backends.keys().copied().collect();
    ids.sort_unstable();
    let id = ids[number % ids.len()];
    let backend = world.tables.backends.get_mut(&id).expect("one of the keys");
    backend.state = match BackendState::from_u8(backend.state) {
        Some(BackendState::Serving) => BackendState::Gone as u8,
        Some(BackendState::Gone) => BackendState::Serving as u8,
        Some(BackendState::Free) | None => return Ok(()),
    };
    side.put_backend(id, backend)
}

fn same_flows<A: Answer>(world: &World<A>, side: &Side<A>) -> Result<()> {
    let host = world.tables.flows.borrow();
    let kernel = side.flows()?;
    ensure!(kernel.len() == host.len(), "{} flows, {} on the host", kernel.len(), host.len());
    for (key, value) in kernel {
        // The clocks differ.
        let ours =
            host.get(&key).map(|flow| FlowValue { last_seen: value.last_seen, ..flow.get() });
        ensure!(ours == Some(value), "{key:?}: {value:?} in the kernel, {ours:?} on the host");
    }
    let host = world.tables.affinity.borrow();
    let host = host.iter().map(|(key, value)| ((key.service, key.client), value.backend)).collect();
    let kernel = side.affinity()?;
    ensure!(kernel == host, "affinity {kernel:?} in the kernel, {host:?} on the host");
    Ok(())
}

fn follow<A: Answer>(
    world: &World<A>,
    side: &Side<A>,
    frame: &mut MemoryFrame,
    place: Place,
) -> Decision {
    let follower = Follower::new(world, side, place);
    process(frame, &follower, &follower, place, &mut Work::default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
