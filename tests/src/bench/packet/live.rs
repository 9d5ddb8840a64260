//! Live frames: packets that come in at a device of a node and leave by another, with everything that the
//! kernel does in between.
//!
//! The kernel makes the frames from a program (`BPF_F_TEST_XDP_LIVE_FRAMES`) and hands them to the far end of the
//! node's first link, 64 at a time; what is left of them is counted and dropped at the far end of the second.
//! All of it happens on one CPU, before the next 64 are made. So nothing queues or overflows, and the
//! processor's time for a packet is what a CPU of a node can forward in a second, turned round.

use std::{
    fs, iter,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::PerCpuArray,
    programs::{
        Program, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp,
        XdpMode,
    },
};
use lb_common::{Hook, names};
use nix::time::{ClockId, clock_gettime};

use super::{
    case::{At, Case, To, Way},
    frames,
    ground::{self, Devices},
    object::{self, prepared},
    rig::Turn,
    sample::{Effort, Sample, address, per_packet},
    tables::{self, Counts, Template},
};
use crate::{
    bench::stats::spread,
    lab::{Offloads, offload},
};

/// Frames that the kernel makes before it lets them go.
const BATCH: u32 = 64;
/// How long a frame may be on its way.
const PATIENCE: Duration = Duration::from_secs(1);

/// Measures a way of a case.
pub(super) fn take(case: &Case, way: Way, devices: Devices, effort: Effort) -> Result<Sample> {
    let mut bench = object::reference()?;
    for program in ["send_xdp", "sink_xdp", "sink_tc"] {
        let _loaded = prepared(&mut bench, program)?;
    }
    let mut sender =
        Sender { bench, case: *case, devices, sunk: 0, ticker: Ticker::of_this_cpu()? };
    // What it costs to make a frame, to receive and to drop it.
    sender.restore(false, Turn::Any)?;
    let sink = xdp(&mut sender.bench, "sink_xdp")?.attach("in0", XdpMode::Driver)?;
    let _warm = sender.send(effort.packets / 10)?;
    let without = sender.measure(effort)?;
    xdp(&mut sender.bench, "sink_xdp")?.detach(sink)?;

    let fast = way == Way::Shortcut && case.at == At::Xdp;
    let product = match way {
        Way::Rules => None,
        Way::Shortcut | Way::Road => Some(attached(case, devices)?),
    };
    if product.is_none() {
        rules(case)?;
    }
    if product.is_none() || case.at != At::Xdp {
        // Without a program a veth takes frames only with GRO.
        offload::set("in0", Offloads { tx: true, gro: true })?;
    }
    // What became a socket buffer is dropped as one.
    if fast {
        let _link = xdp(&mut sender.bench, "sink_xdp")?.attach("out1", XdpMode::Driver)?;
    } else {
        let sink = classifier(&mut sender.bench, "sink_tc")?;
        let _link = sink.attach("out1", TcAttachType::Ingress)?;
    }
    if product.is_some() {
        sender.restore(true, Turn::Each)?;
        let _opened = sender.send(case.flows())?;
    }
    sender.restore(false, Turn::Each)?;
    let _known = sender.send(case.flows())?;
    sender.restore(false, Turn::Any)?;
    let _warm = sender.send(effort.packets / 10)?;
    let before = counted(product.as_ref(), case)?;
    let with = sender.measure(effort)?;
    if let Some(product) = &product {
        let packets = u64::from(effort.packets * effort.runs);
        let new = tables::since(&counted(Some(product), case)?, &before);
        let expected: Counts =
            case.legs().iter().map(|leg| (tables::counter(case, leg), packets)).collect();
        ensure!(
            expected.iter().all(|(name, count)| new.get(name) == Some(count)),
            "{case}: counted {new:?}, should have been {expected:?}"
        );
    }
    let wrapper = spread(without).median;
    Ok(Sample { ns: spread(with).median - wrapper, wrapper, verified: 0, machine_code: 0 })
}

struct Sender {
    bench: Ebpf,
    case: Case,
    devices: Devices,
    /// How many have arrived until now.
    sunk: u64,
    ticker: Ticker,
}

impl Sender {
    /// Sets the packet that is sent.
    fn restore(&mut self, syn: bool, turn: Turn) -> Result<()> {
        let to = address(&self.case, To::Service);
        let template = Template {
            frame: frames::tcp(to, tables::SERVICE_PORT, syn),
            mask: self.case.flows() - 1,
            in_turn: u32::from(turn == Turn::Each),
            to: self.devices.sender,
            ..Template::empty(&self.case)
        };
        tables::set(&mut self.bench, "BENCH_PACKET", 0, template)
    }

