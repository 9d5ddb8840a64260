//! Maps that fail on request, to test what happens then.

use std::io;

use super::{ApplyError, Contents, Maps, MapsError, map_of};
use crate::plan::Op;

/// Other maps, with failures.
#[derive(Debug)]
pub struct FaultyMaps<M> {
    inner: M,
    fault: Option<Fault>,
    /// How many ops were tried, successful or not.
    pub tried: usize,
}

/// Which ops fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The `n`th op from now on, counted from 0; then no more.
    Nth(usize),
    /// The next op on this map; then no more.
    Once(&'static str),
    /// Every op on this map.
    Always(&'static str),
}

impl<M> FaultyMaps<M> {
    /// Maps that do not fail yet.
    pub fn new(inner: M) -> Self {
        Self { inner, fault: None, tried: 0 }
    }

    /// Fails like this from now on, or no more.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// The maps behind.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    fn fails(&mut self, op: &Op) -> bool {
        match &mut self.fault {
            None => false,
            Some(Fault::Nth(n)) if *n > 0 => {
                *n -= 1;
                false
            }
            Some(Fault::Nth(_)) => {
                self.fault = None;
                true
            }
            Some(Fault::Once(map)) => {
                let fails = *map == map_of(op);
                if fails {
                    self.fault = None;
                }
                fails
            }
            Some(Fault::Always(map)) => *map == map_of(op),
        }
    }
}

impl<M: Maps> Maps for FaultyMaps<M> {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for (applied, op) in ops.iter().enumerate() {
            self.tried += 1;
            if self.fails(op) {
                return Err(ApplyError {
                    applied,
                    op: op.to_string(),
                    map: map_of(op),
                    source: io::Error::other("failing on request"),
                });
            }
            self.inner
                .apply(std::slice::from_ref(op))
                .map_err(|error| ApplyError { applied, ..error })?;
        }
        Ok(())
    }

    fn contents(&self) -> Result<Contents, MapsError> {
        self.inner.contents()
    }
}
