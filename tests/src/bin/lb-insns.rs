//! `cargo xtask insns`: prints what the verifier counts per program, against the budget.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use lb_tests::budget;

fn main() -> ExitCode {
    match print_all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("lb-insns: a program is over its budget (tests/src/budget.rs)");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("lb-insns: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints both objects; returns whether everything is within its budget.
fn print_all() -> Result<bool> {
    let plain = print(&budget::object())?;
    println!("\nwith a log line per packet (lb run --trace):");
    Ok(print(&budget::trace_object())? && plain)
}

fn print(object: &Path) -> Result<bool> {
    println!(
        "{:<14} {:>10} {:>10} {:>6} {:>13} {:>13}",
        "program", "verified", "budget", "used", "instructions", "machine code"
    );
    let mut within = true;
    for cost in budget::costs(object)? {
        let budget = cost.budget();
        within &= cost.verified <= budget;
        let used = u64::from(cost.verified) * 100 / u64::from(budget.max(1));
        println!(
            "{:<14} {:>10} {:>10} {:>5}% {:>13} {:>11} B",
            cost.program, cost.verified, budget, used, cost.instructions, cost.machine_code
        );
    }
    Ok(within)
}