    fn measure(&mut self, effort: Effort) -> Result<Vec<f64>> {
        iter::repeat_with(|| Ok(per_packet(self.send(effort.packets)?, effort.packets)))
            .take(usize::try_from(effort.runs)?)
            .collect()
    }

    /// Sends so many packets, all of which must arrive; returns the processor's time until they have.
    fn send(&mut self, packets: u32) -> Result<Duration> {
        let start = self.ticker.now()?;
        let frame = [0; frames::LENGTH];
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let _ran = xdp(&mut self.bench, "send_xdp")?.test_run(options).context("sending frames")?;
        let wanted = self.sunk + u64::from(packets);
        let begin = Instant::now();
        loop {
            self.sunk = self.arrived()?;
            if self.sunk >= wanted {
                break;
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{}: {} of {packets} frames did not arrive",
                self.case,
                wanted - self.sunk
            );
            std::thread::yield_now();
        }
        ensure!(self.sunk == wanted, "{}: more frames arrived than were sent", self.case);
        Ok(self.ticker.now()? - start)
    }

    fn arrived(&self) -> Result<u64> {
        let map = self.bench.map("BENCH_SUNK").context("the object has no counter of frames")?;
        Ok(PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?.iter().sum())
    }
}

/// The processor's time for packets: this thread's, and that of the kernel's thread which goes on with what
/// has taken too long at once.
struct Ticker {
    helper: String,
}

impl Ticker {
    fn of_this_cpu() -> Result<Self> {
        let name = format!("ksoftirqd/{}", ground::cpu()?);
        for entry in fs::read_dir("/proc").context("listing /proc")? {
            let path = entry.context("listing /proc")?.path();
            if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
                return Ok(Self { helper: path.join("schedstat").display().to_string() });
            }
        }
        bail!("no {name} among the processes: live frames need the machine's own /proc")
    }

    fn now(&self) -> Result<Duration> {
        let own = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        let helper = fs::read_to_string(&self.helper).context("reading the time of ksoftirqd")?;
        let nanoseconds = helper.split(' ').next().and_then(|word| word.parse().ok());
        Ok(own + Duration::from_nanos(nanoseconds.context("a time of ksoftirqd")?))
    }
}

/// The product on the node's devices.
fn attached(case: &Case, devices: Devices) -> Result<Ebpf> {
    let mut product = object::product(case)?;
    tables::fill(&mut product, case, devices)?;
    for (name, device, side) in [
        (names::LB_EXT_IN, "in0", TcAttachType::Ingress),
        (names::LB_EXT_OUT, "out0", TcAttachType::Egress),
    ] {
        let _loaded = prepared(&mut product, name)?;
        let _link = classifier(&mut product, name)?.attach(device, side)?;
    }
    if case.legs().first().is_some_and(|leg| leg.hook == Hook::Xdp) {
        let _loaded = prepared(&mut product, names::LB_XDP_IN)?;
        let _link = xdp(&mut product, names::LB_XDP_IN)?.attach("in0", XdpMode::Driver)?;
    }
    Ok(product)
}

fn counted(product: Option<&Ebpf>, case: &Case) -> Result<Counts> {
    product.map_or_else(|| Ok(Counts::new()), |product| tables::counted(product, case))
}

/// The least rules of nftables that do the same.
fn rules(case: &Case) -> Result<()> {
    // Of all flows but the first the frames' checksums are wrong, which nobody on the way minds but this.
    fs::write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0")
        .context("telling connection tracking not to check sums")?;
    let (family, port) = (if case.ipv6 { "ip6" } else { "ip" }, tables::PORT);
    let (service, backend) = (address(case, To::Service), address(case, To::Backend));
    let to = if case.ipv6 { format!("[{backend}]") } else { backend.to_string() };
    let rules = format!(
        "table {family} bench {{\n\
         chain in {{ type nat hook prerouting priority -100; {family} daddr {service} tcp dport {} dnat to \
         {to}:{port}; }}\n\
         chain out {{ type nat hook postrouting priority 100; oifname out0 masquerade; }}\n}}\n",
        tables::SERVICE_PORT
    );
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("starting nft (package nftables)")?;
    let mut stdin = nft.stdin.take().context("standard input is piped")?;
    std::io::Write::write_all(&mut stdin, rules.as_bytes()).context("handing nft its rules")?;
    drop(stdin);
    ensure!(nft.wait().context("waiting for nft")?.success(), "nft refused these rules:\n{rules}");
    Ok(())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => bail!("no XDP program {name}"),
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => bail!("no tc program {name}"),
    }
}
