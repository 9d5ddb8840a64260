//! Every map, and the library's view of them. Sizes here are defaults; the agent sets its own.
//!
//! Reading a value that another CPU replaces or removes at the same time is sound to the kernel:
//! memory of a map stays mapped, so the worst is a torn value. Values are copied at once, and what
//! the agent replaces (frontends) it replaces by a new element, so a tear needs the old element's
//! memory to be reused within those few instructions.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use lb_common::{
    Addr4, Addr6, Address, AffinityKey, AffinityValue, BackendStats, BackendValue, DeviceValue,
    FlowKey, FlowValue, FragmentKey, FragmentValue, FrontendKey, FrontendValue, LAST_SEEN_GRAIN,
    NextHop, RANGE_SET_BITS, RangeKey, Runtime, Schema, ServiceInfo, SockKey, SockValue,
    VIP_FILTER_WORDS, XDP_DEVICES, XdpDevice,
};
use lb_ebpf::{FlowSlot, InsertError, Tables, Work};

/// `HOOKS.len() * REASON_SLOTS`.
pub(crate) const REASONS: usize = 7 * 64;

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

#[btf_map]
static LB4_FRONTENDS: HashMap<FrontendKey<Addr4>, FrontendValue, 65536> = HashMap::new();
#[btf_map]
static LB6_FRONTENDS: HashMap<FrontendKey<Addr6>, FrontendValue, 65536> = HashMap::new();
#[btf_map]
static LB4_BACKENDS: Array<BackendValue<Addr4>, 65536> = Array::new();
#[btf_map]
static LB6_BACKENDS: Array<BackendValue<Addr6>, 65536> = Array::new();
#[btf_map]
static LB_SLOTS: Array<u32, 262144> = Array::new();
#[btf_map]
static LB_VIP_FILTER: Array<u64, { VIP_FILTER_WORDS as usize }> = Array::new();
#[btf_map]
static LB4_FLOWS: HashMap<FlowKey<Addr4>, FlowValue<Addr4>, 262144> = HashMap::new();
#[btf_map]
static LB6_FLOWS: HashMap<FlowKey<Addr6>, FlowValue<Addr6>, 262144> = HashMap::new();
#[btf_map]
static LB4_SOCKS: LruHashMap<SockKey<Addr4>, SockValue<Addr4>, 65536> = LruHashMap::new();
#[btf_map]
static LB6_SOCKS: LruHashMap<SockKey<Addr6>, SockValue<Addr6>, 65536> = LruHashMap::new();
#[btf_map]
static LB4_FRAGMENTS: LruHashMap<FragmentKey<Addr4>, FragmentValue<Addr4>, 8192> =
    LruHashMap::new();
#[btf_map]
static LB4_AFFINITY: LruHashMap<AffinityKey<Addr4>, AffinityValue, 65536> = LruHashMap::new();
#[btf_map]
static LB6_AFFINITY: LruHashMap<AffinityKey<Addr6>, AffinityValue, 65536> = LruHashMap::new();
#[btf_map]
static LB4_RANGES: LpmTrie<RangeKey<Addr4>, u32, 65536, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
static LB6_RANGES: LpmTrie<RangeKey<Addr6>, u32, 65536, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
pub(crate) static LB_DEVICES: HashMap<u32, DeviceValue, 4096> = HashMap::new();
#[btf_map]
pub(crate) static LB_XDP_DEVICES: Array<XdpDevice, { XDP_DEVICES as usize }> = Array::new();
#[btf_map]
static LB_SERVICES: HashMap<u32, ServiceInfo, 65536, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static LB_REASONS: PerCpuArray<u64, REASONS> = PerCpuArray::new();
#[btf_map]
static LB_BACKEND_STAT: PerCpuArray<BackendStats, 65536> = PerCpuArray::new();
#[btf_map]
static LB_SCHEMA: Array<Schema, 1> = Array::new();
#[btf_map]
pub(crate) static LB_RUNTIME: Array<Runtime, 1> = Array::new();

