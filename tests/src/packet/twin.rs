//! The same packet through the loaded program and through the library on the host.
//!
//! Kernel and host hold the same maps and run in lockstep; after each packet verdict, bytes and
//! counter must agree. Where the program draws random numbers the host follows: it asks the
//! kernel's flow entry what was drawn. Everything else is compared as it is.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::{self, Debug},
};

use anyhow::{Result, ensure};
use lb_common::{
    AffinityKey, AffinityValue, BackendState, BackendValue, DeviceValue, FlowKey, FlowValue,
    FragmentKey, FragmentValue, FrontendKey, FrontendKind, FrontendValue, Hook, NextHop, Reason,
    Settings, SockKey, SockValue,
};
use lb_ebpf::{
    Decision, Env, InsertError, Place, Route, Tables, Verdict, Work,
    header::{ETH_P_IP, ETH_P_IPV6},
    host::{MemoryFlow, MemoryFrame},
    limit, process,
    refuse::Answer,
};

use super::{
    generate::Case,
    ground::Ground,
    kernel::{Kernel, Side},
    scene::{SETTINGS, Scene, World},
};

/// Kernel and host, side by side.
pub struct Twin {
    /// The loaded programs.
    pub kernel: Kernel,
    /// What the host has.
    pub scene: Scene,
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
        Ok(Self { kernel, scene, counted: BTreeMap::new(), packets: 0, out: Vec::new() })
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
        let place = Place::new(*hook, *ifindex);
        let mut host = MemoryFrame { bytes: frame.clone(), segment_size: 0 };
        let ethertype = frame.get(12..14).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let decision = match ethertype {
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
        self.scene.v4.env.generation += 1;
        self.scene.v6.env.generation += 1;
        self.kernel.set_generation(self.scene.v4.env.generation)
    }

    /// How often each fate was met.
    pub fn reasons(&self) -> impl Iterator<Item = (Hook, Reason, u64)> {
        self.counted.iter().map(|((hook, reason), count)| (*hook, *reason, *count))
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
    let follower = Follower {
        world,
        place,
        side,
        first: Cell::new(None),
        frontend: Cell::default(),
        routed: Cell::new(false),
    };
    process(frame, &follower, &follower, place, &mut Work::default())
}

/// The host's world, except that random numbers are those that the kernel must have drawn.
struct Follower<'a, A: Answer> {
    world: &'a World<A>,
    place: Place,
    side: &'a Side<A>,
    /// The packet's own tuple: what is looked up first.
    first: Cell<Option<FlowKey<A>>>,
    frontend: Cell<FrontendValue>,
    /// Whether the way to the backend was asked for: what is drawn after that is a port.
    routed: Cell<bool>,
}

impl<A: Answer> Follower<'_, A> {
    fn drawn(&self) -> Option<FlowValue<A>> {
        self.side.flow(&self.first.get()?)
    }

    /// A number that makes the choice fall on the kernel's backend.
    fn choice(&self) -> Option<u32> {
        let id = self.drawn()?.backend;
        let FrontendValue { base, len, local_len, kind, local, .. } = self.frontend.get();
        let outside = matches!(self.place.hook, Hook::ExternalIn | Hook::Xdp);
        let from_local = local == 1 && (outside || kind == FrontendKind::ClusterIp as u8);
        let (base, len) = if from_local { (base + len, local_len) } else { (base, len) };
        let slots = self.world.tables.slots.get(base as usize..(base + len) as usize)?;
        let offset = slots.iter().position(|slot| *slot == id)?;
        scaled(u32::try_from(offset).ok()?, len)
    }

    /// A number that makes the first drawn port the kernel's: the generator of `claim`, inverted.
    fn port(&self) -> Option<u32> {
        let offset = self.drawn()?.sport.checked_sub(SETTINGS.snat_first)?;
        let drawn = scaled(u32::from(offset), u32::from(SETTINGS.snat_count))?;
        Some(drawn.wrapping_sub(1_013_904_223).wrapping_mul(inverse(1_664_525)))
    }
}

