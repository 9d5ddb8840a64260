//! The loaded programs over maps of their own, and what is in those.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{Program, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    Addr4, Addr6, AffinityKey, AffinityValue, BackendStats, BackendValue, DeviceValue, FlowKey,
    FlowValue, FrontendKey, FrontendValue, HOOKS, Hook, RANGE_SET_BITS, REASON_SLOTS, RangeKey,
    Reason, Runtime, XdpDevice, names,
};
use lb_ebpf::{host::MemoryTables, limit::Bucket, refuse::Answer};

use super::scene::{MAX_FLOWS, SETTINGS, Scene};
use crate::budget;

/// A type of the ABI in a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Abi<T>(T);

// SAFETY: this is private and only ever holds the map types of lb-common, each of which is plain
// old data without padding for both families, as the assertions beside them prove.
unsafe impl<T: Copy + 'static> aya::Pod for Abi<T> {}

/// One family's maps in the kernel.
pub struct Side<A: Answer> {
    frontends: HashMap<MapData, Abi<FrontendKey<A>>, FrontendValue>,
    backends: Array<MapData, Abi<BackendValue<A>>>,
    flows: HashMap<MapData, Abi<FlowKey<A>>, Abi<FlowValue<A>>>,
    ranges: LpmTrie<MapData, Abi<RangeKey<A>>, u32>,
    affinity: HashMap<MapData, Abi<AffinityKey<A>>, AffinityValue>,
}

/// The programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    /// IPv4.
    pub v4: Side<Addr4>,
    /// IPv6.
    pub v6: Side<Addr6>,
    slots: Array<MapData, u32>,
    filter: Array<MapData, u64>,
    devices: HashMap<MapData, u32, DeviceValue>,
    xdp_devices: Array<MapData, XdpDevice>,
    runtime: Array<MapData, Runtime>,
    reasons: PerCpuArray<MapData, u64>,
    refusals: PerCpuArray<MapData, Abi<Bucket>>,
    stats: PerCpuArray<MapData, BackendStats>,
}

