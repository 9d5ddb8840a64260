//! How many refusals a CPU sends: whoever floods a Service that nobody serves shall not make this node
//! flood in return.

/// Refusals per second, and at once after a second of silence; those of each CPU. A client's retries
/// are a few per second, and the kernel's own limit for ICMP errors is as high for all CPUs together.
pub const REFUSALS: u32 = 1_000;

/// The room that is left for refusals of one CPU: a token bucket, in parts of a refusal, so that no
/// division is needed. Zeros are a full one, unless the clock is near zero too.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Bucket {
    /// What is left; one refusal takes as much as there are jiffies in a second.
    pub level: u32,
    /// Low 32 bits of the jiffies at which that was so.
    pub filled: u32,
}

impl Bucket {
    /// A bucket from which nothing was taken, at a clock of `hz` jiffies per second.
    #[inline(always)]
    pub const fn full(hz: u32) -> Self {
        Self { level: REFUSALS.saturating_mul(hz), filled: 0 }
    }

    /// Takes one refusal; `false` when there is none.
    #[inline(always)]
    pub const fn take(&mut self, now: u32, hz: u32) -> bool {
        let full = REFUSALS.saturating_mul(hz);
        let elapsed = now.wrapping_sub(self.filled);
        let level = if elapsed >= hz {
            full
        } else {
            let level = self.level.saturating_add(elapsed.saturating_mul(REFUSALS));
            if level < full { level } else { full }
        };
        self.filled = now;
        let taken = level >= hz;
        self.level = if taken { level - hz } else { level };
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, REFUSALS};

    const CLOCKS: [u32; 4] = [100, 250, 300, 1000];

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        for hz in CLOCKS {
            // The clock's 32 bits run over meanwhile.
            let start = u32::MAX - hz;
            let mut bucket = Bucket { level: 0, filled: start.wrapping_sub(hz) };
            assert_eq!((0..5_000).filter(|_| bucket.take(start, hz)).count(), 1_000);
            for second in 0..4 {
                let taken: usize = (1..=hz)
                    .map(|jiffy| start.wrapping_add(second * hz + jiffy))
                    .map(|now| (0..50).filter(|_| bucket.take(now, hz)).count())
                    .sum();
                assert!(taken.abs_diff(REFUSALS as usize) <= 1, "{taken} at {hz} Hz");
            }
        }
    }

    #[test]
    fn silence_saves_no_more_than_a_burst() {
        for hz in CLOCKS {
            let mut bucket = Bucket::full(hz);
            for silence in [hz, 10 * hz, u32::MAX / 2] {
                let now = bucket.filled.wrapping_add(silence);
                assert_eq!((0..5_000).filter(|_| bucket.take(now, hz)).count(), 1_000);
            }
        }
    }
}
