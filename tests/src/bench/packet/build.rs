//! Builds of the project, asked for samples. Each sample is a process of its own.
//!
//! What is asked and answered are JSON lines that older and newer builds share: a case and an effort there,
//! a sample back. So a build may be of another revision, with maps and programs of its own.

use std::{
    env,
    path::{self, Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    case::{Case, Traffic},
    sample::{Effort, Sample},
};

/// An `lb-bench` and the objects that it measures.
#[derive(Clone, Debug)]
pub(super) struct Build {
    program: PathBuf,
    /// Where its objects are, if not where it was built.
    objects: Option<PathBuf>,
}

impl Build {
    /// This program itself.
    pub(super) fn this() -> Result<Self> {
        Ok(Self { program: env::current_exe().context("finding this program")?, objects: None })
    }

    /// Another `lb-bench`, whose `lb.o` and `bench.o` lie beside it.
    pub(super) fn at(program: &Path) -> Result<Self> {
        // A bare name would be looked for along PATH.
        let program = path::absolute(program).context("finding the other lb-bench")?;
        let objects = program.parent().context("the other lb-bench lies in a directory")?;
        for file in [&program, &objects.join("lb.o"), &objects.join("bench.o")] {
            ensure!(
                file.is_file(),
                "the other build has no {}: it needs an lb-bench, with lb.o and bench.o beside it",
                file.display()
            );
        }
        let objects = Some(objects.to_owned());
        Ok(Self { program, objects })
    }

    /// Measures a case in a fresh process.
    ///
    /// Live frames are lost where the kernel's own thread has to go on with them and gets no processor for a
    /// while, because others use it. That says nothing about the case, so it is taken again, twice at most.
    pub(super) fn sample(&self, case: &Case, effort: Effort) -> Result<Sample> {
        let again = if matches!(case.traffic, Traffic::Live(..)) { 2 } else { 0 };
        for _ in 0..again {
            match self.attempt(case, effort) {
                Ok(sample) => return Ok(sample),
                Err(error) => eprintln!("    taken again: {error:#}"),
            }
        }
        self.attempt(case, effort)
    }

    fn attempt(&self, case: &Case, effort: Effort) -> Result<Sample> {
        let mut command = Command::new(&self.program);
        let _ = command.arg("sample").arg(serde_json::to_string(&(case, effort))?);
        if let Some(objects) = &self.objects {
            // The objects of the benchmark are looked for beside the agent's.
            let _ = command.env("LB_EBPF_OBJECT", objects.join("lb.o"));
        }
        let output = command
            .output()
            .with_context(|| format!("starting {} for a sample", self.program.display()))?;
        if !output.status.success() {
            bail!("{case}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{case}: reading the sample"))
    }
}
