//! The kernel's coarse clock: jiffies, and how many of them make a second.
//!
//! Flow entries carry the low 32 bits of jiffies, because that is the cheapest clock a program can
//! read. No system call tells it, nor `CONFIG_HZ`; a program of two instructions, run by
//! `BPF_PROG_TEST_RUN`, tells the first, and the second follows from it and the time since boot.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::Duration,
};

use crate::maps::bpf;

/// A point on the kernel's coarse clock: the low 32 bits of jiffies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Jiffies(pub u32);

impl Jiffies {
    /// Jiffies from `earlier` until now; zero when `earlier` is a little in the future, because a
    /// packet passed since this point was read.
    pub fn since(self, earlier: u32) -> u32 {
        let elapsed = self.0.wrapping_sub(earlier);
        if elapsed > u32::MAX / 2 { 0 } else { elapsed }
    }
}

/// The clock could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// Programs may not be loaded: the agent needs CAP_BPF and CAP_NET_ADMIN.
    #[error("loading the program that reads the kernel's jiffies (is CAP_BPF missing?)")]
    Load(#[source] io::Error),
    /// The program did not run.
    #[error("running the program that reads the kernel's jiffies")]
    Run(#[source] io::Error),
    /// The time since boot could not be read.
    #[error("reading the monotonic clock")]
    Monotonic(#[source] nix::Error),
    /// The kernel ticks at a rate that no configuration offers.
    #[error(
        "the kernel's tick rate is none of 100, 250, 300 and 1000: {0} jiffies at {1:?} after boot"
    )]
    UnknownRate(u32, Duration),
}

/// Reads the kernel's coarse clock.
#[derive(Debug)]
pub struct Clock {
    program: OwnedFd,
    hz: u32,
}

/// `BPF_PROG_TYPE_SCHED_CLS`, which `BPF_PROG_TEST_RUN` can run.
const SCHED_CLS: u32 = 3;
/// `call bpf_jiffies64; exit`: the return value of a run is the low half.
const READ_JIFFIES: [u64; 2] = [0x0000_0076_0000_0085, 0x0000_0000_0000_0095];
/// The rates that a kernel can be configured for.
const RATES: [u32; 4] = [100, 250, 300, 1000];

impl Clock {
    /// Prepares to read the clock, and finds its rate.
    ///
    /// # Errors
    ///
    /// When programs may not be loaded, or the rate is none that a kernel can have.
    pub fn open() -> Result<Self, ClockError> {
        let program = bpf::prog_load(SCHED_CLS, &READ_JIFFIES).map_err(ClockError::Load)?;
        let mut clock = Self { program, hz: 0 };
        let jiffies = clock.now()?;
        let uptime = monotonic()?;
        clock.hz = match rate(jiffies, uptime).or_else(configured_rate) {
            Some(hz) => hz,
            None => clock.measure(jiffies, uptime)?,
        };
        Ok(clock)
    }

    /// The rate by which jiffies have advanced since a first reading, after a moment's wait.
    fn measure(&self, first: Jiffies, start: Duration) -> Result<u32, ClockError> {
        thread::sleep(Duration::from_millis(200));
        let (jiffies, now) = (self.now()?, monotonic()?);
        measured(jiffies.since(first.0), now.saturating_sub(start))
            .ok_or(ClockError::UnknownRate(jiffies.0, now))
    }

    /// Jiffies per second.
    pub fn hz(&self) -> u32 {
        self.hz
    }

    /// Now.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to run the program.
    pub fn now(&self) -> Result<Jiffies, ClockError> {
        // The kernel wants at least an Ethernet header to run a tc program on.
        let packet = [0; 64];
        bpf::prog_test_run(self.program.as_fd(), &packet).map(Jiffies).map_err(ClockError::Run)
    }
}

fn monotonic() -> Result<Duration, ClockError> {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .map_err(ClockError::Monotonic)
}

