//! One sample: runs a case in a fresh process, and proves what it did.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    case::{Case, Leg, To, Traffic},
    frames, ground, live,
    rig::{Rig, Turn},
    tables,
};
use crate::bench::stats::spread;

/// How much to measure in one process.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Effort {
    /// Packets per run.
    pub packets: u32,
    /// Runs, of which the median counts.
    pub runs: u32,
}

/// What one process measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
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
    if let Traffic::Live(way, _) = case.traffic {
        return live::take(case, way, devices, effort);
    }
    let mut rig = Rig::new(case, devices)?;
    if !matches!(case.traffic, Traffic::New | Traffic::Unrelated) {
        rig.open()?;
    }
    let mut sum = Sample::default();
    for leg in case.legs() {
        let leg = measure(&mut rig, case, &leg, effort)?;
        sum.ns += leg.ns;
        sum.wrapper += leg.wrapper;
        sum.verified += leg.verified;
        sum.machine_code += leg.machine_code;
    }
    Ok(sum)
}

/// Measures one program.
fn measure(rig: &mut Rig, case: &Case, leg: &Leg, effort: Effort) -> Result<Sample> {
    let (verified, machine_code) = rig.load(leg)?;
    let syn = case.traffic == Traffic::New;
    let frame = frames::tcp(address(case, leg.to), port(leg.to), syn);
    rig.restore(frame, if syn { Turn::Each } else { Turn::Any })?;
    // The first packets fill the caches; for new flows, they also touch the maps' memory.
    let _warm = rig.run(leg, effort.packets / 10)?;
    rig.prove(leg, effort.packets / 10)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // Each new flow stays in the table: one run, then it is full.
    let runs = if syn { 1 } else { effort.runs };
    for _ in 0..runs {
        without.push(per_packet(rig.run_empty(leg, effort.packets)?, effort.packets));
        with.push(per_packet(rig.run(leg, effort.packets)?, effort.packets));
    }
    rig.prove(leg, effort.packets * runs)?;
    rig.check(leg, frame)?;
    let wrapper = spread(without).median;
    Ok(Sample { ns: spread(with).median - wrapper, wrapper, verified, machine_code })
}

/// Nanoseconds for each.
pub(super) fn per_packet(time: Duration, packets: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(packets)
}

/// The address of those to whom packets are.
pub(super) fn address(case: &Case, to: To) -> std::net::IpAddr {
    match to {
        To::Service => frames::vip(case.ipv6, case.services),
        To::Nobody => frames::vip(case.ipv6, 60_000),
        To::Backend => frames::backend(case.ipv6, tables::endpoints(case, case.services).start),
    }
}

fn port(to: To) -> u16 {
    match to {
        To::Service | To::Nobody => tables::SERVICE_PORT,
        To::Backend => tables::PORT,
    }
}
