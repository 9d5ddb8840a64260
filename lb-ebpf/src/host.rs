//! Frames and tables in memory: the library on the host, for tests and tools.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    vec::Vec,
};

pub mod craft;

use bytemuck::{AnyBitPattern, NoUninit};
use lb_common::{
    Address, AffinityKey, AffinityValue, BackendStats, BackendValue, DeviceValue, FlowKey,
    FlowValue, FragmentKey, FragmentValue, FrontendKey, FrontendValue, Hook, LAST_SEEN_GRAIN,
    NextHop, Reason, Settings, SockKey, SockValue,
};

use crate::{
    frame::Frame,
    header::ETH_LEN,
    limit::Bucket,
    tables::{Env, FlowSlot, InsertError, Route, Tables},
};

/// A packet in memory, all of it readable, with a complete transport checksum.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemoryFrame {
    /// The bytes from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Payload of each segment that this is cut into; 0 for one packet.
    pub segment_size: u32,
}

impl Frame for MemoryFrame {
    const ETHERNET: bool = true;

    fn load<T: AnyBitPattern>(&self, at: usize) -> Option<T> {
        let bytes = self.bytes.get(at..at.checked_add(size_of::<T>())?)?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    fn store<T: NoUninit>(&mut self, at: usize, value: T) -> Option<()> {
        let bytes = self.bytes.get_mut(at..at.checked_add(size_of::<T>())?)?;
        bytes.copy_from_slice(bytemuck::bytes_of(&value));
        Some(())
    }

    fn reaches(&self, len: usize) -> bool {
        self.bytes.len() >= len
    }

    fn make_readable(&mut self, _len: usize) {}

    fn segment_size(&self) -> u32 {
        self.segment_size
    }

    fn open_header(&mut self) -> Option<()> {
        Some(())
    }

    fn reshape(&mut self, keep: usize, insert: usize) -> Option<()> {
        if keep > self.bytes.len() || keep < ETH_LEN {
            return None;
        }
        self.bytes.truncate(keep);
        drop(self.bytes.splice(ETH_LEN..ETH_LEN, std::iter::repeat_n(0, insert)));
        Some(())
    }
}

/// The flow map in memory: entries are shared with whoever looked them up.
pub type Flows<A> = RefCell<HashMap<FlowKey<A>, Rc<Cell<FlowValue<A>>>>>;

/// What became of one packet: hook, tuple, reason, and the tuple after translation.
pub type Observation<A> = (Hook, FlowKey<A>, Reason, Option<FlowKey<A>>);

/// The maps of one family in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables<A: Address> {
    /// Flows.
    pub flows: Flows<A>,
    /// Room for flow entries.
    pub max_flows: usize,
    /// VIP filter words that are not zero.
    pub filter: HashMap<u32, u64>,
    /// Frontends and markers.
    pub frontends: HashMap<FrontendKey<A>, FrontendValue>,
    /// Slots.
    pub slots: Vec<u32>,
    /// Backends by id.
    pub backends: HashMap<u32, BackendValue<A>>,
    /// Counters by backend id.
    pub stats: RefCell<HashMap<u32, BackendStats>>,
    /// First fragments of datagrams.
    pub fragments: RefCell<HashMap<FragmentKey<A>, FragmentValue<A>>>,
    /// Session affinity.
    pub affinity: RefCell<HashMap<AffinityKey<A>, AffinityValue>>,
    /// Source ranges: (set, network address, prefix length).
    pub ranges: Vec<(u32, A, u8)>,
    /// Socket translations.
    pub socks: RefCell<HashMap<SockKey<A>, SockValue<A>>>,
}

impl<A: Address> MemoryTables<A> {
    /// Empty tables with room for `max_flows` flow entries.
    pub fn new(max_flows: usize) -> Self {
        Self { max_flows, ..Self::default() }
    }

    /// Adds a frontend and marks its address in the VIP filter.
    pub fn add_frontend(&mut self, key: FrontendKey<A>, value: FrontendValue) {
        let bit = lb_common::vip_bit(&key.addr);
        *self.filter.entry(bit.word).or_default() |= bit.mask;
        let _ = self.frontends.insert(key, value);
    }
}

/// Whether the first `len` bits of both addresses are the same.
fn is_within<A: Address>(net: &A, len: u8, addr: &A) -> bool {
    let pairs = bytemuck::bytes_of(net).iter().zip(bytemuck::bytes_of(addr));
    let differ = pairs.map(|(a, b)| a ^ b).enumerate().find(|(_, bits)| *bits != 0);
    differ.is_none_or(|(at, bits)| at * 8 + bits.leading_zeros() as usize >= usize::from(len))
}

/// A flow entry that outlives its map entry, as the kernel's do until the program returns.
#[derive(Clone)]
pub struct MemoryFlow<A: Address>(Rc<Cell<FlowValue<A>>>);

impl<A: Address> Tables<A> for MemoryTables<A> {
    type Flow = MemoryFlow<A>;

    fn flow(&self, key: &FlowKey<A>) -> Option<MemoryFlow<A>> {
        self.flows.borrow().get(key).cloned().map(MemoryFlow)
    }

    fn insert_flow(&self, key: &FlowKey<A>, value: &FlowValue<A>) -> Result<(), InsertError> {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.len() >= self.max_flows {
            return Err(InsertError::Full);
        }
        drop(flows.insert(*key, Rc::new(Cell::new(*value))));
        Ok(())
    }