impl Kernel {
    /// Loads the programs over empty maps.
    ///
    /// # Errors
    /// When the object is missing or the kernel refuses it.
    pub fn load() -> Result<Self> {
        let object = budget::object();
        let bytes = std::fs::read(&object)
            .with_context(|| format!("reading {}: run `cargo xtask build`", object.display()))?;
        let mut loader = EbpfLoader::new();
        let _chained = loader.override_global(names::SETTINGS, &SETTINGS, true);
        for (map, room) in [
            (names::LB4_FLOWS, MAX_FLOWS),
            (names::LB6_FLOWS, MAX_FLOWS),
            (names::LB4_FRONTENDS, 1024),
            (names::LB6_FRONTENDS, 1024),
            (names::LB4_BACKENDS, 4096),
            (names::LB6_BACKENDS, 4096),
            (names::LB_BACKEND_STAT, 4096),
            (names::LB_SLOTS, 4096),
            (names::LB4_SOCKS, 1024),
            (names::LB6_SOCKS, 1024),
            (names::LB4_AFFINITY, 1024),
            (names::LB6_AFFINITY, 1024),
            (names::LB4_RANGES, 1024),
            (names::LB6_RANGES, 1024),
        ] {
            let _chained = loader.map_max_entries(map, room);
        }
        let mut ebpf = loader.load(&bytes).context("loading the maps")?;
        for name in names::TC_PROGRAMS {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context(name)?.try_into().context(name)?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        let xdp: &mut Xdp =
            ebpf.program_mut(names::LB_XDP_IN).context(names::LB_XDP_IN)?.try_into()?;
        xdp.load().context("loading the XDP program")?;
        let mut take =
            |name| -> Result<Map> { ebpf.take_map(name).with_context(|| format!("no map {name}")) };
        Ok(Self {
            v4: Side {
                frontends: HashMap::try_from(take(names::LB4_FRONTENDS)?)?,
                backends: Array::try_from(take(names::LB4_BACKENDS)?)?,
                flows: HashMap::try_from(take(names::LB4_FLOWS)?)?,
                ranges: LpmTrie::try_from(take(names::LB4_RANGES)?)?,
                affinity: HashMap::try_from(take(names::LB4_AFFINITY)?)?,
            },
            v6: Side {
                frontends: HashMap::try_from(take(names::LB6_FRONTENDS)?)?,
                backends: Array::try_from(take(names::LB6_BACKENDS)?)?,
                flows: HashMap::try_from(take(names::LB6_FLOWS)?)?,
                ranges: LpmTrie::try_from(take(names::LB6_RANGES)?)?,
                affinity: HashMap::try_from(take(names::LB6_AFFINITY)?)?,
            },
            slots: Array::try_from(take(names::LB_SLOTS)?)?,
            filter: Array::try_from(take(names::LB_VIP_FILTER)?)?,
            devices: HashMap::try_from(take(names::LB_DEVICES)?)?,
            xdp_devices: Array::try_from(take(names::LB_XDP_DEVICES)?)?,
            runtime: Array::try_from(take(names::LB_RUNTIME)?)?,
            reasons: PerCpuArray::try_from(take(names::LB_REASONS)?)?,
            refusals: PerCpuArray::try_from(take("LB_REFUSALS")?)?,
            stats: PerCpuArray::try_from(take(names::LB_BACKEND_STAT)?)?,
            ebpf,
        })
    }

    /// Writes what `scene` holds, flows excepted, into the maps.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn fill(&mut self, scene: &Scene) -> Result<()> {
        self.v4.fill(&scene.v4.tables)?;
        self.v6.fill(&scene.v6.tables)?;
        for slots in [&scene.v4.tables.slots, &scene.v6.tables.slots] {
            for (index, backend) in (0..).zip(slots).filter(|(_, backend)| **backend != 0) {
                self.slots.set(index, backend, 0)?;
            }
        }
        let mut filter: BTreeMap<u32, u64> = BTreeMap::new();
        for (word, bits) in scene.v4.tables.filter.iter().chain(&scene.v6.tables.filter) {
            *filter.entry(*word).or_default() |= bits;
        }
        for (word, bits) in filter {
            self.filter.set(word, bits, 0)?;
        }
        for (ifindex, device) in scene.devices() {
            self.devices.insert(ifindex, device, 0)?;
        }
        for device in scene.xdp_devices() {
            self.xdp_devices.set(XdpDevice::slot(device.ifindex), device, 0)?;
        }
        self.set_runtime(scene.runtime())
    }

    /// Replaces what the agent changes while the programs run; another generation makes cached next hops
    /// stale.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_runtime(&mut self, runtime: Runtime) -> Result<()> {
        Ok(self.runtime.set(0, runtime, 0)?)
    }

    /// Lets every CPU refuse as if it never had.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn allow_refusals(&mut self) -> Result<()> {
        let full =
            vec![Abi(Bucket::full(SETTINGS.hz)); aya::util::nr_cpus().map_err(|(_, error)| error)?];
        Ok(self.refusals.set(0, PerCpuValues::try_from(full)?, 0)?)
    }

    /// Whether the kernel runs a test on this frame: it takes nothing without an Ethernet header, and
    /// at tc nothing that ends inside its IP header.
    pub fn takes(hook: Hook, frame: &[u8]) -> bool {
        let least = match frame.get(12..14) {
            Some([0x08, 0x00]) if hook != Hook::Xdp => 14 + 20,
            Some([0x86, 0xdd]) if hook != Hook::Xdp => 14 + 40,
            _ => 14,
        };
        frame.len() >= least
    }

    /// Runs the program of a hook on a frame that is seen on this device; returns the program's
    /// return code and the frame afterwards, in `out`.
    ///
    /// # Errors
    /// When the kernel does not run it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "two dozen kinds that are not used")]
    pub fn run(&self, hook: Hook, ifindex: u32, frame: &[u8], out: &mut Vec<u8>) -> Result<i32> {
        out.resize(4096, 0);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(out);
        let name = match hook {
            Hook::PodIn => names::LB_POD_IN,
            Hook::PodOut => names::LB_POD_OUT,
            Hook::ExternalIn => names::LB_EXT_IN,
            Hook::ExternalOut => names::LB_EXT_OUT,
            Hook::LoopbackOut => names::LB_LO_OUT,
            Hook::Xdp => names::LB_XDP_IN,
            Hook::Socket => bail!("sockets have no frames"),
        };
        // `struct __sk_buff` and `struct xdp_md` of linux/bpf.h, as words.
        let mut skb = [0u32; 48];
        skb[10] = ifindex;
        let length = u32::try_from(frame.len())?;
        let xdp = [0, length, 0, ifindex, 0, 0];
        let done = match self.ebpf.program(name).context(name)? {
            Program::Xdp(program) => {
                options.ctx_in = Some(bytemuck::cast_slice(&xdp));
                program.test_run(options)
            }
            Program::SchedClassifier(program) => {
                options.ctx_in = Some(bytemuck::cast_slice(&skb));
                program.test_run(options)
            }
            _ => bail!("{name} is neither tc nor XDP"),
        };
        let done = done.with_context(|| format!("running {name} on {} bytes", frame.len()))?;
        out.truncate(done.data_size_out as usize);
        Ok(done.return_value.cast_signed())
    }

    /// Packets counted so far under this hook and reason.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counted(&self, hook: Hook, reason: Reason) -> Result<u64> {
        let index = hook as u32 * REASON_SLOTS + reason as u32;
        Ok(self.reasons.get(&index, 0)?.iter().sum())
    }

    /// All counters that are not zero, by the names of hook and reason.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn all_counted(&self) -> Result<BTreeMap<(&'static str, &'static str), u64>> {
        let mut all = BTreeMap::new();
        for hook in HOOKS {
            for reason in Reason::ALL {
                let count = self.counted(hook, *reason)?;
                if count != 0 {
                    let _ = all.insert((hook.name(), reason.name()), count);
                }
            }
        }
        Ok(all)
    }

    /// The counters of a backend, all CPUs together.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn stats(&self, backend: u32) -> Result<BackendStats> {
        let mut sum = BackendStats::default();
        for cpu in self.stats.get(&backend, 0)?.iter() {
            sum.flows += cpu.flows;
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
        }
        Ok(sum)
    }
}

