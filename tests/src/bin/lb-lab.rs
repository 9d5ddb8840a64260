//! `lb-lab worker NAME` is the process inside each place of a lab.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let done = match words.next().as_deref() {
        Some("worker") => lb_tests::worker::run(),
        _ => {
            eprintln!("usage: lb-lab worker NAME");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
