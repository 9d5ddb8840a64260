//! Whether packets for other nodes may be redirected past the stack. Pure.
//!
//! Invariant: what is not understood forbids it. The way through the stack is right everywhere, the
//! shortcut only where nothing on that way would have done anything else.

use std::fmt;

use lb_common::Runtime;

use super::routing::{Policies, Routing, Selector};
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
    /// IPsec policies: what leaves past the stack would leave unencrypted, or against them.
    Policies,
    /// It cannot be known whether there are IPsec policies.
    UnknownPolicies,
    /// Routing rules that choose by what a look-up in the routes cannot ask with.
    Rules(Selector),
}

impl Shortcut {
    /// What the operator wants and the node has makes of it.
    pub fn decide(forward: Forward, routing: &Routing) -> Self {
        let Routing { selectors, policies } = routing;
        let mut obstacles = Vec::new();
        match forward {
            Forward::Redirect => {}
            Forward::Stack => obstacles.push(Obstacle::Flag),
        }
        match policies {
            Policies::None => {}
            Policies::Some => obstacles.push(Obstacle::Policies),
            Policies::Unreadable => obstacles.push(Obstacle::UnknownPolicies),
        }
        let mut source_rules = false;
        for selector in selectors {
            match selector {
                Selector::Source => source_rules = true,
                Selector::Mark
                | Selector::User
                | Selector::Tunnel
                | Selector::Dscp
                | Selector::FlowLabel
                | Selector::Unknown(_)
                | Selector::Unreadable => obstacles.push(Obstacle::Rules(*selector)),
            }
        }
        obstacles.sort();
        obstacles.dedup();
        Self { obstacles, source_rules }
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
            Self::Policies => f.write_str("xfrm policies"),
            Self::UnknownPolicies => f.write_str("xfrm policies cannot be read"),
            Self::Rules(selector) => match selector {
                Selector::Source => f.write_str("routing rules by source"),
                Selector::Mark => f.write_str("routing rules by mark"),
                Selector::User => f.write_str("routing rules by user"),
                Selector::Tunnel => f.write_str("routing rules by tunnel id"),
                Selector::Dscp => f.write_str("routing rules by DSCP"),
                Selector::FlowLabel => f.write_str("routing rules by flow label"),
                Selector::Unknown(kind) => write!(f, "routing rules by attribute {kind}"),
                Selector::Unreadable => f.write_str("routing rules cannot be read"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(forward: Forward, selectors: &[Selector], policies: Policies) -> (u8, Vec<String>) {
        let routing = Routing { selectors: selectors.to_vec(), policies };
        let shortcut = Shortcut::decide(forward, &routing);
        (shortcut.flags(), shortcut.obstacles.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_plain_node_may_redirect_unless_the_operator_forbids_it() {
        assert_eq!(decided(Forward::Redirect, &[], Policies::None), (Runtime::SHORTCUT, vec![]));
        let forbidden = decided(Forward::Stack, &[], Policies::None);
        assert_eq!(forbidden, (0, vec!["--forward=stack".to_owned()]));
    }

    #[test]
    fn policies_forbid_it_and_so_does_not_knowing() {
        let some = decided(Forward::Redirect, &[], Policies::Some);
        assert_eq!(some, (0, vec!["xfrm policies".to_owned()]));
        assert_eq!(decided(Forward::Redirect, &[], Policies::Unreadable).0, 0);
    }

    #[test]
    fn rules_by_source_only_shape_it() {
        let flags = Runtime::SHORTCUT | Runtime::SOURCE_RULES;
        assert_eq!(
            decided(Forward::Redirect, &[Selector::Source], Policies::None),
            (flags, vec![])
        );
        let both = decided(Forward::Stack, &[Selector::Source], Policies::None);
        assert_eq!(both.0, Runtime::SOURCE_RULES);
    }

    #[test]
    fn rules_that_cannot_be_asked_for_forbid_it() {
        let others = [
            Selector::Mark,
            Selector::User,
            Selector::Tunnel,
            Selector::Dscp,
            Selector::FlowLabel,
            Selector::Unknown(99),
            Selector::Unreadable,
        ];
        for selector in others {
            let (flags, why) = decided(Forward::Redirect, &[selector], Policies::None);
            assert_eq!((flags, why.len()), (0, 1), "{selector:?}");
        }
        let marks = decided(Forward::Stack, &[Selector::Mark, Selector::Source], Policies::Some);
        let why = ["--forward=stack", "xfrm policies", "routing rules by mark"];
        assert_eq!(marks, (Runtime::SOURCE_RULES, why.map(ToOwned::to_owned).to_vec()));
    }
}
