//! What the numbers were measured on: a number without its machine says nothing.

use std::{fmt, fs};

use serde::Serialize;

/// Processor and kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Number of processors.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models = || info.lines().filter_map(|line| line.strip_prefix("model name"));
        let cpu = models().next().unwrap_or("unknown").trim_start_matches(['\t', ' ', ':']);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { cpu: cpu.to_owned(), cores: models().count(), kernel: kernel.trim().to_owned() }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores, Linux {}", self.cpu, self.cores, self.kernel)
    }
}