/// The least number that, scaled to `count`, gives `offset`.
fn scaled(offset: u32, count: u32) -> Option<u32> {
    u32::try_from((u64::from(offset) << 32).div_ceil(u64::from(count))).ok()
}

/// The inverse of an odd number modulo 2^32, by Newton's iteration.
const fn inverse(odd: u32) -> u32 {
    let mut x = odd;
    let mut round = 0;
    while round < 5 {
        x = x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

impl<A: Answer> Tables<A> for Follower<'_, A> {
    type Flow = MemoryFlow<A>;

    fn flow(&self, key: &FlowKey<A>) -> Option<MemoryFlow<A>> {
        if self.first.get().is_none() {
            self.first.set(Some(*key));
        }
        self.world.tables.flow(key)
    }
    fn insert_flow(&self, key: &FlowKey<A>, value: &FlowValue<A>) -> Result<(), InsertError> {
        self.world.tables.insert_flow(key, value)
    }
    fn remove_flow(&self, key: &FlowKey<A>) {
        self.world.tables.remove_flow(key);
    }
    fn vip_filter(&self, word: u32) -> u64 {
        self.world.tables.vip_filter(word)
    }
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendValue> {
        let found = self.world.tables.frontend(key);
        self.frontend.set(found.unwrap_or_default());
        found
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.world.tables.slot(index)
    }
    fn backend(&self, id: u32) -> Option<BackendValue<A>> {
        self.world.tables.backend(id)
    }
    fn count_backend(&self, id: u32, flows: u64, packets: u64, bytes: u64) {
        self.world.tables.count_backend(id, flows, packets, bytes);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentValue<A>> {
        self.world.tables.fragment(key)
    }
    fn put_fragment(&self, key: &FragmentKey<A>, value: &FragmentValue<A>) {
        self.world.tables.put_fragment(key, value);
    }
    fn remove_fragment(&self, key: &FragmentKey<A>) {
        self.world.tables.remove_fragment(key);
    }
    fn affinity(&self, key: &AffinityKey<A>) -> Option<AffinityValue> {
        self.world.tables.affinity(key)
    }
    fn put_affinity(&self, key: &AffinityKey<A>, value: &AffinityValue) {
        self.world.tables.put_affinity(key, value);
    }
    fn in_range(&self, set: u32, client: &A) -> bool {
        self.world.tables.in_range(set, client)
    }
    fn sock(&self, key: &SockKey<A>) -> Option<SockValue<A>> {
        self.world.tables.sock(key)
    }
    fn put_sock(&self, key: &SockKey<A>, value: &SockValue<A>) {
        self.world.tables.put_sock(key, value);
    }
}

impl<A: Answer> Env<A> for Follower<'_, A> {
    fn now(&self) -> u32 {
        self.world.env.now()
    }
    fn random(&self) -> u32 {
        if self.routed.get() { self.port() } else { self.choice() }.unwrap_or(0)
    }
    fn settings(&self) -> Settings {
        SETTINGS
    }
    fn generation(&self) -> u16 {
        self.world.env.generation
    }
    fn may_redirect(&self) -> bool {
        self.world.env.may_redirect()
    }
    fn routes_by_source(&self) -> bool {
        self.world.env.routes_by_source()
    }
    fn transmits(&self, ifindex: u32) -> bool {
        self.world.env.transmits(ifindex)
    }
    fn route(&self, ifindex: u32, tuple: &FlowKey<A>) -> Route {
        self.routed.set(true);
        match self.world.env.route(ifindex, tuple) {
            Route::Via(hop) => Route::Via(NextHop { generation: self.generation(), ..hop }),
            route @ (Route::Local | Route::Unresolved(_) | Route::Unknown) => route,
        }
    }
    fn device(&self, ifindex: u32) -> DeviceValue {
        self.world.env.device(ifindex)
    }
    fn is_awaited(&self, tuple: &FlowKey<A>) -> bool {
        self.world.env.is_awaited(tuple)
    }
    /// The kernel's room is made full again before it can run out.
    fn may_refuse(&self) -> bool {
        true
    }
    // Nothing is kept of a million packets.
    fn observe(&self, _: Hook, _: &FlowKey<A>, _: Reason, _: Option<&FlowValue<A>>) {}
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