/// Memory for one packet; a CPU runs one packet at a time.
#[btf_map]
static LB4_WORK: PerCpuArray<Work<Addr4>, 1> = PerCpuArray::new();
#[btf_map]
static LB6_WORK: PerCpuArray<Work<Addr6>, 1> = PerCpuArray::new();

/// The memory for the packet that is being processed.
///
/// # Safety
/// An entry point borrows it at most once: programs at device hooks run with bottom halves disabled,
/// so none interrupts another on the same CPU, and that one borrow is unique.
#[inline(always)]
pub(crate) unsafe fn work4() -> Option<&'static mut Work<Addr4>> {
    // SAFETY: this CPU's slot of a per-CPU array, unique by the caller's promise. Zeroes and
    // everything that the library leaves there are values of `Work`.
    LB4_WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// The same for IPv6.
///
/// # Safety
/// As for [`work4`].
#[inline(always)]
pub(crate) unsafe fn work6() -> Option<&'static mut Work<Addr6>> {
    // SAFETY: as in `work4`.
    LB6_WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Keeps the maps that only user space reads and writes in the object.
#[inline(always)]
pub(crate) fn keep() -> bool {
    LB_SCHEMA.get_ptr(0).is_some() && LB_SERVICES.get_ptr(0).is_some()
}

/// The kernel's maps as the library sees them.
pub(crate) struct KernelTables;

/// A flow entry in the kernel.
pub(crate) struct KernelFlow<A: Address>(*mut FlowValue<A>);

impl<A: Address> FlowSlot<A> for KernelFlow<A> {
    #[inline(always)]
    fn value(&self) -> FlowValue<A> {
        // SAFETY: the pointer came from a look-up in this run of the program, during which the
        // kernel keeps the memory (see the module's doc on concurrent changes); `FlowValue` is
        // valid for any bytes.
        unsafe { *self.0 }
    }

    #[inline(always)]
    fn touch(&self, seen: u8, last_seen: u32, bytes: u64) {
        // SAFETY: as above. Two CPUs that carry one flow may lose a count to each other; each other
        // field is a single store of a value that either may win with.
        unsafe {
            let flow = self.0;
            (*flow).packets = (*flow).packets.wrapping_add(1);
            (*flow).bytes = (*flow).bytes.wrapping_add(bytes);
            if (*flow).seen != seen {
                (*flow).seen = seen;
            }
            if (*flow).last_seen / LAST_SEEN_GRAIN != last_seen / LAST_SEEN_GRAIN {
                (*flow).last_seen = last_seen;
            }
        }
    }

    #[inline(always)]
    fn set_next_hop(&self, next_hop: NextHop) {
        // SAFETY: as above. A reader on another CPU may see half of an update: it then sends one
        // packet to one of two neighbours that were both right a moment ago.
        unsafe { (*self.0).next_hop = next_hop };
    }

    #[inline(always)]
    fn set_road_port(&self, port: u16) {
        // SAFETY: as above; a single store.
        unsafe { (*self.0).road_port = port };
    }
}

/// The first fragments of a family's datagrams.
macro_rules! fragments {
    ($addr:ty, $fragments:ident) => {
        #[inline(always)]
        fn fragment(&self, key: &FragmentKey<$addr>) -> Option<FragmentValue<$addr>> {
            // SAFETY: copied at once, see the module's doc.
            unsafe { $fragments.get(key) }.copied()
        }

        #[inline(always)]
        fn put_fragment(&self, key: &FragmentKey<$addr>, value: &FragmentValue<$addr>) {
            // The map evicts on its own; without an entry fragments pass untouched.
            _ = $fragments.insert(key, value, 0);
        }

        #[inline(always)]
        fn remove_fragment(&self, key: &FragmentKey<$addr>) {
            // An entry that is already gone is what was asked for.
            _ = $fragments.remove(key);
        }
    };
    // Those of IPv6 have an extension header, behind which nobody looks: no packet is ever a first one.
    ($addr:ty) => {
        #[inline(always)]
        fn fragment(&self, _: &FragmentKey<$addr>) -> Option<FragmentValue<$addr>> {
            None
        }

        #[inline(always)]
        fn put_fragment(&self, _: &FragmentKey<$addr>, _: &FragmentValue<$addr>) {}

        #[inline(always)]
        fn remove_fragment(&self, _: &FragmentKey<$addr>) {}
    };
}