    fn remove_flow(&self, key: &FlowKey<A>) {
        drop(self.flows.borrow_mut().remove(key));
    }

    fn vip_filter(&self, word: u32) -> u64 {
        self.filter.get(&word).copied().unwrap_or(0)
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendValue> {
        self.frontends.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<BackendValue<A>> {
        self.backends.get(&id).copied()
    }

    fn count_backend(&self, id: u32, flows: u64, packets: u64, bytes: u64) {
        let mut stats = self.stats.borrow_mut();
        let stats = stats.entry(id).or_default();
        stats.flows += flows;
        stats.packets += packets;
        stats.bytes += bytes;
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentValue<A>> {
        self.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey<A>, value: &FragmentValue<A>) {
        let _ = self.fragments.borrow_mut().insert(*key, *value);
    }

    fn remove_fragment(&self, key: &FragmentKey<A>) {
        let _ = self.fragments.borrow_mut().remove(key);
    }

    fn affinity(&self, key: &AffinityKey<A>) -> Option<AffinityValue> {
        self.affinity.borrow().get(key).copied()
    }

    fn put_affinity(&self, key: &AffinityKey<A>, value: &AffinityValue) {
        let _ = self.affinity.borrow_mut().insert(*key, *value);
    }

    fn in_range(&self, set: u32, client: &A) -> bool {
        self.ranges.iter().any(|(of, net, len)| *of == set && is_within(net, *len, client))
    }

    fn sock(&self, key: &SockKey<A>) -> Option<SockValue<A>> {
        self.socks.borrow().get(key).copied()
    }

    fn put_sock(&self, key: &SockKey<A>, value: &SockValue<A>) {
        let _ = self.socks.borrow_mut().insert(*key, *value);
    }
}

impl<A: Address> FlowSlot<A> for MemoryFlow<A> {
    fn value(&self) -> FlowValue<A> {
        self.0.get()
    }

    fn touch(&self, seen: u8, last_seen: u32, bytes: u64) {
        let mut value = self.0.get();
        value.seen = seen;
        if value.last_seen / LAST_SEEN_GRAIN != last_seen / LAST_SEEN_GRAIN {
            value.last_seen = last_seen;
        }
        value.packets = value.packets.wrapping_add(1);
        value.bytes = value.bytes.wrapping_add(bytes);
        self.0.set(value);
    }

    fn set_next_hop(&self, next_hop: NextHop) {
        self.0.set(FlowValue { next_hop, ..self.0.get() });
    }

    fn set_road_port(&self, road_port: u16) {
        self.0.set(FlowValue { road_port, ..self.0.get() });
    }
}

/// A node in memory: everything that is not in a map or the packet.
#[derive(Clone, Debug, Default)]
pub struct MemoryEnv<A: Address> {
    /// Jiffies.
    pub now: Cell<u32>,
    /// What the next draws give; the last repeats, mixed.
    pub random: Cell<u32>,
    /// Constants.
    pub settings: Settings,
    /// Generation of next hops.
    pub generation: u16,
    /// Whether packets may not be redirected past the stack.
    pub stack_only: bool,
    /// Whether the node has routing rules by source address.
    pub source_rules: bool,
    /// Devices out of which XDP may send.
    pub transmitters: Vec<u32>,
    /// Routes by destination address; others have none.
    pub routes: HashMap<A, Route>,
    /// Routes by source and destination address, which come before the others.
    pub source_routes: HashMap<(A, A), Route>,
    /// Devices.
    pub devices: HashMap<u32, DeviceValue>,
    /// Packets that connected sockets of the node wait for.
    pub awaited: Vec<FlowKey<A>>,
    /// The refusals that may be sent.
    pub refusals: Cell<Bucket>,
    /// Everything that was observed, in order.
    pub observed: RefCell<Vec<Observation<A>>>,
}

impl<A: Address> Env<A> for MemoryEnv<A> {
    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        let drawn = self.random.get();
        self.random.set(drawn.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15));
        drawn
    }

    fn settings(&self) -> Settings {
        self.settings
    }

    fn generation(&self) -> u16 {
        self.generation
    }

    fn may_redirect(&self) -> bool {
        !self.stack_only
    }

    fn routes_by_source(&self) -> bool {
        self.source_rules
    }

    fn route(&self, _ifindex: u32, tuple: &FlowKey<A>) -> Route {
        let by_source = self.source_routes.get(&(tuple.src, tuple.dst));
        by_source.or_else(|| self.routes.get(&tuple.dst)).copied().unwrap_or(Route::Unknown)
    }

    fn transmits(&self, ifindex: u32) -> bool {
        self.transmitters.contains(&ifindex)
    }

    fn device(&self, ifindex: u32) -> DeviceValue {
        self.devices.get(&ifindex).copied().unwrap_or_default()
    }

    fn is_awaited(&self, tuple: &FlowKey<A>) -> bool {
        self.awaited.contains(tuple)
    }

    fn may_refuse(&self) -> bool {
        let mut bucket = self.refusals.get();
        let taken = bucket.take(self.now.get(), self.settings.hz);
        self.refusals.set(bucket);
        taken
    }

    fn observe(&self, hook: Hook, tuple: &FlowKey<A>, reason: Reason, flow: Option<&FlowValue<A>>) {
        let translated = flow.map(|flow| flow.translated(tuple.proto));
        self.observed.borrow_mut().push((hook, *tuple, reason, translated));
    }
}
