//! The vote lab: a tour of one Service, from YAML to rewritten packets, with the real output of
//! real commands.
//!
//! Every step says what must come out and checks it; [`run`] fails when anything did not.

mod hood;
mod interrupt;
pub mod real;
mod screen;
mod stage;
mod steps;

pub use stage::enter;

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};

use crate::lab::{binary, missing};
use screen::Screen;
use stage::Stage;

/// Walks through the lab; on a terminal, keeps it up afterwards until Ctrl-C.
///
/// # Errors
///
/// A step whose outcome was wrong, or a lab that does not come up.
pub fn run() -> Result<()> {
    if let Some(reason) = missing() {
        bail!("this machine cannot hold the lab: {reason}");
    }
    let lb = binary();
    if !lb.exists() {
        bail!("no {}: build it with `cargo xtask build`", lb.display());
    }
    interrupt::watch()?;
    let mut screen = Screen::new();
    let mut stage = Stage::set(&mut screen).context("setting up the lab")?;
    steps::walk(&mut stage, &mut screen)?;
    screen.summary();
    if std::io::stdout().is_terminal() {
        stage.hints(&mut screen)?;
        interrupt::wait();
        screen.line("taking the lab down");
    }
    screen.verdict()
}
