//! The text of a manifest becomes objects: YAML with any number of documents, or JSON.
//!
//! Invariant: a manifest with a syntax error yields nothing, because it may be half written; an
//! object that is none of ours, or not valid, only hides itself.

use std::{borrow::Cow, path::Path, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};

use super::convert;
use crate::model::{Node, ObjectName, Problem, Service, Severity, Slice, Subject};

/// One object of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Object {
    Service(Arc<Service>),
    Slice(Arc<Slice>),
    Node(Arc<Node>),
}

/// What tells objects apart.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    Service(ObjectName),
    Slice(ObjectName),
    Node(Arc<str>),
}

impl Object {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Service(service) => Key::Service(service.name.clone()),
            Self::Slice(slice) => Key::Slice(slice.name.clone()),
            Self::Node(node) => Key::Node(node.name.clone()),
        }
    }
}

impl Key {
    pub(super) fn subject(&self) -> Subject {
        match self {
            Self::Service(name) => Subject::Service(name.clone()),
            Self::Slice(name) => Subject::Slice(name.clone()),
            Self::Node(name) => Subject::Document(format!("Node {name}").into()),
        }
    }
}

/// A manifest whose syntax is right.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) objects: Vec<Object>,
    /// Objects that are not valid: what they were before stays.
    pub(super) invalid: Vec<Key>,
    pub(super) problems: Vec<Problem>,
}

/// Reads the text of `file`.
///
/// # Errors
///
/// Where the syntax is wrong, and how.
pub(super) fn parse(text: &str, file: &Arc<Path>) -> Result<Manifest, String> {
    let mut manifest = Manifest::default();
    if file.extension().is_some_and(|extension| extension == "json") {
        for value in serde_json::Deserializer::from_str(text).into_iter() {
            manifest.take(value.map_err(|error| error.to_string())?, file);
        }
        return Ok(manifest);
    }
    for document in documents(text) {
        let value: Value = serde_yaml_ng::from_str(document.text).map_err(|error| {
            let message = error.to_string();
            let line = error.location().map_or(1, |location| location.line());
            let message = message.split(" at line ").next().unwrap_or(&message);
            format!("line {}: {message}", document.line + line)
        })?;
        manifest.take(value, file);
    }
    Ok(manifest)
}

impl Manifest {
    fn take(&mut self, value: Value, file: &Arc<Path>) {
        let mut value = match value {
            Value::Null => return,
            Value::Object(map) => map,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                let object = Subject::File(file.clone());
                self.complain(object, file, "a document is not an object: ignored".into());
                return;
            }
        };
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text(value.get("apiVersion")), text(value.get("kind")));
        if let (
            ("v1", "List" | "ServiceList" | "NodeList")
            | ("discovery.k8s.io/v1", "EndpointSliceList"),
            Some(Value::Array(items)),
        ) = ((version.as_str(), kind.as_str()), value.get_mut("items"))
        {
            let item_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
            for mut item in std::mem::take(items) {
                if let (Some(kind), Some(item)) = (item_kind, item.as_object_mut()) {
                    // Items of a typed list need not repeat what they are.
                    let _kind = item.entry("kind").or_insert_with(|| kind.into());
                    let _version =
                        item.entry("apiVersion").or_insert_with(|| version.as_str().into());
                }
                self.take(item, file);
            }
            return;
        }
        let metadata = value.get("metadata");
        let namespace = text(metadata.and_then(|metadata| metadata.get("namespace")));
        let namespace = if namespace.is_empty() { "default".into() } else { namespace };
        let name = text(metadata.and_then(|metadata| metadata.get("name")));
        let name = ObjectName::new(namespace, name);
        let mut value = Value::Object(value);
        let (key, object) = match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => (
                Key::Service(name),
                typed(value)
                    .and_then(|o| convert::service(&o, Some(file)))
                    .map(|s| Object::Service(s.into())),
            ),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                set_defaults(&mut value);
                (
                    Key::Slice(name),
                    typed(value)
                        .and_then(|o| convert::slice(&o, Some(file)))
                        .map(|s| Object::Slice(s.into())),
                )
            }
            ("v1", "Node") if !name.name.is_empty() => {
                (Key::Node(name.name), typed(value).map(|o| Object::Node(convert::node(&o).into())))
            }
            _ => {
                let what = if kind.is_empty() { "object without kind" } else { &kind };
                let object = Subject::Document(format!("{what} {name}").into());
                self.complain(object, file, format!(
                    "apiVersion {version:?} kind {kind:?} is not known: only Service and Node (v1), EndpointSlice (discovery.k8s.io/v1) and List are read"
                ));
                return;
            }
        };
        match object {
            Ok(object) => self.objects.push(object),
            Err(why) => {
                let subject = Subject::Document(key.subject().to_string().into());
                self.complain(subject, file, why);
                self.invalid.push(key);
            }
        }
    }

    fn complain(&mut self, object: Subject, file: &Arc<Path>, reason: String) {
        self.problems.push(Problem {
            severity: Severity::Warning,
            object,
            file: Some(file.clone()),
            reason: Cow::Owned(reason),
        });
    }
}

fn typed<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, String> {
    serde_json::from_value(value)
        .map_err(|error| format!("not valid: {error}; what it was before stays"))
}

/// What the API server fills in where a manifest says nothing. What is written out as null stays.
fn set_defaults(slice: &mut Value) {
    let ports = slice.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        let _name = port.entry("name").or_insert(json!(""));
        let _protocol = port.entry("protocol").or_insert(json!("TCP"));
    }
}

/// One document of a YAML text.
#[derive(Debug, Eq, PartialEq)]
struct Document<'a> {
    /// Number of lines before it.
    line: usize,
    text: &'a str,
}

/// Splits at lines that begin with `---`: inside a document every line of a block is indented, so
/// such a line is always a border.
fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = vec![Document { line: 0, text: "" }];
    let (mut start, mut offset) = (0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let border = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if border {
            // What follows the dashes on their line belongs to the new document.
            documents.push(Document { line: number, text: "" });
            start = offset + 3;
        }
        offset += line.len();
        if let Some(last) = documents.last_mut() {
            last.text = &text[start..offset];
        }
    }
    documents.retain(|document| {
        document.text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'))
    });
    documents
}
