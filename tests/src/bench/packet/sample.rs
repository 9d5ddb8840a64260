//! One sample: loads a program into a fresh process's own maps, runs it, and proves what it did.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{Program, ProgramFd, ProgramInfo, TestRun as _, TestRunOptions},
};
use lb_common::{Reason, Settings, names};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{
    case::{At, Case, Subject, Traffic},
    frames,
    ground::{self, Devices},
    tables::{self, Template},
};

/// How much to measure in one process.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Effort {
    /// Packets per run.
    pub packets: u32,
    /// Runs, of which the median counts.
    pub runs: u32,
}

/// What one process measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
    /// Nanoseconds per packet, without what the wrapper costs.
    pub ns: f64,
    /// Nanoseconds that the wrapper and an empty program cost.
    pub wrapper: f64,
    /// Instructions that the verifier walked through.
    pub verified: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
}

/// Measures a case in this process, which must be a fresh one.
pub fn take(case: &Case, effort: Effort) -> Result<Sample> {
    ground::pin()?;
    let devices = ground::enter()?;
    let mut bench = load(&bench_object(), |_| ())?;
    let mut product = match case.subject {
        Subject::Ours => Some(load(&crate::budget::object(), |loader| sized(loader, case))?),
        Subject::Floor => None,
    };
    let (wrapper, empty, next) = match case.at {
        At::Xdp => ("wrap_xdp", "empty_xdp", "BENCH_XDP_NEXT"),
        At::External | At::Pod => ("wrap_tc", "empty_tc", "BENCH_TC_NEXT"),
    };
    let (empty, _) = prepared(&mut bench, empty)?;
    let (program, info) = prepared(product.as_mut().unwrap_or(&mut bench), case.program())?;
    let _loaded = prepared(&mut bench, wrapper)?;
    tables::fill(product.as_mut().unwrap_or(&mut bench), case, devices)?;
    let jumps = bench.take_map(next).context("the reference object has no such program array")?;
    let mut jumps = ProgramArray::try_from(jumps)?;

    let to = match case.traffic {
        Traffic::Unrelated => frames::vip(case.ipv6, 60_000),
        Traffic::Established(_) | Traffic::New => frames::vip(case.ipv6, case.services),
    };
    let mut runner = Runner { bench, wrapper, case: *case, devices };
    let counted =
        |runner: &Runner| tables::counted(product.as_ref().unwrap_or(&runner.bench), case);
    let mut expected = BTreeMap::new();
    let mut expect = |runner: &Runner, reason: Reason, packets: u32| {
        *expected.entry(reason.name()).or_default() += u64::from(packets);
        let counts = counted(runner)?;
        ensure!(counts == expected, "{case}: counted {counts:?}, should have been {expected:?}");
        Ok(())
    };

    jumps.set(0, &program, 0)?;
    if let Traffic::Established(flows) = case.traffic {
        runner.restore(frames::tcp(to, true), true)?;
        let _opened = runner.run(flows)?;
        expect(&runner, Reason::NewFlow, flows)?;
    }
    let syn = case.traffic == Traffic::New;
    runner.restore(frames::tcp(to, syn), case.traffic == Traffic::New)?;
    // The first packets fill the caches; for new flows, they also touch the maps' memory.
    let _warm = runner.run(effort.packets / 10)?;

    expect(&runner, case.reason(), effort.packets / 10)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // Each new flow stays in the table: one run, then it is full.
    let runs = if case.traffic == Traffic::New { 1 } else { effort.runs };
    for _ in 0..runs {
        jumps.set(0, &empty, 0)?;
        without.push(per_packet(runner.run(effort.packets)?, effort.packets));
        jumps.set(0, &program, 0)?;
        with.push(per_packet(runner.run(effort.packets)?, effort.packets));
    }
    expect(&runner, case.reason(), effort.packets * runs)?;
    if case.traffic != Traffic::Unrelated {
        runner.check(&program, &mut jumps)?;
    }
    let wrapper = crate::bench::stats::spread(without).median;
    Ok(Sample {
        ns: crate::bench::stats::spread(with).median - wrapper,
        wrapper,
        verified: info.verified_instruction_count().unwrap_or_default(),
        machine_code: info.size_jitted(),
    })
}

fn per_packet(time: Duration, packets: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(packets)
}

/// The object of the reference programs, beside the product's.
fn bench_object() -> std::path::PathBuf {
    crate::budget::object().with_file_name("bench.o")
}

