//! The wrapper programs around the one that is measured, run on packets that go nowhere.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramFd, TestRun as _, TestRunOptions},
};
use lb_common::{Hook, Reason};
use nix::time::{ClockId, clock_gettime};

use super::{
    case::{At, Case, Leg, Subject, To},
    frames::{self, Expected},
    ground::Devices,
    object::{self, prepared},
    sample::address,
    tables::{self, Counts, Template},
};

/// Which flow a packet is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// One after the other.
    Each,
    /// Any.
    Any,
    /// Always the first, in which the packet's checksums are right.
    First,
}

/// The programs of a case, with maps of their own.
pub(super) struct Rig {
    case: Case,
    devices: Devices,
    bench: Ebpf,
    product: Option<Ebpf>,
    xdp: ProgramArray<MapData>,
    tc: ProgramArray<MapData>,
    empty_xdp: ProgramFd,
    empty_tc: ProgramFd,
    template: Template,
    /// What was counted before the last proof.
    before: Counts,
}

impl Rig {
    /// Loads what surrounds the programs of a case, and fills the maps.
    pub(super) fn new(case: &Case, devices: Devices) -> Result<Self> {
        let mut bench = object::reference()?;
        let mut product = match case.subject {
            Subject::Ours => Some(object::product(case)?),
            Subject::Floor => None,
        };
        tables::fill(product.as_mut().unwrap_or(&mut bench), case, devices)?;
        let (empty_xdp, _) = prepared(&mut bench, "empty_xdp")?;
        let (empty_tc, _) = prepared(&mut bench, "empty_tc")?;
        for wrapper in ["wrap_xdp", "wrap_tc"] {
            let _loaded = prepared(&mut bench, wrapper)?;
        }
        let mut array = |name: &str| -> Result<_> {
            let map = bench.take_map(name).with_context(|| format!("no program array {name}"))?;
            Ok(ProgramArray::try_from(map)?)
        };
        let (xdp, tc) = (array("BENCH_XDP_NEXT")?, array("BENCH_TC_NEXT")?);
        Ok(Self {
            case: *case,
            devices,
            bench,
            product,
            xdp,
            tc,
            empty_xdp,
            empty_tc,
            template: Template::empty(case),
            before: Counts::new(),
        })
    }

    /// Makes every flow of the case.
    pub(super) fn open(&mut self) -> Result<()> {
        let (opener, flows) = (self.case.opener(), self.case.flows());
        let _info = self.load(&opener)?;
        let to = address(&self.case, opener.to);
        self.restore(frames::tcp(to, tables::SERVICE_PORT, true), Turn::Each)?;
        let _opened = self.run(&opener, flows)?;
        self.prove(&opener, flows)
    }

    /// Loads the program of a leg; returns what the verifier walked through, and the length of the code.
    pub(super) fn load(&mut self, leg: &Leg) -> Result<(u32, u32)> {
        let (_, info) = prepared(self.measured(), leg.program)?;
        Ok((info.verified_instruction_count().unwrap_or_default(), info.size_jitted()))
    }

    /// Sets the packet that the wrapper restores.
    pub(super) fn restore(&mut self, frame: [u8; frames::LENGTH], turn: Turn) -> Result<()> {
        let mask = if turn == Turn::First { 0 } else { self.case.flows() - 1 };
        let in_turn = u32::from(turn != Turn::Any);
        self.template = Template { frame, mask, in_turn, ..Template::empty(&self.case) };
        tables::set(&mut self.bench, "BENCH_PACKET", 0, self.template)
    }

    /// Runs the leg's program on so many packets; returns this thread's time.
    pub(super) fn run(&mut self, leg: &Leg, packets: u32) -> Result<Duration> {
        let (program, _) = prepared(self.measured(), leg.program)?;
        self.aim(leg, &program)?;
        self.timed(leg, packets)
    }

