//! Whether packets for other nodes may be redirected past the stack. Pure.
//!
//! Invariant: what is not understood forbids it. The way through the stack is right everywhere, the
//! shortcut only where nothing on that way would have done anything else.

use std::fmt;

use lb_common::Runtime;

use crate::config::Forward;

/// Whether the shortcut is allowed, and how next hops must be asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Shortcut {
    /// What forbids it, sorted, each once; nothing when it is allowed.
    pub obstacles: Vec<Obstacle>,
    /// Whether routing rules look at the source address.
    pub source_rules: bool,
}

/// Something that forbids to redirect.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Obstacle {
    /// The operator said so.
    Flag,
}

impl Shortcut {
    /// What the operator wants makes of it.
    pub fn decide(forward: Forward) -> Self {
        let mut obstacles = Vec::new();
        match forward {
            Forward::Redirect => {}
            Forward::Stack => obstacles.push(Obstacle::Flag),
        }
        Self { obstacles, source_rules: false }
    }

    /// Bits of [`Runtime`].
    pub fn flags(&self) -> u8 {
        let Self { obstacles, source_rules } = self;
        let shortcut = if obstacles.is_empty() { Runtime::SHORTCUT } else { 0 };
        shortcut | if *source_rules { Runtime::SOURCE_RULES } else { 0 }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("--forward=stack"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_may_forbid_it() {
        assert_eq!(Shortcut::decide(Forward::Redirect).flags(), Runtime::SHORTCUT);
        let forbidden = Shortcut::decide(Forward::Stack);
        assert_eq!((forbidden.flags(), forbidden.obstacles), (0, vec![Obstacle::Flag]));
    }
}