fn load(object: &Path, set_up: impl FnOnce(&mut EbpfLoader<'_>)) -> Result<Ebpf> {
    let bytes = fs::read(object)
        .with_context(|| format!("reading {}: run `cargo xtask build`", object.display()))?;
    let mut loader = EbpfLoader::new();
    set_up(&mut loader);
    loader.load(&bytes).with_context(|| format!("creating the maps of {}", object.display()))
}

/// The tables have the same sizes in every case, except for those of the family that it does not use.
fn sized(loader: &mut EbpfLoader<'_>, case: &Case) {
    const SETTINGS: Settings = Settings {
        hz: 250,
        udp_unreplied: 30,
        udp_replied: 120,
        snat_first: 1024,
        snat_count: 64_000,
        socket_all: 0,
        pad: 0,
        host_netns_cookie: 0,
    };
    let _chained = loader.override_global(names::SETTINGS, &SETTINGS, true);
    let other = if case.ipv6 { names::LB4_FLOWS } else { names::LB6_FLOWS };
    for table in [other, names::LB4_SOCKS, names::LB6_SOCKS] {
        let _chained = loader.map_max_entries(table, 1024);
    }
}

/// Loads one program of an object.
fn prepared(ebpf: &mut Ebpf, name: &str) -> Result<(ProgramFd, ProgramInfo)> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let loading = || format!("loading {name}");
    if let Program::Xdp(program) = program {
        program.load().with_context(loading)?;
        Ok((program.fd()?.try_clone()?, program.info()?))
    } else if let Program::SchedClassifier(program) = program {
        program.load().with_context(loading)?;
        Ok((program.fd()?.try_clone()?, program.info()?))
    } else {
        bail!("{name} is neither for XDP nor for tc")
    }
}

struct Runner {
    bench: Ebpf,
    wrapper: &'static str,
    case: Case,
    devices: Devices,
}

impl Runner {
    /// Sets the packet that the wrapper restores.
    fn restore(&mut self, frame: [u8; frames::LENGTH], in_turn: bool) -> Result<()> {
        let template = Template {
            frame,
            mask: self.case.flows() - 1,
            in_turn: u32::from(in_turn),
            ipv6: u32::from(self.case.ipv6),
            pad: 0,
        };
        tables::set(&mut self.bench, "BENCH_PACKET", 0, template)
    }

    /// Runs the wrapper on so many packets; returns this thread's time.
    fn run(&self, packets: u32) -> Result<Duration> {
        let start = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let _packet = self.test_run(packets)?;
        let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        Ok(Duration::from(end) - Duration::from(start))
    }

    fn test_run(&self, packets: u32) -> Result<[u8; frames::LENGTH]> {
        let mut context = [0_u8; 44];
        let (length, at): (usize, usize) = match self.case.at {
            // xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            At::Xdp => {
                context[4..8].copy_from_slice(&u32::try_from(frames::LENGTH)?.to_ne_bytes());
                (24, 12)
            }
            // __sk_buff: ifindex is the eleventh word.
            At::External | At::Pod => (44, 40),
        };
        context[at..at + 4].copy_from_slice(&self.devices.inside.to_ne_bytes());
        let (packet, mut out) = ([0; frames::LENGTH], [0; frames::LENGTH]);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context[..length]);
        options.repeat = packets;
        let program = self.bench.program(self.wrapper).context("the wrapper was loaded")?;
        let ran = if let Program::Xdp(program) = program {
            program.test_run(options)
        } else if let Program::SchedClassifier(program) = program {
            program.test_run(options)
        } else {
            bail!("the wrapper is neither for XDP nor for tc")
        };
        let _ran = ran.with_context(|| format!("running {packets} packets"))?;
        Ok(out)
    }

    /// Runs one more packet and looks at what became of it.
    fn check<T>(&mut self, program: &ProgramFd, jumps: &mut ProgramArray<T>) -> Result<()>
    where
        T: std::borrow::BorrowMut<aya::maps::MapData>,
    {
        let case = self.case;
        // A flow of its own, whose packet has the right checksums before.
        tables::set(
            &mut self.bench,
            "BENCH_PACKET",
            0,
            Template {
                frame: frames::tcp(frames::vip(case.ipv6, case.services), true),
                mask: 0,
                in_turn: 1,
                ipv6: u32::from(case.ipv6),
                pad: 0,
            },
        )?;
        jumps.set(0, program, 0)?;
        let out = self.test_run(1)?;
        let backends: Vec<_> =
            tables::endpoints(case.services).map(|id| frames::backend(case.ipv6, id)).collect();
        match frames::fault(&out, &backends, case.at != At::Pod) {
            None => Ok(()),
            Some(fault) => bail!("{case}: a packet came out wrong: {fault}"),
        }
    }
}
