//! Runs cases one after another on one cluster, and takes it down.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, anyhow};

use crate::stage::Stage;

/// One case.
pub(crate) struct Case {
    name: &'static str,
    run: fn(&Stage) -> Result<()>,
}

impl Case {
    pub(crate) const fn new(name: &'static str, run: fn(&Stage) -> Result<()>) -> Self {
        Self { name, run }
    }
}

/// What the words of `cargo test -- …` ask for.
#[derive(Default)]
struct Words {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

impl Words {
    fn read(words: impl IntoIterator<Item = String>) -> Self {
        let mut read = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => read.exact = true,
                "--list" => read.list = true,
                "--ignored" => read.ignored = true,
                "--skip" => read.skips.extend(words.next()),
                // Their values would be taken for filters.
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => {
                    drop(words.next());
                }
                flag if flag.starts_with('-') => {}
                filter => read.filters.push(filter.to_owned()),
            }
        }
        read
    }

    fn select(&self, name: &str) -> bool {
        let fits = |with: &String| if self.exact { name == with } else { name.contains(with) };
        let wanted = self.filters.is_empty() || self.filters.iter().any(fits);
        // No case is marked as ignored.
        wanted && !self.ignored && !self.skips.iter().any(fits)
    }
}

/// Does what the words of the command line say.
pub(crate) fn main(cases: &[Case]) -> ExitCode {
    let words = Words::read(std::env::args().skip(1));
    let selected: Vec<&Case> = cases.iter().filter(|case| words.select(case.name)).collect();
    if words.list {
        for case in &selected {
            println!("{}: test", case.name);
        }
        println!("\n{} tests, 0 benchmarks", selected.len());
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    let begin = Instant::now();
    let failed = match Stage::missing() {
        _ if selected.is_empty() => Vec::new(),
        Some(why) => {
            skip(&selected, &why);
            Vec::new()
        }
        None => on_cluster(&selected),
    };
    if !failed.is_empty() {
        println!("\nfailures:");
        for (name, why) in &failed {
            println!("\n---- {name} ----\n{why}");
        }
        println!();
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        selected.len() - failed.len(),
        failed.len(),
        cases.len() - selected.len(),
        begin.elapsed().as_secs_f64(),
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// As tests of libtest that skip themselves look with `--show-output`.
fn skip(cases: &[&Case], why: &str) {
    for case in cases {
        println!("test {} ... ok", case.name);
    }
    println!("\nsuccesses:");
    for case in cases {
        println!("\n---- {} stdout ----\nSKIPPED: {why}", case.name);
    }
}

/// Runs the cases; returns those that failed and why.
fn on_cluster(cases: &[&Case]) -> Vec<(&'static str, String)> {
    let begin = Instant::now();
    let stage = match Stage::up() {
        Ok(stage) => stage,
        Err(error) => {
            let why = format!("no cluster came up: {error:#}");
            return cases.iter().map(|case| (case.name, why.clone())).collect();
        }
    };
    println!("(a cluster is up after {:.0} s)", begin.elapsed().as_secs_f64());
    let mut failed = Vec::new();
    for case in cases {
        let begin = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| (case.run)(&stage)));
        let ran = ran.unwrap_or_else(|_panic| Err(anyhow!("the case panicked; see above")));
        let seconds = begin.elapsed().as_secs_f64();
        match ran {
            Ok(()) => println!("test {} ... ok ({seconds:.1} s)", case.name),
            Err(error) => {
                println!("test {} ... FAILED ({seconds:.1} s)", case.name);
                failed.push((case.name, format!("{error:#}\n{}", stage.scene())));
            }
        }
    }
    if let Err(error) = stage.down() {
        failed.push(("cluster_down", format!("{error:#}")));
    }
    failed
}
