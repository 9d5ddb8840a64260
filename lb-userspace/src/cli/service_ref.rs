//! How people name a Service on the command line: NAME, NAME.NAMESPACE or NAMESPACE/NAME.
//!
//! A bare name means namespace `default`, or the only namespace that has such a Service.

use std::{collections::BTreeSet, fmt};

use super::snapshot::Snapshot;
use crate::plan::ServiceId;

/// One Service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ServiceRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A name that means no Service, or more than one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ServiceRefError {
    /// The maps hold no such Service.
    #[error("no Service {0:?} in the maps; `lb services` lists those that are")]
    Unknown(String),
    /// Several namespaces have one of this name.
    #[error("Service {name:?} is in several namespaces: say one of {choices}")]
    Ambiguous {
        /// The name as given.
        name: String,
        /// What would be unambiguous.
        choices: String,
    },
}

/// Finds the Service that `text` means.
///
/// # Errors
///
/// There is none, or the name alone does not say which.
pub fn find(snapshot: &Snapshot, text: &str) -> Result<ServiceRef, ServiceRefError> {
    let known: BTreeSet<ServiceRef> = snapshot
        .contents
        .services
        .values()
        .map(|info| ServiceRef { namespace: info.namespace().into(), name: info.name().into() })
        .collect();
    let exact = |namespace: &str, name: &str| {
        known.iter().find(|known| known.namespace == namespace && known.name == name).cloned()
    };
    let unknown = || ServiceRefError::Unknown(text.to_owned());
    if let Some((namespace, name)) = text.split_once('/') {
        return exact(namespace, name).ok_or_else(unknown);
    }
    if let Some((name, namespace)) = text.split_once('.') {
        return exact(namespace, name).ok_or_else(unknown);
    }
    if let Some(found) = exact("default", text) {
        return Ok(found);
    }
    let candidates: Vec<_> = known.iter().filter(|known| known.name == text).collect();
    match candidates.as_slice() {
        [] => Err(unknown()),
        [only] => Ok((*only).clone()),
        several => Err(ServiceRefError::Ambiguous {
            name: text.to_owned(),
            choices: several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }),
    }
}

impl ServiceRef {
    /// The ids of its ports, sorted.
    pub fn ids(&self, snapshot: &Snapshot) -> Vec<ServiceId> {
        let ours = |info: &lb_common::ServiceInfo| {
            info.namespace() == self.namespace && info.name() == self.name
        };
        let all = snapshot.contents.services.iter();
        all.filter(|(_, info)| ours(info)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{Family, ServiceInfo, proto};

    use super::*;

    fn snapshot(names: &[(&str, &str)]) -> Snapshot {
        let services = names
            .iter()
            .zip(1..)
            .map(|((ns, name), id)| {
                let info = ServiceInfo::new(ns, name, "", proto::TCP, Family::V4).unwrap();
                (ServiceId(id), info)
            })
            .collect();
        let mut snapshot = Snapshot::default();
        snapshot.contents.services = services;
        snapshot
    }

    fn check(names: &[(&str, &str)], text: &str, expected: Result<&str, &str>) {
        let found = find(&snapshot(names), text);
        match expected {
            Ok(expected) => assert_eq!(found.unwrap().to_string(), expected),
            Err(part) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn a_service_is_named_in_three_ways() {
        let names = [("shop", "vote"), ("default", "dns")];
        check(&names, "shop/vote", Ok("shop/vote"));
        check(&names, "vote.shop", Ok("shop/vote"));
        check(&names, "vote", Ok("shop/vote"));
        check(&names, "dns", Ok("default/dns"));
        check(&names, "default/vote", Err("no Service"));
    }

    #[test]
    fn namespace_default_wins_and_else_the_name_must_be_unique() {
        check(&[("a", "vote"), ("default", "vote")], "vote", Ok("default/vote"));
        check(&[("a", "vote"), ("b", "vote")], "vote", Err("a/vote, b/vote"));
        check(&[("a", "vote"), ("b", "vote")], "vote.b", Ok("b/vote"));
    }
}