macro_rules! tables {
    (
        $addr:ty, $frontends:ident, $backends:ident, $flows:ident, $socks:ident, $affinity:ident,
        $ranges:ident $(, $fragments:ident)?
    ) => {
        impl Tables<$addr> for KernelTables {
            type Flow = KernelFlow<$addr>;

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$addr>) -> Option<KernelFlow<$addr>> {
                $flows.get_ptr_mut(key).map(KernelFlow)
            }

            #[inline(always)]
            fn insert_flow(
                &self,
                key: &FlowKey<$addr>,
                value: &FlowValue<$addr>,
            ) -> Result<(), InsertError> {
                const EEXIST: i32 = -17;
                $flows.insert(key, value, u64::from(BPF_NOEXIST)).map_err(|errno| match errno {
                    EEXIST => InsertError::Exists,
                    _ => InsertError::Full,
                })
            }

            #[inline(always)]
            fn remove_flow(&self, key: &FlowKey<$addr>) {
                // An entry that is already gone is what was asked for.
                _ = $flows.remove(key);
            }

            #[inline(always)]
            fn vip_filter(&self, word: u32) -> u64 {
                LB_VIP_FILTER.get(word).copied().unwrap_or(0)
            }

            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<FrontendValue> {
                // SAFETY: copied at once, see the module's doc.
                unsafe { $frontends.get(key) }.copied()
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u32> {
                LB_SLOTS.get(index).copied()
            }

            #[inline(always)]
            fn backend(&self, id: u32) -> Option<BackendValue<$addr>> {
                $backends.get(id).copied()
            }

            #[inline(always)]
            fn count_backend(&self, id: u32, flows: u64, packets: u64, bytes: u64) {
                if let Some(stats) = LB_BACKEND_STAT.get_ptr_mut(id) {
                    // SAFETY: this CPU's slot of a per-CPU array; see `count`.
                    unsafe {
                        if flows != 0 {
                            (*stats).flows = (*stats).flows.wrapping_add(flows);
                        }
                        (*stats).packets = (*stats).packets.wrapping_add(packets);
                        (*stats).bytes = (*stats).bytes.wrapping_add(bytes);
                    }
                }
            }

            fragments!($addr $(, $fragments)?);

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<AffinityValue> {
                // SAFETY: copied at once, see the module's doc.
                unsafe { $affinity.get(key) }.copied()
            }

            #[inline(always)]
            fn put_affinity(&self, key: &AffinityKey<$addr>, value: &AffinityValue) {
                // The map evicts on its own; without an entry a client is merely balanced anew.
                _ = $affinity.insert(key, value, 0);
            }

            #[inline(always)]
            fn in_range(&self, set: u32, client: &$addr) -> bool {
                const BITS: u32 = RANGE_SET_BITS + 8 * size_of::<$addr>() as u32;
                let key = Key::new(BITS, RangeKey { set, addr: *client });
                $ranges.get(&key).is_some()
            }

            #[inline(always)]
            fn sock(&self, key: &SockKey<$addr>) -> Option<SockValue<$addr>> {
                // SAFETY: copied at once, see the module's doc.
                unsafe { $socks.get(key) }.copied()
            }

            #[inline(always)]
            fn put_sock(&self, key: &SockKey<$addr>, value: &SockValue<$addr>) {
                // The map evicts on its own; without an entry a socket is merely told of its
                // backend instead of the frontend.
                _ = $socks.insert(key, value, 0);
            }
        }
    };
}

tables!(
    Addr4,
    LB4_FRONTENDS,
    LB4_BACKENDS,
    LB4_FLOWS,
    LB4_SOCKS,
    LB4_AFFINITY,
    LB4_RANGES,
    LB4_FRAGMENTS
);
tables!(Addr6, LB6_FRONTENDS, LB6_BACKENDS, LB6_FLOWS, LB6_SOCKS, LB6_AFFINITY, LB6_RANGES);
