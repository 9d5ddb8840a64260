//! Decodes a `KubeProxyConfiguration`, strictly where that works and leniently where it does not:
//! an unknown or repeated field is a warning that names it, as in kube-proxy.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    kind::Kind,
    table::{SETTINGS, Setting},
};

/// The version of the file.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// What a file says.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Values by field.
    pub values: BTreeMap<&'static str, Value>,
    /// What is wrong with the file and does not matter.
    pub warnings: Vec<String>,
}

/// A file that cannot be used.
#[derive(Debug)]
pub struct FileError {
    /// The field; empty when it is the whole file.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub allowed: String,
}

/// Reads the text of a file.
///
/// # Errors
///
/// When it is no YAML, no `KubeProxyConfiguration`, or a field has a value that it cannot have.
pub fn decode(text: &str) -> Result<Decoded, FileError> {
    let whole = |problem: String| FileError {
        field: String::new(),
        value: String::new(),
        problem,
        allowed: format!("YAML or JSON with apiVersion {API_VERSION} and kind {KIND}"),
    };
    let tree: Tree = serde_yaml_ng::from_str(text).map_err(|error| whole(error.to_string()))?;
    let Tree::Map(fields) = tree else { return Err(whole("not a mapping".into())) };
    let says = |key: &str| {
        let value = fields.iter().rev().find(|(name, _)| name == key);
        value.and_then(|(_, tree)| if let Tree::Leaf(leaf) = tree { leaf.as_str() } else { None })
    };
    for (key, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match says(key) {
            Some(value) if value == expected => {}
            given => return Err(whole(format!("{key} is {given:?}"))),
        }
    }
    let mut decoded = Decoded::default();
    decoded.mapping("", fields)?;
    Ok(decoded)
}

impl Decoded {
    fn mapping(&mut self, path: &str, fields: Vec<(String, Tree)>) -> Result<(), FileError> {
        let mut seen: Vec<String> = Vec::new();
        for (name, tree) in fields {
            let field = if path.is_empty() { name } else { format!("{path}.{name}") };
            if seen.contains(&field) {
                self.warnings.push(format!("field {field:?} is there twice, the last one counts"));
            }
            let inside = format!("{field}.");
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.field == field) {
                self.leaf(setting, tree)?;
            } else if SETTINGS.iter().any(|setting| setting.field.starts_with(&inside)) {
                match tree {
                    Tree::Map(fields) => self.mapping(&field, fields)?,
                    Tree::Leaf(Value::Null) => {}
                    Tree::Leaf(_) | Tree::List(_) => {
                        return Err(FileError {
                            value: tree.value().to_string(),
                            field,
                            problem: "of the wrong kind".into(),
                            allowed: "a mapping".into(),
                        });
                    }
                }
            } else if !matches!(field.as_str(), "apiVersion" | "kind") {
                self.warnings.push(format!("unknown field {field:?}"));
            }
            seen.push(field);
        }
        Ok(())
    }

    fn leaf(&mut self, setting: &'static Setting, tree: Tree) -> Result<(), FileError> {
        let value = tree.value();
        // An empty text says nothing, whatever the field holds otherwise.
        let says_nothing = value.is_null()
            || (setting.kind.is_unset(&value) && !matches!(setting.kind, Kind::Number));
        if says_nothing {
            let _before = self.values.remove(setting.field);
            return Ok(());
        }
        if let Some(problem) = setting.kind.problem(&value) {
            return Err(FileError {
                field: setting.field.to_owned(),
                value: value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned),
                problem: problem.to_owned(),
                allowed: setting.kind.allowed(),
            });
        }
        let _before = self.values.insert(setting.field, value);
        Ok(())
    }
}

/// YAML as it is written: with fields that are there twice.
enum Tree {
    Leaf(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// As JSON; of what is there twice, the last one.
    fn value(self) -> Value {
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => items.into_iter().map(Self::value).collect(),
            Self::Map(fields) => {
                fields.into_iter().map(|(name, tree)| (name, tree.value())).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten)
    }
}

struct AsWritten;

impl<'de> Visitor<'de> for AsWritten {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            fields.push(entry);
        }
        Ok(Tree::Map(fields))
    }
}
