//! The `lb` binary. Everything is in the library, where it is tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::cli::main(std::env::args_os())
}
