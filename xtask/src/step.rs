//! Progress lines: what is being done, and how long it took. On standard error, so that a command's
//! result on standard output stays clean.

use std::time::Instant;

/// A step under way. Its end prints the elapsed time.
pub(crate) struct Step {
    what: String,
    begun: Instant,
}

impl Step {
    /// Announces a step.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        eprintln!("==> {what} …");
        Self { what, begun: Instant::now() }
    }

    /// Announces its end.
    pub(crate) fn done(self) {
        eprintln!("    {} — done in {:.1} s", self.what, self.begun.elapsed().as_secs_f64());
    }
}