    /// The same with an empty program.
    pub(super) fn run_empty(&mut self, leg: &Leg, packets: u32) -> Result<Duration> {
        let empty = if is_xdp(leg) { &self.empty_xdp } else { &self.empty_tc }.try_clone()?;
        self.aim(leg, &empty)?;
        self.timed(leg, packets)
    }

    /// That since the last proof exactly so many packets were what the leg says, and nothing else was.
    pub(super) fn prove(&mut self, leg: &Leg, packets: u32) -> Result<()> {
        let now = self.counted()?;
        let new = tables::since(&now, &self.before);
        let expected = Counts::from([(tables::counter(&self.case, leg), u64::from(packets))]);
        ensure!(new == expected, "{}: counted {new:?}, should have been {expected:?}", self.case);
        self.before = now;
        Ok(())
    }

    /// Runs one more packet and looks at what became of it.
    pub(super) fn check(&mut self, leg: &Leg, frame: [u8; frames::LENGTH]) -> Result<()> {
        if !matches!(leg.reason, Reason::Forward | Reason::NewFlow) {
            return Ok(());
        }
        self.restore(frame, Turn::First)?;
        let (program, _) = prepared(self.measured(), leg.program)?;
        self.aim(leg, &program)?;
        let out = self.test_run(leg, 1)?;
        self.before = self.counted()?;
        let case = self.case;
        let backends: Vec<IpAddr> = tables::endpoints(&case, case.services)
            .map(|id| frames::backend(case.ipv6, id))
            .collect();
        let enters = leg.to != To::Backend;
        let redirected = enters && case.at != At::Pod && case.may_redirect();
        let masqueraded = case.subject == Subject::Ours && (redirected || !enters);
        let expected = Expected {
            backends: &backends,
            from: masqueraded.then_some(if case.ipv6 { NODE6 } else { NODE4 }),
            forwarded: redirected,
        };
        match frames::fault(&out, &expected) {
            None => Ok(()),
            Some(fault) => bail!("{case}: a packet came out of {} wrong: {fault}", leg.program),
        }
    }

    fn counted(&self) -> Result<Counts> {
        tables::counted(self.product.as_ref().unwrap_or(&self.bench), &self.case)
    }

    /// The object whose programs are measured.
    fn measured(&mut self) -> &mut Ebpf {
        self.product.as_mut().unwrap_or(&mut self.bench)
    }

    fn aim(&mut self, leg: &Leg, program: &ProgramFd) -> Result<()> {
        let jumps: &mut ProgramArray<MapData> =
            if is_xdp(leg) { &mut self.xdp } else { &mut self.tc };
        Ok(jumps.set(0, program, 0)?)
    }

    fn timed(&self, leg: &Leg, packets: u32) -> Result<Duration> {
        let start = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let _packet = self.test_run(leg, packets)?;
        let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        Ok(Duration::from(end) - Duration::from(start))
    }

    fn test_run(&self, leg: &Leg, packets: u32) -> Result<[u8; frames::LENGTH]> {
        let mut context = [0_u8; 44];
        let (wrapper, length, at): (_, usize, usize) = if is_xdp(leg) {
            // xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            context[4..8].copy_from_slice(&u32::try_from(frames::LENGTH)?.to_ne_bytes());
            ("wrap_xdp", 24, 12)
        } else {
            // __sk_buff: ifindex is the eleventh word.
            ("wrap_tc", 44, 40)
        };
        let leaving = leg.hook == Hook::ExternalOut;
        let device = if leaving { self.devices.outside } else { self.devices.inside };
        context[at..at + 4].copy_from_slice(&device.to_ne_bytes());
        // The kernel looks once, before the wrapper writes anything, to whom the frame is addressed.
        let (packet, mut out) = (self.template.frame, [0; frames::LENGTH]);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context[..length]);
        options.repeat = packets;
        let program = self.bench.program(wrapper).context("the wrapper was loaded")?;
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
}

const NODE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1));

fn is_xdp(leg: &Leg) -> bool {
    leg.hook == Hook::Xdp
}