/// The rate at which a kernel that was started `uptime` ago has these jiffies.
///
/// Jiffies start at `-300 × HZ` (so that wrapping is tested five minutes after each boot) and then
/// follow the monotonic clock; modulo 2^32 that is far from ambiguous between the rates, except for
/// the seconds around the fifth minute, when all of them are at zero: then nothing is found.
fn rate(jiffies: Jiffies, uptime: Duration) -> Option<u32> {
    let mut fitting = RATES.into_iter().filter(|hz| {
        let ticks = uptime.as_millis() * u128::from(*hz) / 1000;
        #[expect(clippy::cast_possible_truncation, reason = "jiffies wrap just so")]
        let expected = (ticks as u32).wrapping_sub(300 * hz);
        let off = jiffies.0.wrapping_sub(expected).cast_signed().unsigned_abs();
        // Two seconds, and one part in 10,000 for a tick that is not a whole number of nanoseconds.
        u128::from(off) <= u128::from(2 * hz) + ticks / 10_000
    });
    let first = fitting.next();
    if fitting.next().is_some() { None } else { first }
}

/// The rate at which so many jiffies pass in this time, give or take a sixteenth.
fn measured(jiffies: u32, elapsed: Duration) -> Option<u32> {
    let per_second = u128::from(jiffies) * 1_000_000 / elapsed.as_micros().max(1);
    RATES.into_iter().find(|hz| per_second.abs_diff(u128::from(*hz)) <= u128::from(hz / 16))
}

/// `CONFIG_HZ` of the running kernel, where the distribution leaves its configuration in /boot.
fn configured_rate() -> Option<u32> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let config = fs::read_to_string(format!("/boot/config-{}", release.trim())).ok()?;
    config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jiffies_at(uptime: Duration, hz: u32) -> Jiffies {
        let ticks = uptime.as_millis() * u128::from(hz) / 1000 % (1 << 32);
        Jiffies(u32::try_from(ticks).unwrap().wrapping_sub(300 * hz))
    }

    #[test]
    fn every_rate_is_found_at_every_age() {
        let ages = [3, 60, 270, 330, 3600, 86_400, 40 * 86_400, 3 * 365 * 86_400];
        for hz in RATES {
            for age in ages.map(Duration::from_secs) {
                assert_eq!(rate(jiffies_at(age, hz), age), Some(hz), "{hz} Hz after {age:?}");
            }
        }
    }

    #[test]
    fn five_minutes_after_boot_the_rate_must_be_measured() {
        let age = Duration::from_secs(300);
        assert_eq!(rate(jiffies_at(age, 250), age), None);
        assert_eq!(measured(50, Duration::from_millis(201)), Some(250));
        assert_eq!(measured(61, Duration::from_millis(200)), Some(300));
        assert_eq!(measured(20, Duration::from_millis(200)), Some(100));
        assert_eq!(measured(199, Duration::from_millis(200)), Some(1000));
        assert_eq!(measured(0, Duration::from_millis(200)), None);
    }

    #[test]
    fn another_rate_is_not_mistaken() {
        for age in [600, 3600, 86_400].map(Duration::from_secs) {
            assert_eq!(rate(jiffies_at(age, 128), age), None, "after {age:?}");
        }
    }

    #[test]
    fn elapsed_time_survives_wrapping_and_small_steps_back() {
        assert_eq!(Jiffies(5).since(u32::MAX - 4), 10);
        assert_eq!(Jiffies(5).since(7), 0);
        assert_eq!(Jiffies(1000).since(0), 1000);
    }

    #[test]
    fn the_real_clock_advances() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: not root: the kernel's clock is read by a program");
            return;
        }
        let clock = Clock::open().expect("root may load programs");
        let first = clock.now().expect("the program runs");
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while clock.now().expect("the program runs").since(first.0) == 0 {
            assert!(std::time::Instant::now() < deadline, "jiffies stand still");
        }
    }
}
