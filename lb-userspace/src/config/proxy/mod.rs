//! The settings of kube-proxy, out of its flags and its configuration file, with kube-proxy's rules:
//! a file makes the flags be ignored but for a few, and what is set without effect is said aloud.
//!
//! Pure: the text of the file is a parameter.

pub mod file;
pub mod kind;
pub mod table;

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Map, Value};

use self::{
    file::{API_VERSION, KIND},
    table::{Flag, SETTINGS, Setting, Treatment},
};
use super::ConfigError;

/// A configuration file.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// What it says.
    pub text: &'a str,
}

/// Flags as typed: each by its name without dashes, with all values that it was given.
pub type Flags = Vec<(&'static str, Vec<String>)>;

/// Something to tell the operator once there is a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Remark {
    /// Somebody should mend it.
    Warning(String),
    /// Good to know.
    Note(String),
}

/// The settings that were given.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, Value>,
    /// What is to be said about them.
    pub remarks: Vec<Remark>,
}

impl Settings {
    /// Merges flags and file.
    ///
    /// # Errors
    ///
    /// The first setting with a value that it cannot have, or that cannot be gone without.
    pub fn read(flags: &Flags, file: Option<File<'_>>) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        if let Some(file) = file {
            settings.file(file)?;
        }
        for (name, values) in flags {
            settings.flag(name, values, file.is_some())?;
        }
        settings.treat()?;
        settings.check()?;
        Ok(settings)
    }

    fn file(&mut self, File { path, text }: File<'_>) -> Result<(), ConfigError> {
        let path = path.display();
        let decoded = file::decode(text).map_err(|error| ConfigError {
            flag: if error.field.is_empty() {
                format!("--config {path}").into()
            } else {
                format!("{} in {path}", error.field).into()
            },
            value: error.value,
            problem: error.problem,
            allowed: error.allowed.into(),
        })?;
        let warnings = decoded.warnings.into_iter();
        self.remarks
            .extend(warnings.map(|warning| Remark::Warning(format!("--config {path}: {warning}"))));
        self.given = decoded.values;
        Ok(())
    }

    fn flag(&mut self, name: &str, values: &[String], beside: bool) -> Result<(), ConfigError> {
        let of_name = |setting: &&Setting| setting.flag.name() == Some(name);
        let Some(setting) = SETTINGS.iter().find(of_name) else { return Ok(()) };
        if beside && !setting.flag.beside_config() {
            self.remarks.push(Remark::Warning(match setting.field {
                "" => format!("--{name} is ignored, because --config is given"),
                field => format!("--{name} is ignored, because --config is given: {field} counts"),
            }));
            return Ok(());
        }
        let text = if setting.kind.adds_up() {
            values.join(",")
        } else {
            values.last().cloned().unwrap_or_default()
        };
        let value = setting.kind.typed(&text);
        let problem = match &value {
            Some(value) if setting.kind.is_unset(value) => None,
            Some(value) => setting.kind.problem(value),
            None => Some("of the wrong kind"),
        };
        if let Some(problem) = problem {
            return Err(error(setting, &text, problem, setting.kind.allowed()));
        }
        // An empty address says that nothing is to be served, which is not the default.
        let says_nothing = |value: &Value| {
            setting.kind.is_unset(value) && !matches!(setting.kind, kind::Kind::Served)
        };
        match value {
            Some(value) if !says_nothing(&value) => {
                let _before = self.given.insert(setting.key(), value);
            }
            _ => {
                let _before = self.given.remove(setting.key());
            }
        }
        Ok(())
    }

    /// Says what is set without effect.
    fn treat(&mut self) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            let Some(value) = self.given.get(setting.key()) else { continue };
            if setting.kind.is_unset(value) || Some(value) == default(setting).as_ref() {
                continue;
            }
            match setting.treatment {
                Treatment::Honoured => {}
                Treatment::Ignored => {
                    let Setting { note, .. } = setting;
                    let text = format!("{} {value} changes nothing: {note}", setting.key());
                    self.remarks.push(Remark::Note(text));
                }
                Treatment::Refused => {
                    let allowed = format!("{}, or not set", setting.default);
                    let problem = format!("not supported: {}", setting.note);
                    return Err(error(setting, &value.to_string(), &problem, allowed));
                }
            }
        }
        Ok(())
    }

    /// What settings say about each other.
    fn check(&self) -> Result<(), ConfigError> {
        for (sync, min) in [
            ("iptables.syncPeriod", "iptables.minSyncPeriod"),
            ("nftables.syncPeriod", "nftables.minSyncPeriod"),
            ("ipvs.syncPeriod", "ipvs.minSyncPeriod"),
        ] {
            let [Some(sync_setting), Some(min_setting)] = [sync, min].map(table::find) else {
                continue;
            };
            let given = self.given.contains_key(sync) || self.given.contains_key(min);
            let of = |setting: &Setting| {
                let value = self.given.get(setting.key()).cloned().or_else(|| default(setting));
                value.and_then(|value| kind::time(&value)).unwrap_or_default()
            };
            let (sync_time, min_time) = (of(sync_setting), of(min_setting));
            if given && min_time > sync_time {
                let problem = format!("longer than {sync}, which is {sync_time:?}");
                let value = format!("{min_time:?}");
                return Err(error(min_setting, &value, &problem, format!("up to {sync_time:?}")));
            }
        }
        for (mode, needs) in [
            ("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix"),
            ("BridgeInterface", "detectLocal.bridgeInterface"),
        ] {
            if self.text("detectLocalMode") == Some(mode)
                && self.text(needs).is_none()
                && let Some(setting) = table::find(needs)
            {
                let problem = format!("missing, and detectLocalMode is {mode}");
                return Err(error(setting, "", &problem, "part of a device's name".into()));
            }
        }
        Ok(())
    }

    /// The text of a setting, when it was given.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.given.get(key).and_then(Value::as_str)
    }

    /// Whether a setting is true, when it was given.
    pub fn switch(&self, key: &str) -> Option<bool> {
        self.given.get(key).and_then(Value::as_bool)
    }

    /// The number of a setting, when it was given.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.given.get(key).and_then(Value::as_i64)
    }

    /// The time of a setting, when it was given and is not zero.
    pub fn time(&self, key: &str) -> Option<Duration> {
        self.given.get(key).and_then(kind::time).filter(|time| !time.is_zero())
    }

    /// The words of a setting; none when it was not given.
    pub fn words(&self, key: &str) -> Vec<String> {
        let items = self.given.get(key).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(ToOwned::to_owned))
            .collect()
    }

    /// The features of a setting that were switched, in the order of their names.
    pub fn gates(&self, key: &str) -> Vec<(&str, bool)> {
        let gates = self.given.get(key).and_then(Value::as_object);
        gates
            .into_iter()
            .flatten()
            .filter_map(|(name, on)| Some((name.as_str(), on.as_bool()?)))
            .collect()
    }

    /// How long a change may wait, before it is doubled.
    pub fn sync_period(&self) -> Duration {
        let key = match self.text("mode") {
            Some("nftables") => "nftables.syncPeriod",
            Some("ipvs") => "ipvs.syncPeriod",
            _ => "iptables.syncPeriod",
        };
        self.time(key).unwrap_or(Duration::from_secs(30))
    }

    /// The configuration in effect, as a file would have it.
    pub fn document(&self) -> Value {
        let mut document = Map::new();
        let _new = document.insert("apiVersion".into(), API_VERSION.into());
        let _new = document.insert("kind".into(), KIND.into());
        for setting in SETTINGS.iter().filter(|setting| !setting.field.is_empty()) {
            let value = self.given.get(setting.field).cloned().or_else(|| default(setting));
            put(&mut document, setting.field, value.unwrap_or_default());
        }
        Value::Object(document)
    }
}

fn put(document: &mut Map<String, Value>, field: &str, value: Value) {
    match field.split_once('.') {
        None => {
            let _before = document.insert(field.into(), value);
        }
        Some((outer, inner)) => {
            let entry = document.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = entry {
                put(nested, inner, value);
            }
        }
    }
}

/// The value of a setting that was not given.
fn default(setting: &Setting) -> Option<Value> {
    setting.kind.typed(setting.default)
}

fn error(setting: &Setting, value: &str, problem: &str, allowed: String) -> ConfigError {
    let flag = match (setting.field, setting.flag) {
        (field, Flag::None) => field.to_owned(),
        ("", flag) => format!("--{}", flag.name().unwrap_or_default()),
        (field, flag) => format!("{field} (--{})", flag.name().unwrap_or_default()),
    };
    ConfigError {
        flag: flag.into(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        allowed: allowed.into(),
    }
}

#[cfg(test)]
mod tests;
