//! `lb-bench packet [--quick] [-o json]`: what `cargo xtask bench` runs. `lb-bench sample CASE`
//! is the process of one sample.

use std::process::ExitCode;

use anyhow::Result;
use lb_tests::bench::packet;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("usage: lb-bench packet [--quick] [-o json]");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("lb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the words say; false when they say nothing that is known.
fn run(words: &[String]) -> Result<bool> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["packet", ref flags @ ..] => {
            let mut options = packet::Options::default();
            let mut flags = flags.iter();
            while let Some(flag) = flags.next() {
                match *flag {
                    "--quick" => options.quick = true,
                    "-o" if flags.next() == Some(&"json") => options.json = true,
                    _ => return Ok(false),
                }
            }
            packet::run(options)?;
        }
        ["sample", case] => {
            let (case, effort) = serde_json::from_str(case)?;
            println!("{}", serde_json::to_string(&packet::take(&case, effort)?)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