impl<A: Answer> Side<A> {
    fn fill(&mut self, tables: &MemoryTables<A>) -> Result<()> {
        for (key, value) in &tables.frontends {
            self.frontends.insert(Abi(*key), value, 0)?;
        }
        for (id, backend) in &tables.backends {
            self.put_backend(*id, backend)?;
        }
        for (set, net, length) in &tables.ranges {
            let key = RangeKey { set: *set, addr: masked(*net, *length) };
            self.ranges.insert(&Key::new(RANGE_SET_BITS + u32::from(*length), Abi(key)), 1, 0)?;
        }
        Ok(())
    }

    /// Replaces a backend.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn put_backend(&mut self, id: u32, backend: &BackendValue<A>) -> Result<()> {
        Ok(self.backends.set(id, Abi(*backend), 0)?)
    }

    /// The flow entry with this key.
    pub fn flow(&self, key: &FlowKey<A>) -> Option<FlowValue<A>> {
        self.flows.get(&Abi(*key), 0).ok().map(|flow| flow.0)
    }

    /// All flow entries.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey<A>, FlowValue<A>)>> {
        let flows: Result<Vec<_>, _> = self.flows.iter().collect();
        Ok(flows?.into_iter().map(|(key, value)| (key.0, value.0)).collect())
    }

    /// The backend that each client of a Service had last.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn affinity(&self) -> Result<BTreeMap<(u32, A), u32>> {
        let all: Result<Vec<_>, _> = self.affinity.iter().collect();
        Ok(all?
            .into_iter()
            .map(|(key, value)| ((key.0.service, key.0.client), value.backend))
            .collect())
    }

    /// Forgets all flows.
    ///
    /// # Errors
    /// When the map cannot be read or refuses.
    pub fn clear_flows(&mut self) -> Result<()> {
        for (key, _) in self.flows()? {
            self.flows.remove(&Abi(key))?;
        }
        Ok(())
    }
}

/// The network address of the first `length` bits.
fn masked<A: Answer>(mut addr: A, length: u8) -> A {
    for (at, byte) in (0u8..).zip(bytemuck::bytes_of_mut(&mut addr)) {
        let kept = length.saturating_sub(8 * at).min(8);
        *byte &= u8::try_from(0xff00_u16 >> kept & 0xff).expect("a byte");
    }
    addr
}
