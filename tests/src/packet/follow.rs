//! The library's surroundings on the host, which follow what the program in the kernel has drawn.

use std::cell::Cell;

use lb_common::{
    AffinityKey, AffinityValue, BackendValue, DeviceValue, FlowKey, FlowValue, FragmentKey,
    FragmentValue, FrontendKey, FrontendKind, FrontendValue, Hook, NextHop, Reason, Settings,
    SockKey, SockValue,
};
use lb_ebpf::{Env, InsertError, Place, Route, Tables, host::MemoryFlow, refuse::Answer};

use super::{
    kernel::Side,
    scene::{SETTINGS, World, addr},
};

/// The host's world, except that random numbers are those that the kernel must have drawn.
pub(super) struct Follower<'a, A: Answer> {
    world: &'a World<A>,
    place: Place,
    side: &'a Side<A>,
    /// The packet's own tuple: what is looked up first.
    first: Cell<Option<FlowKey<A>>>,
    /// The last flow that was found: of an error, the one whose packet it quotes.
    found: Cell<Option<FlowKey<A>>>,
    /// The frontend, once it was asked for.
    frontend: Cell<Option<FrontendValue>>,
    /// Whether the settings were asked for just now: what is drawn next is a port then.
    settled: Cell<bool>,
    /// Whether a flow entry was made: the port that is drawn next is one of the road then.
    inserted: Cell<bool>,
}

impl<'a, A: Answer> Follower<'a, A> {
    pub(super) fn new(world: &'a World<A>, side: &'a Side<A>, place: Place) -> Self {
        Self {
            world,
            place,
            side,
            first: Cell::new(None),
            found: Cell::new(None),
            frontend: Cell::new(None),
            settled: Cell::new(false),
            inserted: Cell::new(false),
        }
    }

    fn drawn(&self) -> Option<FlowValue<A>> {
        self.side.flow(&self.first.get()?)
    }

    /// A number that makes the choice fall on the kernel's backend.
    fn choice(&self) -> Option<u32> {
        let id = self.drawn()?.backend;
        let FrontendValue { base, len, local_len, kind, local, .. } = self.frontend.get()?;
        let outside = matches!(self.place.hook, Hook::ExternalIn | Hook::Xdp);
        let from_local = local == 1 && (outside || kind == FrontendKind::ClusterIp as u8);
        let (base, len) = if from_local { (base + len, local_len) } else { (base, len) };
        let slots = self.world.tables.slots.get(base as usize..(base + len) as usize)?;
        let offset = slots.iter().position(|slot| *slot == id)?;
        scaled(u32::try_from(offset).ok()?, len)
    }

    /// A number that makes the first drawn port the kernel's: its generator, inverted.
    fn port(&self) -> Option<u32> {
        let port = if self.frontend.get().is_none() {
            self.side.flow(&self.found.get()?)?.road_port
        } else if self.inserted.get() {
            self.drawn()?.road_port
        } else {
            self.drawn()?.sport
        };
        let offset = port.checked_sub(SETTINGS.snat_first)?;
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
        let slot = self.world.tables.flow(key);
        if slot.is_some() {
            self.found.set(Some(*key));
        }
        slot
    }
    fn insert_flow(&self, key: &FlowKey<A>, value: &FlowValue<A>) -> Result<(), InsertError> {
        let done = self.world.tables.insert_flow(key, value);
        self.inserted.set(self.inserted.get() || done.is_ok());
        done
    }
    fn remove_flow(&self, key: &FlowKey<A>) {
        self.world.tables.remove_flow(key);
    }
    fn vip_filter(&self, word: u32) -> u64 {
        self.world.tables.vip_filter(word)
    }
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendValue> {
        self.settled.set(false);
        let found = self.world.tables.frontend(key);
        self.frontend.set(Some(found.unwrap_or_default()));
        found
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.world.tables.slot(index)
    }
    fn backend(&self, id: u32) -> Option<BackendValue<A>> {
        self.settled.set(false);
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
        if self.settled.take() { self.port() } else { self.choice() }.unwrap_or(0)
    }
    fn settings(&self) -> Settings {
        self.settled.set(true);
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
        match self.world.env.route(ifindex, tuple) {
            Route::Via(hop) => Route::Via(NextHop { generation: self.generation(), ..hop }),
            route @ (Route::Local | Route::Unresolved(_)) => route,
            // No address of the scene: on the link outside, or behind the router.
            Route::Unknown => {
                let router = self.route(ifindex, &to(addr("router")));
                match host_part(&tuple.dst, &addr("router")) {
                    // The link's broadcast address, or that of its routers.
                    Some([255] | [0, 0, 0, 0, 0, 0, 0, 0]) => Route::Local,
                    Some(_) => Route::Unresolved(router.ifindex()),
                    None => router,
                }
            }
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

fn to<A: Answer>(dst: A) -> FlowKey<A> {
    FlowKey { dst, ..FlowKey::default() }
}

/// The rest of an address that has the same prefix as another on its link: 24 bits of IPv4, 64 of IPv6.
fn host_part<'a, A: Answer>(addr: &'a A, other: &A) -> Option<&'a [u8]> {
    let (addr, other) = (bytemuck::bytes_of(addr), bytemuck::bytes_of(other));
    let length = if addr.len() == 4 { 3 } else { 8 };
    (addr[..length] == other[..length]).then_some(&addr[length..])
}
