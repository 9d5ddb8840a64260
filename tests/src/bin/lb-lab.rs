//! `lb-lab vote` opens the vote lab, `lb-lab enter PLACE [COMMAND…]` looks around in it, and
//! `lb-lab worker NAME` is the process inside each place of a lab.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["vote"] => lb_tests::vote::run(),
        ["enter", place, ref command @ ..] => {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            lb_tests::vote::enter(place, &command)
        }
        ["worker", _name] => lb_tests::worker::run(),
        _ => {
            eprintln!("usage: lb-lab vote | enter PLACE [COMMAND…] | worker NAME");
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
