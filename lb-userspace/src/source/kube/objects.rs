//! What listings and watches say, object by object.
//!
//! Invariant: an object that cannot be read is a problem that names it, and stops no other.

use std::{borrow::Cow, collections::HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Kind,
    trouble::Trouble,
    watch::{Follower, Stop, nonsense},
};
use crate::model::{Event, ObjectName, Problem, Severity, Subject};

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Line<T> {
    #[serde(rename = "type")]
    kind: String,
    object: T,
}

/// As much of an object as every object has.
#[derive(Deserialize)]
struct Bare {
    #[serde(default)]
    metadata: ObjectMeta,
    /// Of a Status.
    code: Option<u16>,
    /// Of a Status.
    message: Option<String>,
}

impl<T: DeserializeOwned> Follower<T> {
    /// Takes in one page of a listing.
    pub(super) fn page(
        &mut self,
        body: &[u8],
        names: &mut HashSet<ObjectName>,
        events: &mut Vec<Event>,
    ) -> Result<ListMeta, Trouble> {
        if let Ok(Page { metadata, items }) = serde_json::from_slice::<Page<T>>(body) {
            for object in &items {
                let _new = names.insert(name((self.resource.metadata)(object)));
                self.put(object, events);
            }
            return Ok(metadata);
        }
        // Some object is not what it should be: the others count all the same.
        let Page { metadata, items } = serde_json::from_slice::<Page<Value>>(body)
            .map_err(|error| nonsense(&format!("a listing cannot be read: {error}")))?;
        for value in items {
            let _new = names.insert(self.value(value, events)?);
        }
        Ok(metadata)
    }

    /// Takes in one object, of which it is not known whether it is what it should be.
    fn value(&mut self, value: Value, events: &mut Vec<Event>) -> Result<ObjectName, Trouble> {
        let bare = Bare::deserialize(&value)
            .map_err(|error| nonsense(&format!("an object has no name: {error}")))?;
        let name = name(&bare.metadata);
        match T::deserialize(value) {
            Ok(object) => self.put(&object, events),
            Err(error) => self.bad(&name, format!("not valid: {error}"), events),
        }
        Ok(name)
    }

    /// Adds what an object means, or the problem that there is instead.
    fn put(&mut self, object: &T, events: &mut Vec<Event>) {
        let name = name((self.resource.metadata)(object));
        match (self.resource.put)(object) {
            Ok(event) => {
                self.good(&name, events);
                events.push(event);
            }
            Err(why) => self.bad(&name, why, events),
        }
    }

    /// Nothing of this object can be used: what it was before stays.
    fn bad(&mut self, name: &ObjectName, why: String, events: &mut Vec<Event>) {
        let _new = self.bad.insert(name.clone());
        let object = self.subject(name);
        let reason = Cow::Owned(why);
        let problem =
            Problem { severity: Severity::Warning, object: object.clone(), file: None, reason };
        events.push(Event::Problems(object, vec![problem]));
    }

    /// This object is as it should be, or gone.
    pub(super) fn good(&mut self, name: &ObjectName, events: &mut Vec<Event>) {
        // Of a Node that was missing the problem was told elsewhere.
        if self.bad.remove(name) || self.resource.kind == Kind::Nodes {
            events.push(Event::Problems(self.subject(name), Vec::new()));
        }
    }

    fn subject(&self, name: &ObjectName) -> Subject {
        Subject::Document(match self.resource.kind {
            Kind::Services | Kind::Slices => format!("{} {name}", self.resource.kind.one()).into(),
            Kind::Nodes => format!("Node {}", name.name).into(),
        })
    }

    /// Takes in one line; returns the version that it names.
    pub(super) fn line(
        &mut self,
        line: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<Option<String>, Stop> {
        let lost = |error: serde_json::Error| {
            // What it said is lost, so that only a listing helps.
            Stop::Trouble(nonsense(&format!("a watch event cannot be read: {error}")))
        };
        let Line { kind, object } =
            serde_json::from_slice::<Line<Bare>>(line).map_err(|error| {
                self.version = None;
                lost(error)
            })?;
        let name = name(&object.metadata);
        let _changed = match kind.as_str() {
            "ADDED" | "MODIFIED" => {
                match serde_json::from_slice::<Line<T>>(line) {
                    Ok(line) => self.put(&line.object, events),
                    Err(error) => self.bad(&name, format!("not valid: {error}"), events),
                }
                self.known.insert(name)
            }
            "DELETED" => {
                let known = self.known.remove(&name);
                self.good(&name, events);
                events.push((self.resource.delete)(name));
                known
            }
            "ERROR" => {
                let message = object.message.unwrap_or_default();
                return Err(match object.code {
                    Some(410) => Stop::Gone,
                    code => Trouble::of_status(code.unwrap_or(500), &message).into(),
                });
            }
            // A bookmark names a version and nothing else; what is unknown is taken for one.
            _ => false,
        };
        Ok(object.metadata.resource_version.filter(|version| !version.is_empty()))
    }
}

fn name(metadata: &ObjectMeta) -> ObjectName {
    let ObjectMeta { namespace, name, .. } = metadata;
    ObjectName::new(namespace.as_deref().unwrap_or("default"), name.as_deref().unwrap_or_default())
}
